"""Fixtures for all tests."""

from __future__ import annotations

import pytest

from fixtures.speech.speech import Speech
from support import FIXTURES


@pytest.fixture(scope="session")
def speech() -> Speech:
    """Ground-truth speech: `speech.random("en-adam", 6, seed=1)` has audio, text and words."""
    return Speech(FIXTURES / "speech")
