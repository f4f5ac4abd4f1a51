"""Lanes over an engine that the test holds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from support import PATIENCE
from whisperx_api_server.errors import InsufficientMemory
from whisperx_api_server.scheduling.batch_policy import BatchLimits
from whisperx_api_server.scheduling.fair_semaphore import FairSemaphore
from whisperx_api_server.scheduling.lane import Lane
from whisperx_api_server.scheduling.lane_worker import Place
from whisperx_api_server.scheduling.work import Entry, Work


class Engine:
    """Doubles numbers; can be held, and fails on chosen numbers and sizes."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Event()
        self.batches: list[list[int]] = []
        self.prepared: list[object | None] = []
        self.poison: dict[int, BaseException] = {}
        self.memory = 1_000_000
        self.threads: set[int] = set()
        self.closed = False

    def run(self, numbers: Sequence[int], prepared: Sequence[object | None]) -> list[int]:
        self.threads.add(threading.get_ident())
        self.busy.set()
        assert self.go.wait(PATIENCE)
        self.batches.append(list(numbers))
        self.prepared.extend(prepared)
        if len(numbers) > self.memory:
            raise InsufficientMemory("too many")
        for number in numbers:
            if number in self.poison:
                raise self.poison[number]
        return [2 * number for number in numbers]

    def close(self) -> None:
        self.closed = True


DOUBLE: Work[Engine, int, int] = Work(run=lambda model, xs, prepared: model.run(xs, prepared))
DOUBLE_PREPARED: Work[Engine, int, int] = Work(
    run=lambda model, xs, prepared: model.run(xs, prepared), prepare=lambda _, x: f"p{x}"
)


class Lanes:
    """Makes lanes, and closes them at the end."""

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self._made: list[Lane[Engine]] = []

    def load(self) -> Engine:
        self.engines.append(Engine())
        return self.engines[-1]

    def lane(
        self,
        load: Callable[[], Engine] | None = None,
        max_batch: int = 4,
        device: FairSemaphore | None = None,
        clock: Callable[[], float] = time.monotonic,
        max_wait: float = 0.01,
        workers: int = 1,
    ) -> Lane[Engine]:
        lane = Lane(
            "test",
            [
                Place(load=load or self.load, device=device or FairSemaphore(1))
                for _ in range(workers)
            ],
            limits=lambda _: BatchLimits(max_batch=max_batch, max_wait=max_wait),
            clock=clock,
        )
        self._made.append(lane)
        return lane

    def close(self) -> None:
        for engine in self.engines:
            engine.go.set()
        for lane in self._made:
            lane.close().result(PATIENCE)

    def held(self, max_batch: int = 4) -> tuple[Lane[Engine], Engine]:
        """A lane whose thread is inside a batch of one, so that all that follows waits."""
        lane = self.lane(max_batch=max_batch)
        lane.loaded.result(PATIENCE)
        engine = lane.model
        engine.go.clear()
        lane.submit(Entry(work=DOUBLE, payload=0, client="z", request_id="blocker"))
        assert engine.busy.wait(PATIENCE)
        return lane, engine


def submit(lane: Lane[Engine], request: str, number: int, **kwargs: object) -> Future[int]:
    work = kwargs.pop("work", DOUBLE)
    entry: Entry[Engine, int, int]
    entry = Entry(work=work, payload=number, client="a", request_id=request, **kwargs)  # type: ignore[arg-type]
    return lane.submit(entry)
