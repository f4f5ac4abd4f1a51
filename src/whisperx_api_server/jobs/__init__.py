"""Runs that requests share, the jobs that outlive a connection, and which of them are admitted."""
