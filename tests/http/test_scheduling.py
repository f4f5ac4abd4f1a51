"""Many clients at once, over HTTP: who shares batches, who waits, who leaves, and what fails."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from openai import DefaultHttpxClient, OpenAI

from fixtures.speech.speech import Speech
from live import PATH, Client
from plugins import unruly_backend
from server import Server, real_settings
from support import ALIGNER, PATIENCE, WHISPER, eventually, wav
from whisperx_api_server.backends.fake import say, silence


def windows_of(words: str, count: int) -> bytes:
    """As many windows as there are repetitions: two do not fit into the 5 s of one."""
    return wav(np.tile(np.concatenate([say(words), silence(5)]), count))


def clip(words: str) -> bytes:
    return wav(np.concatenate([say(words), silence(0.5)]))


@contextmanager
def serving(directory: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    """A server that leaves no file and no surprise behind, whatever its clients did."""
    with Server(directory, settings) as server:
        yield server
    assert server.temp_files() == []
    assert "unexpected failure" not in server.log


@dataclass(kw_only=True)
class Unruly:
    """A server on the third-party backend of `plugins.unruly_backend`, whose batches it holds."""

    server: Server
    directory: Path

    @property
    def gate(self) -> Path:
        return self.directory / "gate"

    def events(self) -> list[dict[str, Any]]:
        log = self.directory / "batches.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def batches(self) -> list[list[str]]:
        return [event["batch"] for event in self.events() if "batch" in event]

    def hold(self) -> None:
        """From now on no batch ends; the next one is begun."""
        self.gate.touch()

    def let_go(self) -> None:
        self.gate.unlink(missing_ok=True)

    @contextmanager
    def clients(self, count: int) -> Iterator[ThreadPoolExecutor]:
        """Threads to send from; they end, for nothing is held any more when this is left."""
        with ThreadPoolExecutor(count) as pool:
            try:
                yield pool
            finally:
                self.let_go()

    def queue(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.server.info()["queue"]
        return answer

    def waiting(self, *also: str) -> int:
        """How many windows wait for the transcriber; with "in_flight", or are in its batch."""
        lanes = [lane for lane in self.queue()["lanes"] if lane["stage"] == "transcription"]
        return sum(lane[count] for lane in lanes for count in ("waiting", *also))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts an unruly server with settings; it must end clean."""
    stack: list[Any] = []

    def begin(**settings: str) -> Unruly:
        directory = tmp_path / f"plugin{len(stack)}"
        env = dict(unruly_backend.install(directory)) | settings
        context = serving(tmp_path / f"server{len(stack)}", env)
        stack.append((context, directory))
        return Unruly(server=context.__enter__(), directory=directory)

    yield begin
    for context, directory in stack:
        (directory / "gate").unlink(missing_ok=True)
        context.__exit__(None, None, None)


@pytest.fixture(scope="module")
def unruly(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unruly]:
    directory = tmp_path_factory.mktemp("unruly") / "plugin"
    keys = directory.parent / "keys.json"
    keys.write_text(json.dumps({"key-a": "a", "key-b": "b"}))
    env = dict(unruly_backend.install(directory)) | {
        "API_KEYS_FILE": str(keys),
        "WHISPER__BATCH_SIZE": "2",
    }
    with serving(directory.parent / "server", env) as server:
        server.http.headers["authorization"] = "Bearer key-a"
        found = Unruly(server=server, directory=directory)
        yield found
        found.let_go()


@pytest.fixture
def held(unruly: Unruly) -> Iterator[Unruly]:
    """Its transcriber is inside a batch that does not end until it is let go."""
    with unruly.clients(1) as pool:
        unruly.hold()
        before = len(unruly.batches())
        blocker = pool.submit(unruly.server.transcribe, clip("day"))
        try:
            eventually(lambda: len(unruly.batches()) > before)
            yield unruly
        finally:
            unruly.let_go()
        assert blocker.result(PATIENCE).json()["text"] == "day."


# -- sharing --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The fixture models in small batches; equal uploads are computed each for itself."""
    settings = real_settings(WHISPER, ALIGNER) | {
        "WHISPER__BATCH_SIZE": "4",
        "JOBS__RETRY_WINDOW": "0",
    }
    with serving(tmp_path_factory.mktemp("scheduling"), settings) as server:
        yield server


