"""HTTP: forms into requests, transcripts into responses."""
