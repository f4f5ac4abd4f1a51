"""Speech to transcripts behind OpenAI's audio API."""

from importlib.metadata import version

__version__ = version("whisperx-api-server")
