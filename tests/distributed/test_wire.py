"""What is sent between machines arrives as it was."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisperx_api_server.answers.server import LoadedModel
from whisperx_api_server.distributed.stored import (
    RUN_EVENT,
    STORED_REQUEST,
    End,
    RunEvent,
    StoredRequest,
    dump_checkpoint,
    dump_end,
    end_of_failure,
    load_checkpoint,
    load_end,
    memory_name,
    pack,
)
from whisperx_api_server.distributed.topics import QueueChoice
from whisperx_api_server.distributed.wire import (
    CONTROL,
    HEARTBEAT,
    NOTICE,
    TASK,
    Cancelled,
    Control,
    Heartbeat,
    ModelOrder,
    Notice,
    OrderDone,
    Taken,
    Task,
    Withdrawn,
)
from whisperx_api_server.domain import (
    DecodeOptions,
    Diarization,
    DiarizeOptions,
    KnownSpeaker,
    RemoteUrl,
    Segment,
    SpeakerTurn,
    TokenLogprob,
    Transcript,
    TranscriptionRequest,
    Upload,
    VadOptions,
    WindowTranscript,
    Word,
)
from whisperx_api_server.errors import InvalidAudio, Overloaded, ServiceError, TranscriptionFailed
from whisperx_api_server.pipeline.events import Opened, SegmentsLabelled, StageBegan, WindowDone
from whisperx_api_server.text_service import TextRequest

texts = st.text(max_size=5)
reals = st.floats(allow_nan=False)
optional = st.none() | texts
words = st.builds(
    Word,
    text=texts,
    start=reals,
    end=reals,
    score=st.none() | reals,
    speaker=optional,
    tokens=st.tuples(st.integers(0, 60000)),
)
logprobs = st.builds(TokenLogprob, token=texts, logprob=reals, bytes=st.tuples(st.integers(0, 255)))
segments = st.builds(
    Segment,
    start=reals,
    end=reals,
    text=texts,
    language=optional,
    words=st.none() | st.lists(words, max_size=2).map(tuple),
    speaker=optional,
    avg_logprob=reals,
    logprobs=st.lists(logprobs, max_size=2).map(tuple),
)
segment_lists = st.lists(segments, max_size=2).map(tuple)
windows = st.builds(
    WindowTranscript,
    window_index=st.integers(0, 9),
    language=texts,
    language_probability=reals,
    segments=segment_lists,
    warnings=st.lists(texts, max_size=2).map(tuple),
)
vectors = st.dictionaries(texts, st.lists(reals, max_size=3).map(tuple), max_size=2)
turns = st.lists(st.builds(SpeakerTurn, start=reals, end=reals, speaker=texts), max_size=2)
diarizations = st.builds(
    Diarization, turns=turns.map(tuple), exclusive=turns.map(tuple), embeddings=vectors
)
transcripts = st.builds(
    Transcript,
    task=st.just("translate"),
    language=texts,
    languages=st.lists(texts, max_size=2).map(tuple),
    duration=reals,
    segments=segment_lists,
    speaker_embeddings=vectors,
    warnings=st.lists(texts, max_size=2).map(tuple),
)
events = st.one_of(
    st.builds(StageBegan, stage=st.sampled_from(["open", "transcribe"]), at=reals),
    st.builds(Opened, duration=reals),
    st.builds(WindowDone, transcript=windows, until=reals),
    st.builds(SegmentsLabelled, segments=segment_lists),
)

MODEL: LoadedModel = {
    "model": "base",
    "backend": "whisperx",
    "device": "cpu",
    "state": "ready",
    "requests": 1,
    "waiting": 0,
    "memory_bytes": 5,
}

REQUEST = TranscriptionRequest(
    id="a" * 32,
    source=Upload(id="f" * 32, filename="talk.mp3", size=7, digest="d1"),
    model="base",
    client="ann",
    decode=DecodeOptions(prompt="a prompt", languages=("en", "fr"), temperature=0.2),
    diarize=DiarizeOptions(
        known_speakers=(KnownSpeaker(name="Bob", reference=Upload(id="e" * 32, digest="d2")),)
    ),
    vad=VadOptions(threshold=0.4),
    chunk_size=12.5,
    watched=True,
    waits=True,
)


@settings(max_examples=25)
@given(events)
def test_events_arrive_as_they_were(event: StageBegan | Opened | WindowDone) -> None:
    sent = RunEvent(place=3, event=event)
    assert RUN_EVENT.load(RUN_EVENT.dump(sent)) == sent


@settings(max_examples=25)
@given(transcripts | diarizations | st.dictionaries(texts, reals, max_size=3) | texts)
def test_results_arrive_as_they_were(
    result: Transcript | Diarization | dict[str, float] | str,
) -> None:
    assert load_end(dump_end(End(result=result))).unwrap() == result


@settings(max_examples=25)
@given(st.lists(windows, max_size=3, unique_by=lambda each: each.window_index), diarizations)
def test_a_checkpoint_is_the_sum_of_its_parts(
    done: list[WindowTranscript], diarization: Diarization
) -> None:
    parts = [dump_checkpoint([each], None) for each in done]
    loaded = load_checkpoint([*parts, dump_checkpoint([], diarization)])
    assert loaded.windows == {each.window_index: each for each in done}
    assert loaded.diarization == diarization


def test_infinite_numbers_are_transmitted() -> None:
    window = WindowTranscript(
        window_index=0, language="en", language_probability=math.inf, segments=()
    )
    sent = RunEvent(place=0, event=WindowDone(transcript=window, until=-math.inf))
    assert RUN_EVENT.load(RUN_EVENT.dump(sent)) == sent


@pytest.mark.parametrize(
    "error",
    [
        InvalidAudio("not audio", param="file"),
        Overloaded("full", retry_after=3.5),
        TranscriptionFailed("it failed"),
    ],
)
def test_errors_arrive_in_their_class(error: ServiceError) -> None:
    with pytest.raises(type(error)) as raised:
        load_end(dump_end(end_of_failure(error))).unwrap()
    assert raised.value.failure() == error.failure()


@pytest.mark.parametrize(
    "message",
    [
        Taken(run="r", worker="w"),
        Cancelled(run="r"),
        Withdrawn(job="j"),
        ModelOrder(order="o", action="load", stage="alignment", model="m", language="fr"),
        OrderDone(order="o", worker="w", failure=Overloaded("full").failure()),
    ],
)
def test_control_messages_arrive_as_they_were(message: Control) -> None:
    assert CONTROL.load(CONTROL.dump(message)) == message


def test_heartbeats_tasks_and_notices_arrive_as_they_were() -> None:
    beat = Heartbeat(
        member="m", role="worker", at=1.5, runs=2, seconds=60.0, models={"transcription": [MODEL]}
    )
    assert HEARTBEAT.load(HEARTBEAT.dump(beat)) == beat
    task = Task(run="r", kind="diarize")
    assert TASK.load(TASK.dump(task)) == task
    notice = Notice(run="r", attempt="a", parts=2)
    assert NOTICE.load(NOTICE.dump(notice)) == notice


def test_requests_arrive_as_they_were() -> None:
    for request in (REQUEST, replace(REQUEST, source=RemoteUrl(url="https://host/a.mp3"))):
        stored = StoredRequest(request=request, replica="m", memory="n")
        loaded = STORED_REQUEST.load(STORED_REQUEST.dump(stored))
        assert loaded == stored
        assert isinstance(loaded.request, TranscriptionRequest)
        # equality of requests leaves these out
        assert (loaded.request.watched, loaded.request.waits) == (True, True)
        assert [each.id for each in loaded.request.uploads] == [each.id for each in request.uploads]


def test_texts_arrive_as_they_were() -> None:
    request = TextRequest(
        id="r", client="ann", text="a\nb", config={"max_tokens": 5}, schema={"type": "object"}
    )
    stored = StoredRequest(request=request, replica="m", memory="r")
    assert STORED_REQUEST.load(STORED_REQUEST.dump(stored)) == stored


def test_a_newer_version_may_add_fields() -> None:
    assert TASK.load(b'{"run": "r", "kind": "transcribe", "new": 1}').run == "r"


def test_uploads_are_named_by_their_objects() -> None:
    packed = pack(REQUEST)
    assert [each.id for each in packed.request.uploads] == [
        f"runs/{REQUEST.id}/audio/0",
        f"runs/{REQUEST.id}/audio/1",
    ]
    assert list(packed.uploads.values()) == list(REQUEST.uploads)
    assert [packed.uploads[each.id].id for each in packed.request.uploads] == ["f" * 32, "e" * 32]


def test_parts_of_a_checkpoint_of_another_version_are_left_out() -> None:
    window = WindowTranscript(window_index=3, segments=(), language="en", language_probability=1.0)
    good = dump_checkpoint([window], None)
    wrong = [b"", b'{"diarization": 1}', good.replace(b'"window_index"', b'"window"')]
    assert load_checkpoint([*wrong, good]).windows == {3: window}
    assert load_checkpoint(wrong).windows == {}


def test_equal_requests_share_a_checkpoint() -> None:
    again = replace(
        REQUEST,
        id="b" * 32,
        source=Upload(id="c" * 32, filename="other.mp3", digest="d1"),
        watched=False,
    )
    name = memory_name(REQUEST, "transcribe")
    assert memory_name(again, "transcribe") == name
    assert memory_name(pack(again).request, "transcribe") == name
    assert memory_name(replace(again, client="bob"), "transcribe") != name
    assert memory_name(replace(again, model="large"), "transcribe") != name


def test_a_url_shares_nothing() -> None:
    request = replace(REQUEST, source=RemoteUrl(url="https://host/a.mp3"))
    assert memory_name(request, "transcribe") == request.id


def chosen(choice: QueueChoice, client: str, waits: bool = True) -> int:
    with choice.of(client, waits) as number:
        return number


def test_clients_are_spread_among_all_queues() -> None:
    choice = QueueChoice(8)
    clients = [f"client {i}" for i in range(40)]
    numbers = {chosen(choice, client, waits) for client in clients for waits in (True, False)}
    assert numbers == set(range(8))
    assert chosen(choice, "ann") == chosen(choice, "ann")


@pytest.mark.parametrize("queues", [2, 8])
def test_no_client_queues_behind_the_flood_of_another(queues: int) -> None:
    choice = QueueChoice(queues)
    with ExitStack() as flood:
        flooded = {flood.enter_context(choice.of("ann", waits=True)) for _ in range(20)}
        assert len(flooded) == 1
        assert not flooded & {chosen(choice, f"client {i}") for i in range(40)}


def test_a_flood_leaves_the_queue_of_another_client() -> None:
    choice = QueueChoice(8)
    first = chosen(choice, "ann")
    other = next(name for name in map(str, range(99)) if chosen(choice, name) == first)
    with choice.of(other, waits=True):
        assert chosen(choice, "ann") != first
    assert chosen(choice, "ann") == first


def test_one_queue_is_enough() -> None:
    assert chosen(QueueChoice(1), "ann") == 0


def test_an_error_of_a_message_has_none_of_its_text() -> None:
    with pytest.raises(ValueError, match=r"^run: ") as error:
        TASK.load(b'{"run": ["spoken words"], "kind": "transcribe"}')
    assert "spoken" not in str(error.value)
    assert error.value.__cause__ is None
