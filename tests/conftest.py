"""Fixtures for all tests."""

from __future__ import annotations

import pytest
from hypothesis import settings

from fixtures.speech.speech import Speech
from support import FIXTURES

settings.register_profile("untimed", deadline=None)  # a busy machine fails no example
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def speech() -> Speech:
    """Ground-truth speech: `speech.random("en-adam", 6, seed=1)` has audio, text and words."""
    return Speech(FIXTURES / "speech")
