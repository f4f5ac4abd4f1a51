"""The language of windows if the request names none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from live import until
from pipeline_world import Transcriber, World, play, sentences
from whisperx_api_server.backends.fake import hear
from whisperx_api_server.domain import AlignMode, DecodeOptions, Window, WindowTranscript
from whisperx_api_server.pipeline.events import Event, WindowDone
from whisperx_api_server.pipeline.runner import Checkpoint

DAY = 14
"""The place in the vocabulary of a word whose language is unclear."""


class Unclear(Transcriber):
    """Detects German with a probability of 0.4 in windows with a day in them."""

    def transcribe(
        self,
        windows: Sequence[Window],
        options: Sequence[DecodeOptions],
        features: Sequence[object | None],
    ) -> list[WindowTranscript]:
        unclear = [
            option.language is None and any(word.word == DAY for word in hear(window.samples))
            for window, option in zip(windows, options, strict=True)
        ]
        forced = [
            replace(option, language="de") if each else option
            for each, option in zip(unclear, options, strict=True)
        ]
        answers = super().transcribe(windows, forced, features)
        return [
            replace(answer, language_probability=0.4) if each else answer
            for each, answer in zip(unclear, answers, strict=True)
        ]


ENGLISH = sentences("day night", "red door", "open tree", "day water")
FRENCH = sentences("rouge porte", "jour nuit", "ouvre arbre", "trouve eau", language="fr")
HEARD = (
    "day night. red door. open tree. day water. rouge porte. jour nuit. ouvre arbre. trouve eau."
)


def test_an_unclear_window_is_decoded_again_in_its_neighbours_language() -> None:
    """Also the first one, and also where the recording begins in another language."""

    async def scene(world: World) -> None:
        world.engines["transcription"] = Unclear
        world.clips.recordings = {"both": np.concatenate([ENGLISH, FRENCH])}
        transcript = await world.run(world.request("both"))
        assert transcript.text == HEARD
        assert set(transcript.languages) == {"en", "fr"}
        assert len(world.hold.decoded) == 8 + 3
        assert world.hold.calls.count("load alignment") == 2

    play(scene)


def test_a_window_with_a_clear_language_is_decoded_once() -> None:
    async def scene(world: World) -> None:
        world.engines["transcription"] = Unclear
        await world.text("english", align=AlignMode.OFF)
        assert len(world.hold.decoded) == 12

    play(scene)


def test_windows_that_are_all_unclear_keep_their_language() -> None:
    async def scene(world: World) -> None:
        world.engines["transcription"] = Unclear
        world.clips.recordings = {"unclear": sentences(*["day night"] * 5)}
        assert await world.text("unclear") == " ".join(["tag nacht."] * 5)
        assert len(world.hold.decoded) == 5

    play(scene)


def test_windows_of_an_earlier_run_vote_in_a_resumed_one() -> None:
    async def scene(world: World) -> None:
        world.engines["transcription"] = Unclear
        world.clips.recordings = {"both": np.concatenate([ENGLISH, FRENCH])}
        checkpoint = Checkpoint()
        whole = await world.run(world.request("both"), checkpoint=checkpoint)
        del checkpoint.windows[0], checkpoint.windows[5]
        world.hold.decoded.clear()
        assert await world.run(world.request("both"), checkpoint=checkpoint) == whole
        assert len(world.hold.decoded) == 2 * 2

    play(scene)


def test_an_unclear_window_holds_a_stream_up_for_few_windows() -> None:
    """The first window is unclear; it is decoded again before the rest of the recording."""
    decoded: list[int] = []

    class Held(Unclear):
        def transcribe(
            self,
            windows: Sequence[Window],
            options: Sequence[DecodeOptions],
            features: Sequence[object | None],
        ) -> list[WindowTranscript]:
            decoded.extend(window.index for window in windows)
            if len(decoded) == 5:
                self._hold("fifth")
            return super().transcribe(windows, options, features)

    texts: list[str] = []

    async def emit(event: Event) -> None:
        if isinstance(event, WindowDone):
            texts.append(event.transcript.segments[0].text)

    async def scene(world: World) -> None:
        def waiting() -> int:
            statuses = world.pool.statuses()
            return sum(each.waiting for each in statuses if each.key.stage == "transcription")

        world.engines["transcription"] = Held
        world.clips.recordings = {"long": sentences("day night", *["red door"] * 20)}
        world.hold.stage = "fifth"
        request = world.request("long", batch_size=1, align=AlignMode.OFF)
        running = asyncio.create_task(world.run(request, emit))
        # All but five of 21 windows and of the second decoding, which may be the fifth already.
        await until(lambda: world.hold.entered.is_set() and waiting() == 17)
        world.hold.go.set()
        await running
        assert decoded.index(0, 1) <= 5
        assert sorted(decoded) == [0, *range(21)]
        assert texts == ["day night.", *["red door."] * 20]

    play(scene)