def test_thirty_at_once_get_what_they_get_alone(real: Server, speech: Speech) -> None:
    asked: list[tuple[str, str, dict[str, str]]] = [
        ("en-adam", PATH, {}),
        ("en-beth", PATH, {"language": "en"}),
        ("en-carl", PATH, {"prompt": "Thanks"}),
        ("en-adam", PATH, {"prompt": "open the red door", "language": "en"}),
        ("fr-alain", PATH, {}),
        ("fr-berthe", PATH, {"language": "fr"}),
        ("fr-claude", PATH, {"prompt": "merci"}),
        ("fr-alain", "/v1/audio/translations", {}),
        ("fr-berthe", "/v1/audio/translations", {"prompt": "Thanks"}),
        ("en-beth", PATH, {"temperature": "0.2"}),
    ]
    requests = [
        (wav(speech.random(speaker, 5 + seed % 3, seed=seed).audio), path, fields)
        for seed, (speaker, path, fields) in enumerate(asked)
    ]

    def send(request: tuple[bytes, str, dict[str, str]]) -> dict[str, Any]:
        audio, path, fields = request
        answer = real.transcribe(audio, path, response_format="verbose_json", **fields)
        body: dict[str, Any] = answer.raise_for_status().json()
        return body

    alone = [send(request) for request in requests]
    assert all(len(answer["text"].split()) > 2 for answer in alone)
    before = real.lane()
    with ThreadPoolExecutor(30) as pool:
        together = list(pool.map(send, requests * 3))
    assert [(answer["language"], answer["text"]) for answer in together] == [
        (answer["language"], answer["text"]) for answer in alone * 3
    ]
    for one, other in zip(together, alone * 3, strict=True):
        assert [segment["start"] for segment in one["segments"]] == pytest.approx(
            [segment["start"] for segment in other["segments"]], abs=0.02
        )
    after = real.lane()
    assert after["largest_batch"] > 1
    batches, entries = (after[name] - before[name] for name in ("batches", "entries"))
    assert batches < entries  # they shared


def test_clips_pass_a_long_recording_on_real_models(real: Server, speech: Speech) -> None:
    words = speech.random("en-adam", 60, seed=5).audio
    long = Client(real, wav(np.tile(words, 12)), language="en")
    eventually(lambda: any(lane["waiting"] > 60 for lane in real.info()["queue"]["lanes"]))
    clip = speech.random("en-beth", 4, seed=0)
    answer = real.transcribe(wav(clip.audio), language="en").raise_for_status()
    assert answer.json()["text"].strip() == clip.text.strip()
    assert real.lane()["waiting"] > 0  # in order of arrival, the clip would be behind all of them
    long.hang_up()
    eventually(lambda: real.info()["queue"]["seconds"] == 0)
    assert real.lane()["waiting"] == 0


# -- order ----------------------------------------------------------------------------------------


def test_a_clip_is_in_the_next_batch_whatever_waits(held: Unruly) -> None:
    with held.clients(2) as pool:
        long = pool.submit(held.server.transcribe, windows_of("red", 30), language="en")
        eventually(lambda: held.waiting() == 30)
        short = pool.submit(held.server.transcribe, clip("blue"), language="en")
        eventually(lambda: held.waiting() == 31)
        begun = len(held.batches())
        held.let_go()
        assert short.result(PATIENCE).json()["text"] == "blue."
        assert long.result(PATIENCE).json()["text"] == " ".join(["red."] * 30)
    assert "blue." in held.batches()[begun]


def test_a_flood_from_one_key_does_not_delay_another(held: Unruly) -> None:
    """Batches of two: in order of arrival, the other key's clip would be in the eleventh."""
    with held.clients(21) as pool:
        flood = [pool.submit(held.server.transcribe, clip("red"), language="en") for _ in range(20)]
        eventually(lambda: held.waiting() == 20)
        calm = pool.submit(
            httpx.post,
            f"{held.server.url}{PATH}",
            headers={"authorization": "Bearer key-b"},
            files={"file": ("a.wav", clip("blue"))},
            data={"language": "en"},
            timeout=PATIENCE,
        )
        eventually(lambda: held.waiting() == 21)
        begun = len(held.batches())
        held.let_go()
        assert calm.result(PATIENCE).json()["text"] == "blue."
        assert [answer.result(PATIENCE).json()["text"] for answer in flood] == ["red."] * 20
    assert held.batches()[begun] == ["red.", "blue."]


