"""A server that webhooks are delivered to."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


@dataclass(frozen=True)
class Delivery:
    """One try to deliver an event."""

    headers: dict[str, str]
    body: bytes
    path: str = "/"


def faults(jobs: Mapping[str, str | None], deliveries: Iterable[Delivery]) -> list[str]:
    """What the receivers of jobs that complete may never see, each fault as a line.

    `jobs` has the job of each path that was a `callback_url`; None if the client got no answer, so
    that there may be a job or none.
    """
    told: dict[str, set[tuple[str, str, str, int]]] = defaultdict(set)
    paths: dict[str, set[str]] = defaultdict(set)
    for each in deliveries:
        event, webhook_id = json.loads(each.body), each.headers["webhook-id"]
        job = event["data"]["request_id"]
        told[each.path].add((job, webhook_id, event["type"], event["created_at"]))
        paths[webhook_id].add(each.path)
    found = [f"{path} was not submitted" for path in told.keys() - jobs.keys()]
    found += [
        f"{webhook_id} came to {len(each)} jobs"
        for webhook_id, each in paths.items()
        if len(each) > 1
    ]
    for path, events in told.items():
        if len(events) > 1:  # a second job, webhook id, or end
            found.append(f"{path} was told {sorted(events)}")
        for job, _, kind, _ in events:
            if job != (jobs.get(path) or job):
                found.append(f"{path} was told of {job}, which is not its job")
            if kind != "transcription.completed":
                found.append(f"{path} was told {kind}")
    return found


class Receiver:
    """Keeps what is posted to it; answers with `statuses` in turn, then with 204."""

    def __init__(self, statuses: Sequence[int] = ()) -> None:
        self.deliveries: list[Delivery] = []
        waiting = list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805 - `self` is the receiver
                body = handler.rfile.read(int(handler.headers["content-length"]))
                headers = {name.lower(): value for name, value in handler.headers.items()}
                self.deliveries.append(Delivery(headers, body, handler.path))
                handler.send_response(waiting.pop(0) if waiting else 204)
                handler.send_header("content-length", "0")
                handler.end_headers()

            def log_message(handler, format: str, *args: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/done"

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
