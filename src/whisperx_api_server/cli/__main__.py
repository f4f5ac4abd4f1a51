"""`python -m whisperx_api_server.cli`."""

from . import app

app()
