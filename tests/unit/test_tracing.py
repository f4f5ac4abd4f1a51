"""Traces: requests, runs, stages and batches, and the headers that continue them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the otel extra is not installed")

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from live import PATH
from realtime import MANUAL, pcm_24k, transcription
from receiver import Receiver
from server import FAKE
from support import eventually
from tones import CHUNK, sentences
from whisperx_api_server.backends.fake import say
from whisperx_api_server.config import Settings
from whisperx_api_server.main import create_app
from whisperx_api_server.telemetry.telemetry import Telemetry
from whisperx_api_server.telemetry.tracing import Tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

SETTINGS = FAKE | {
    "WEBHOOK_SECRET": "secret",
    "URL_FETCH__ALLOW_PRIVATE_HOSTS": "true",
    "JOBS__RETRY_WINDOW": "0",
    # A batch begins only when two windows wait.
    "WHISPER__BATCH_SIZE": "2",
    "SCHEDULER__MAX_WAIT_MS": "20000",
}


@dataclass(frozen=True)
class Traced:
    """A server whose spans are kept in memory."""

    client: TestClient
    exporter: InMemorySpanExporter

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def transcribe(self, windows: int = 2, headers: Mapping[str, str] | None = None) -> None:
        audio = {"file": ("a.wav", sentences(windows))}
        self.client.post(PATH, files=audio, data=CHUNK, headers=headers).raise_for_status()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    tracing = Tracing(SimpleSpanProcessor(exporter))
    directory = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for name, value in (SETTINGS | {"JOBS__DIRECTORY": str(directory / "jobs")}).items():
            patch.setenv(name, value)
        app = create_app(Settings(), telemetry=Telemetry(tracing=tracing))
    with TestClient(app) as client:
        yield Traced(client, exporter)


@pytest.fixture(autouse=True)
def empty(server: Traced) -> None:
    server.exporter.clear()


def trace_ids(spans: Sequence[ReadableSpan]) -> set[str]:
    return {f"{span.context.trace_id:032x}" for span in spans}


def test_a_request_continues_the_trace_of_its_client_down_to_the_stages(server: Traced) -> None:
    server.transcribe(headers=PARENT)

    (request,) = server.spans(f"POST {PATH}")
    (run,) = server.spans("run")
    stages = [server.spans(name)[0] for name in ("open", "transcribe", "finish")]
    assert trace_ids([request, run, *stages]) == {TRACE}
    assert run.parent == request.context
    assert all(stage.parent == run.context for stage in stages)
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert run.attributes is not None
    assert run.attributes["whisperx.audio.seconds"] == 10.0


def test_a_batch_links_the_runs_that_share_it(server: Traced) -> None:
    with ThreadPoolExecutor(2) as threads:
        for answer in [threads.submit(server.transcribe, windows=1) for _ in range(2)]:
            answer.result()

    eventually(lambda: any(len(span.links) == 2 for span in server.spans("batch")))
    (batch,) = (span for span in server.spans("batch") if len(span.links) == 2)
    linked = {link.context.span_id for link in batch.links}
    assert linked == {run.context.span_id for run in server.spans("run")}
    assert batch.attributes is not None
    assert batch.attributes["whisperx.batch.entries"] == 2


def test_a_batch_links_the_live_sessions_that_share_it(server: Traced) -> None:
    audio = base64.b64encode(pcm_24k(say("red house"))).decode()
    with (
        ThreadPoolExecutor(1) as threads,
        server.client.websocket_connect("/v1/realtime", headers=PARENT) as socket,
    ):
        socket.send_json({"type": "session.update", "session": transcription(**MANUAL)})
        socket.send_json({"type": "input_audio_buffer.append", "audio": audio})
        socket.send_json({"type": "input_audio_buffer.commit"})
        answer = threads.submit(server.transcribe, windows=1)
        while not socket.receive_json()["type"].endswith("transcription.completed"):
            pass
        answer.result()
        socket.close()
        eventually(lambda: bool(server.spans("GET /v1/realtime")))

    (session,) = server.spans("GET /v1/realtime")
    assert trace_ids([session]) == {TRACE}
    assert session.attributes is not None
    assert session.attributes["http.response.status_code"] == 101
    linked = {link.context.span_id for span in server.spans("batch") for link in span.links}
    assert session.context.span_id in linked


def test_a_webhook_continues_the_trace_of_its_job(server: Traced) -> None:
    with Receiver() as receiver:
        form = CHUNK | {"async": "true", "align": "false", "callback_url": receiver.url}
        audio = {"file": ("a.wav", sentences(2))}
        server.client.post(PATH, files=audio, data=form, headers=PARENT).raise_for_status()
        eventually(lambda: bool(receiver.deliveries))

    assert receiver.deliveries[0].headers["traceparent"].split("-")[1] == TRACE


def test_a_failed_run_says_so_without_the_clients_text(server: Traced) -> None:
    audio = {"file": ("secret-name.wav", b"secret text")}
    assert server.client.post(PATH, files=audio).status_code == 400

    (run,) = server.spans("run")
    assert not run.status.is_ok
    assert run.attributes is not None
    assert run.attributes["error.type"]
    assert all("secret" not in span.to_json() for span in server.exporter.get_finished_spans())


def test_probes_have_no_spans(server: Traced) -> None:
    server.client.get("/healthcheck").raise_for_status()

    assert server.exporter.get_finished_spans() == ()


def test_no_endpoint_means_no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from whisperx_api_server.wiring import build_telemetry

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert build_telemetry(Settings()).tracing is None