def test_a_request_may_bound_its_own_batches(held: Unruly) -> None:
    with held.clients(3) as pool:
        sent = [
            pool.submit(held.server.transcribe, windows_of("red", 4), language="en", batch_size="1")
        ]
        eventually(lambda: held.waiting() == 4)
        for waiting in (6, 8):
            blue = windows_of("blue", 2)
            sent.append(pool.submit(held.server.transcribe, blue, language="en"))
            eventually(lambda: held.waiting() == waiting)  # noqa: B023
        begun = len(held.batches())
        held.let_go()
        for answer in sent:
            answer.result(PATIENCE).raise_for_status()
    after = held.batches()[begun:]
    assert all(len(batch) == 1 for batch in after if "red." in batch)
    assert ["blue.", "blue."] in after


def test_a_stream_alone_flows_and_a_plain_request_has_whole_batches(
    start: Callable[..., Unruly],
) -> None:
    unruly = start(UNRULY_SECONDS="0.5")
    recording = windows_of("red", 5)
    streamed = unruly.server.transcribe(recording, language="en", stream="true")
    assert streamed.text.count('"transcript.text.delta"') == 5
    stream = unruly.batches()
    assert sum(len(batch) for batch in stream) == 5
    assert max(len(batch) for batch in stream) <= 3
    assert unruly.server.transcribe(recording, language="en").json()["text"] == "red. " * 4 + "red."
    assert max(len(batch) for batch in unruly.batches()[len(stream) :]) > 3


# -- leaving --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}, {"diarize": "true"}])
def test_a_disconnect_frees_queue_and_files(held: Unruly, fields: dict[str, str]) -> None:
    server = held.server
    cancelled = server.lane()["cancelled"]
    files = len(server.temp_files())
    leaving = Client(server, windows_of("red", 20), language="en", **fields)
    eventually(lambda: held.waiting() == 20)
    assert held.queue()["requests"] == 2
    leaving.hang_up()
    # All this while its engine is still held inside somebody else's batch.
    eventually(lambda: held.queue()["requests"] == 1)
    lane = server.lane()
    assert (lane["waiting"], lane["requests"]) == (0, 1)
    assert lane["cancelled"] == cancelled + 20
    eventually(lambda: len(server.temp_files()) == files)
    held.let_go()
    assert server.transcribe(clip("blue")).json()["text"] == "blue."
    eventually(lambda: held.queue()["seconds"] == 0)
    eventually(lambda: mapped_files(server) == [])


def mapped_files(server: Server) -> list[str]:
    """Deleted files whose disk space the server still holds."""
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    return [line for line in maps.splitlines() if str(server.temp) in line and "deleted" in line]


def test_a_job_that_is_withdrawn_leaves_the_queue(held: Unruly) -> None:
    server = held.server
    job = server.transcribe(windows_of("red", 20), language="en", **{"async": "true"}).json()
    eventually(lambda: held.waiting() == 20)
    server.http.delete(f"{PATH}/{job['request_id']}").raise_for_status()
    assert held.waiting() == 0
    assert held.queue()["requests"] == 1
    server.http.delete(f"{PATH}/{job['request_id']}").raise_for_status()  # its record, too


def test_time_is_up_and_idle_models_go(start: Callable[..., Unruly]) -> None:
    unruly = start(LIMITS__REQUEST_TIMEOUT="3", POOL__TTL="0")
    server = unruly.server
    unruly.hold()
    answer = server.transcribe(windows_of("red", 20), language="en")
    assert answer.status_code == 503
    assert "longer than 3 s" in answer.json()["error"]["message"]
    queue = unruly.queue()
    assert (queue["seconds"], queue["requests"]) == (0, 0)
    assert all(lane["waiting"] == lane["requests"] == 0 for lane in queue["lanes"])
    assert server.temp_files() == []
    unruly.let_go()
    assert server.transcribe(clip("blue")).json()["text"] == "blue."
    eventually(lambda: unruly.queue()["lanes"] == [])
    assert server.transcribe(clip("blue")).json()["text"] == "blue."


