"""Live transcription: OpenAI's realtime transcription session, without HTTP."""
