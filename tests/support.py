"""What the tests share: where the fixtures lie, and how texts are compared."""

from __future__ import annotations

import re
from pathlib import Path

FIXTURES = Path(__file__).parent / "fixtures"
WHISPER = FIXTURES / "models" / "whisper"
ALIGNER = FIXTURES / "models" / "aligner"
PARAKEET = FIXTURES / "models" / "parakeet.nemo"


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation, apostrophes and hyphens kept inside words."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """(word errors, reference words): the Levenshtein distance over words."""
    wanted, got = words_of(reference), words_of(hypothesis)
    row = list(range(len(got) + 1))
    for i, expected in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, word in enumerate(got, 1):
            previous, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, previous + (expected != word)),
            )
    return row[-1], len(wanted)