def test_accepted_requests_are_answered_before_shutdown(start: Callable[..., Unruly]) -> None:
    unruly = start(WHISPER__BATCH_SIZE="2")
    server = unruly.server
    unruly.hold()
    with unruly.clients(6) as pool:
        recording = windows_of("red", 3)
        accepted = [pool.submit(server.transcribe, recording, language="en") for _ in range(6)]
        eventually(lambda: unruly.waiting("in_flight") == 18)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.http.get("/ready").status_code == 503)
        refused = server.transcribe(clip("blue"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert int(refused.headers["retry-after"]) > 0
        unruly.let_go()
        for answer in accepted:
            assert answer.result(PATIENCE).json()["text"] == "red. red. red."
    assert server.process.wait(PATIENCE) == 0


# -- too much -------------------------------------------------------------------------------------


def test_a_full_queue_answers_retry_after(start: Callable[..., Unruly]) -> None:
    unruly = start(LIMITS__QUEUE_SECONDS="4")
    server = unruly.server
    unruly.hold()
    with unruly.clients(2) as pool:
        accepted = pool.submit(server.transcribe, windows_of("red", 1), language="en")
        eventually(lambda: unruly.queue()["seconds"] > 4)
        refused = server.transcribe(clip("blue"))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 1 <= int(refused.headers["retry-after"]) <= 600
        seen: list[int] = []
        with DefaultHttpxClient(
            event_hooks={"response": [lambda response: seen.append(response.status_code)]}
        ) as client:
            sdk = OpenAI(
                base_url=f"{server.url}/v1", api_key="x", max_retries=9, http_client=client
            )
            text: Future[Any] = pool.submit(
                sdk.audio.transcriptions.create, model="whisper-1", file=("a.wav", clip("blue"))
            )
            eventually(lambda: seen[:1] == [429])
            unruly.let_go()
            assert text.result(PATIENCE).text == "blue."
            assert seen[-1] == 200
            assert set(seen[:-1]) == {429}
        assert accepted.result(PATIENCE).json()["text"] == "red."


# -- failing --------------------------------------------------------------------------------------


def test_each_gets_its_own_answer_from_an_engine_that_fails(start: Callable[..., Unruly]) -> None:
    """Poison, a shortage of memory and a dying thread, all among requests that are fine."""
    unruly = start(UNRULY_MEMORY="3", WHISPER__BATCH_SIZE="8")
    server = unruly.server
    words = ["red door", "open black", "blue night", "find white", "tree house", "bread water"] * 3
    unruly.hold()
    with unruly.clients(len(words)) as pool:
        answers = [pool.submit(server.transcribe, clip(text), language="en") for text in words]
        eventually(lambda: unruly.waiting("in_flight") == len(words))
        unruly.let_go()
        for text, answer in zip(words, answers, strict=True):
            got = answer.result(PATIENCE)
            if "white" in text:
                assert (got.status_code, error_code(got)) == (503, "service_unavailable"), got.text
            elif "black" in text:
                assert (got.status_code, error_code(got)) == (500, "transcription_failed"), got.text
                assert "this cannot be decoded" not in got.text
            else:
                assert got.json()["text"] == f"{text}."
    lane = server.lane()
    assert lane["restarts"] >= 1
    assert lane["batch_limit"] <= 4
    assert (lane["waiting"], lane["in_flight"], lane["failed"]) == (0, 0, 6)
    assert server.transcribe(clip("red")).json()["text"] == "red."


def error_code(answer: httpx.Response) -> str:
    code: str = answer.json()["error"]["code"]
    return code


# -- models ---------------------------------------------------------------------------------------


def test_first_requests_at_once_load_once_and_what_is_used_stays(
    start: Callable[..., Unruly],
) -> None:
    unruly = start(MODELS__ALLOWED='["some/model"]')
    server = unruly.server
    unruly.hold()
    with unruly.clients(8) as pool:
        answers = [
            pool.submit(server.transcribe, clip("red"), model="some/model", language="en")
            for _ in range(8)
        ]
        eventually(lambda: len(unruly.batches()) == 1)
        refused = server.http.post("/models/unload", params={"model": "some/model"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        unruly.let_go()
        assert {answer.result(PATIENCE).json()["text"] for answer in answers} == {"red."}
    loads = [event["load"] for event in unruly.events() if "load" in event]
    assert loads == ["some/model"]
    unloaded = server.http.post("/models/unload", params={"model": "some/model"})
    assert unloaded.json()["status"] == "unloaded"
    assert server.http.get("/models/list").json() == {"models": []}
