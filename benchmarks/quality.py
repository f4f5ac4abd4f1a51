"""`make quality`: word errors, word times and speakers on real speech; writes docs/quality.md.

Needs the recordings of `../shared/real`. Digits count as the words that they are read as. The exit
status is 1 if the server makes more errors than faster-whisper's sequential mode: over all speech
by more than ALLOWED (0.3) percentage points, or in a language beyond chance; or if its diarization
error rate (DER) over the meetings is above MAX_DER.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .common import REPOSITORY, TESTS, machine

if TYPE_CHECKING:
    from diarization_quality import SpeakerErrors
    from real_speech import Recording
    from word_quality import Comparison, TimeDifferences

T = TypeVar("T")

PAGE = REPOSITORY / "docs" / "quality.md"

PACKAGES = ("onnxruntime", "numpy", "scipy")

MAX_DER = 0.30
"""pyannote's pipeline with segmentation-3.0 and GE2E has 0.324."""

TIMED_PER_LANGUAGE = 2
"""Recordings of each language whose word times are compared."""


def main() -> int:
    """Run, write the page and print it; 1 if the server is worse than allowed."""
    sys.path.insert(0, str(TESTS))
    from diarization_quality import total
    from real_speech import FOLDER, folder
    from server import Server, base_settings
    from word_quality import compare, compare_times, engines, unpacked_base

    allowed = float(os.environ.get("ALLOWED", "0.3"))
    clips = [clip for clip in folder().values() if clip.kind in ("speech", "numbers") and clip.text]
    if not clips:
        print(f"there are no recordings in {FOLDER}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="quality-") as name:
        directory = Path(name)
        with Server(directory, base_settings(directory)) as server:
            weights = unpacked_base(server)
            compared = _followed("words", len(clips), compare(server, engines(weights), clips))
            timed = _first_of_each_language(clips)
            times = _followed("word times", len(timed), compare_times(server, weights, timed))
        speakers, absent = _measured_speakers(directory)
    page = _page(compared, times, speakers, absent)
    PAGE.write_text(page, encoding="utf-8")
    print(page)
    ours = total(next(iter(speakers.values())))
    return 1 if _is_worse(compared, allowed) or ours.parts[0] > MAX_DER * ours.speech else 0


def _followed(name: str, count: int, results: Iterable[T]) -> list[T]:
    """All results; prints how many there are after each, and the seconds since the first began."""
    begun = time.monotonic()
    found = []
    for result in results:
        found.append(result)
        print(f"{name}: {len(found)} of {count}, {time.monotonic() - begun:.0f} s", flush=True)
    return found


def _measured_speakers(
    directory: Path,
) -> tuple[dict[str, list[SpeakerErrors]], dict[str, str]]:
    """The errors of each diarizer, and why others were not measured."""
    from diarization_quality import diarizers, measure_meetings, meetings

    speakers: dict[str, list[SpeakerErrors]] = {}
    absent: dict[str, str] = {}
    for name, found in diarizers(directory):
        if isinstance(found, str):
            absent[name] = found
        else:
            speakers[name] = _followed(name, len(meetings()), measure_meetings(found))
    return speakers, absent


def _is_worse(compared: Sequence[Comparison], allowed: float) -> bool:
    """Whether the server is worse over all speech than allowed, or in a language beyond chance."""
    from word_quality import difference

    over_all, *_ = difference([each for each in compared if each.recording.kind == "speech"])
    languages = {each.recording.language for each in compared}
    return over_all > allowed or any(
        difference([each for each in compared if each.recording.language == language])[1] > 0
        for language in languages
    )


def _first_of_each_language(clips: Sequence[Recording]) -> list[Recording]:
    speech = [clip for clip in clips if clip.kind == "speech"]
    return [
        clip
        for language in sorted({clip.language for clip in speech})
        for clip in [each for each in speech if each.language == language][:TIMED_PER_LANGUAGE]
    ]


def _page(
    compared: Sequence[Comparison],
    times: Sequence[TimeDifferences],
    speakers: Mapping[str, Sequence[SpeakerErrors]],
    absent: Mapping[str, str],
) -> str:
    from word_quality import DELAYS, FEW_TOKENS

    where = ", ".join(f"{name} {value}" for name, value in machine().items())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    not_measured = "".join(f"\n\n{name} was not measured: {why}." for name, why in absent.items())
    return f"""# Quality

Written by `make quality` on {datetime.now(UTC):%Y-%m-%d}: Whisper `base` in int8 and the diarizer
`onnx`, as `make serve` starts them, on the recordings of `../shared/real`.

Machine and packages: {where}, {versions}.

## Words

Word error rate (WER) in percent; characters in Chinese, Japanese and Korean. All engines have the
same weights, int8 and beam 5; faster-whisper in its sequential mode, WhisperX with pyannote's voice
activity detection. A language with fewer than {FEW_TOKENS}
tokens is transcribed once with each of {", ".join(map(str, DELAYS))} ms of silence before its
recordings, and its errors are the mean, because such a delay changes single words
([decision](decisions/small-sets-of-speech.md)). The difference from faster-whisper has its 95 %
interval (paired bootstrap over recordings); if that contains 0, neither is better on these
recordings.

{_words(compared)}

## Word times

Words that the server and faster-whisper (`word_timestamps=True`) both heard, and those whose start
or end differs by more than 0.3 s. Neither is the truth.

{_times(times)}

## Speakers

Diarization error rate over all speech, overlaps included, without collar, in percent of the speech.

{_speakers(speakers)}{not_measured}

By recording, this server:

{_meetings(next(iter(speakers.values())))}
"""


def _words(compared: Sequence[Comparison]) -> str:
    """One row for each language and kind, and one for all."""
    from real_speech import error_rate
    from word_quality import difference

    others = tuple(compared[0].others)

    def row(label: str, members: Iterable[Comparison]) -> list[object]:
        chosen = list(members)
        right = sum(each.language_right for each in chosen)
        return [
            label,
            len(chosen),
            sum(each.ours[1] for each in chosen),
            f"{error_rate(each.ours for each in chosen):.1f}",
            *(f"{error_rate(each.others[name] for each in chosen):.1f}" for name in others),
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*difference(chosen)),
            f"{right}/{len(chosen)}",
        ]

    rows = [
        row(key, (each for each in compared if getattr(each.recording, field) == key))
        for field in ("language", "kind")
        for key in sorted({getattr(each.recording, field) for each in compared})
    ]
    header = ["", "recordings", "tokens", "WER", *others, "difference", "language right"]
    return _table(header, [*rows, row("all", compared)])


def _times(times: Sequence[TimeDifferences]) -> str:
    rows: list[list[object]] = [
        [language, sum(each.words for each in chosen), sum(each.apart for each in chosen)]
        for language in sorted({each.language for each in times})
        for chosen in [[each for each in times if each.language == language]]
    ]
    rows.append(["all", sum(each.words for each in times), sum(each.apart for each in times)])
    return _table(["", "words", "more than 0.3 s apart"], rows)


PARTS = ("DER", "missed", "false alarm", "confusion")


def _speakers(speakers: Mapping[str, Sequence[SpeakerErrors]]) -> str:
    """One row for each diarizer."""
    from diarization_quality import total

    rows = [[name, *_percent(total(measured))] for name, measured in speakers.items()]
    return _table(["", *PARTS], rows)


def _meetings(measured: Sequence[SpeakerErrors]) -> str:
    """One row for each recording."""
    return _table(["", *PARTS], [[each.name, *_percent(each)] for each in measured])


def _percent(errors: SpeakerErrors) -> list[str]:
    return [f"{100 * part / errors.speech:.1f}" for part in errors.parts]


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
