"""The models of the workers: listed from their heartbeats, loaded and unloaded by all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import cast, get_args
from uuid import uuid4

from ..answers.server import LoadedModel
from ..backends import ModelKey
from ..backends.base import Stage
from ..background import BackgroundTasks
from ..catalog import Catalog
from ..errors import NotFound, ServiceError, Unavailable, error_of
from ..scheduling.model_pool import ModelPool
from .members import INTERVAL, Members
from .protocols import Log
from .wire import CONTROL, ModelOrder, ModelStage, OrderDone

STAGES: tuple[ModelStage, ...] = get_args(ModelStage)


class ClusterModels:
    """The Models of an API replica."""

    def __init__(self, log: Log, members: Members) -> None:
        self._log = log
        self._members = members
        self._answers: dict[str, dict[str, OrderDone]] = {}

    def loaded(self, stage: Stage) -> list[LoadedModel]:
        """See `Models.loaded`; each model has the worker that has it."""
        return [
            {**model, "worker": worker.member}
            for worker in self._members.workers()
            for model in worker.models.get(cast("ModelStage", stage), ())
        ]

    async def load(self, key: ModelKey) -> None:
        """See `Models.load`: every worker loads it."""
        await self._order(key, "load")

    async def unload(self, key: ModelKey) -> bool:
        """See `Models.unload`: every worker that has it unloads it."""
        return any(answer.changed for answer in await self._order(key, "unload"))

    def handle(self, message: OrderDone) -> None:
        """Take the answer of a worker."""
        if message.order in self._answers:
            self._answers[message.order][message.worker] = message

    async def _order(self, key: ModelKey, action: str) -> list[OrderDone]:
        """Have all workers do it; those that are gone before they have are not waited for."""
        order = ModelOrder(
            order=uuid4().hex,
            action="load" if action == "load" else "unload",
            stage=cast("ModelStage", key.stage),
            model=key.name,
            language=key.spec.language,
        )
        answers = self._answers[order.order] = {}
        try:
            await self._log.append("control", order.order, CONTROL.dump(order))
            while True:
                workers = {worker.member for worker in self._members.workers()}
                if not workers:
                    raise Unavailable("no worker is running: start one", retry_after=INTERVAL)
                if workers <= answers.keys():
                    break
                await asyncio.sleep(INTERVAL / 20)
        finally:
            del self._answers[order.order]
        for answer in answers.values():
            if answer.failure is not None:
                raise error_of(answer.failure)
        return list(answers.values())


class WorkerModels:
    """The models of one worker, which follows orders."""

    def __init__(self, *, name: str, catalog: Catalog, pool: ModelPool, log: Log) -> None:
        self._name = name
        self._catalog = catalog
        self._pool = pool
        self._log = log
        self._under_way = BackgroundTasks()

    def loaded(self) -> dict[ModelStage, list[LoadedModel]]:
        """What a heartbeat says of them."""
        return {stage: self._pool.loaded(stage) for stage in STAGES}

    def follow(self, order: ModelOrder) -> None:
        """Load or unload a model, and answer when that is done."""
        self._under_way.start(self._follow(order))

    async def _follow(self, order: ModelOrder) -> None:
        changed, failure = True, None
        try:
            key = self._key(order)
            if order.action == "load":
                await self._pool.load(key)
            else:
                changed = await self._pool.unload(key)
        except ServiceError as error:
            failure = error.failure()
        done = OrderDone(order=order.order, worker=self._name, changed=changed, failure=failure)
        with suppress(Unavailable):  # the client has its own timeout
            await self._log.append("control", order.order, CONTROL.dump(done))

    def _key(self, order: ModelOrder) -> ModelKey:
        key: Callable[[], ModelKey | None] = {
            "transcription": lambda: self._catalog.transcriber(order.model),
            "alignment": lambda: self._catalog.aligner(order.language or ""),
            "diarization": lambda: self._catalog.diarizer(order.model),
        }[order.stage]
        found = key()
        if found is None:
            raise NotFound(f"the worker has no align model for {order.language!r}")
        return found
