"""Batches that all requests share, the threads that compute them, and the loaded models."""
