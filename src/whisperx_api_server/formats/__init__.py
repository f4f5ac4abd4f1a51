"""A transcript as text: every output format, and the JSON of each API."""
