"""`BACKENDS__ALIGNMENT=none`: no forced alignment, words have the transcriber's own times.

A backend for alignment without `load_aligner` has no align model for any language.
"""
