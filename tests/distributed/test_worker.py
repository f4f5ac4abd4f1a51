"""Runs on workers: the same answers as in one process, whatever happens to a worker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from cluster import Cluster, Replica, play
from live import until
from memory_cluster import MemoryBucket, MemoryQueue
from pipeline_world import World
from pipeline_world import play as play_alone
from whisperx_api_server.active_requests import ActiveRequests
from whisperx_api_server.distributed.attempt import announce
from whisperx_api_server.distributed.stored import End, RunEvent
from whisperx_api_server.distributed.text import ClusterText
from whisperx_api_server.distributed.wire import CONTROL, TASK, Notice, Taken, Task
from whisperx_api_server.domain import (
    Diarization,
    DiarizeOptions,
    Transcript,
    TranscriptionRequest,
    WindowTranscript,
)
from whisperx_api_server.errors import (
    InvalidRequest,
    ModelNotFound,
    TranscriptionFailed,
    VersionMismatch,
    WorkerLost,
)
from whisperx_api_server.pipeline.events import Emit, Event, Opened, SegmentsLabelled, WindowDone
from whisperx_api_server.pipeline.runner import Checkpoint
from whisperx_api_server.text_service import TextRequest


async def unwatched(event: Event) -> None:
    pass


def windows_of(events: list[Event]) -> list[int]:
    return [each.transcript.window_index for each in events if isinstance(each, WindowDone)]


def test_a_worker_answers_as_one_process_does(tmp_path: Path) -> None:
    alone: list[tuple[list[Event], Transcript]] = []

    async def in_one_process(world: World) -> None:
        events: list[Event] = []

        async def emit(event: Event) -> None:
            events.append(event)

        request = world.request("dialogue", diarize=DiarizeOptions(embeddings=True))
        alone.append((events, await world.run(request, emit)))

    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        replica = await cluster.replica()
        events: list[Event] = []

        async def emit(event: Event) -> None:
            events.append(event)

        request = await replica.request("dialogue", diarize=DiarizeOptions(embeddings=True))
        transcript = await replica.runner.run(request, emit, Checkpoint())
        assert transcript == alone[0][1]
        for kind in (Opened, WindowDone, SegmentsLabelled):
            assert [each for each in events if isinstance(each, kind)] == [
                each for each in alone[0][0] if isinstance(each, kind)
            ]
        await until(lambda: not cluster.queued)
        await until(lambda: cluster.objects("runs/") == [])

    play_alone(in_one_process)
    play(tmp_path, scene)


def test_speakers_and_language_come_from_a_worker(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        replica = await cluster.replica()
        diarization = await replica.runner.diarize(await replica.request("dialogue"), unwatched)
        assert isinstance(diarization, Diarization)
        assert {turn.speaker for turn in diarization.turns} == {"SPEAKER_00", "SPEAKER_01"}
        languages = await replica.runner.detect_language(await replica.request("french"), unwatched)
        assert max(languages, key=lambda each: languages[each]) == "fr"

    play(tmp_path, scene)


def test_windows_come_before_the_run_ends(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        replica = await cluster.replica()
        worker.world.hold.stage = "diarize"
        seen: list[Event] = []

        async def emit(event: Event) -> None:
            seen.append(event)

        request = await replica.request("english", diarize=DiarizeOptions())
        running = asyncio.create_task(replica.runner.run(request, emit, Checkpoint()))
        await until(lambda: any(isinstance(each, WindowDone) for each in seen))
        assert not running.done()
        worker.world.hold.go.set()
        await running

    play(tmp_path, scene)


def test_errors_keep_their_class(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        replica = await cluster.replica()
        with pytest.raises(TranscriptionFailed):
            await replica.run("poisoned")
        with pytest.raises(ModelNotFound):
            await replica.run("english", model="no-such-model")

    play(tmp_path, scene)


def test_a_run_of_a_killed_worker_resumes_on_another(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        first = await cluster.worker("first")
        replica = await cluster.replica()
        first.world.hold.stage = "diarize"
        running = asyncio.create_task(replica.run("english", diarize=DiarizeOptions()))
        await until(lambda: any(key.startswith("memory/") for key in cluster.objects()))
        second = await cluster.worker("second")
        await first.kill()
        events, text = await running
        assert text.startswith("red door. open tree.")
        # Each window is told once, and the second worker found them done.
        count = len(windows_of(events))
        assert windows_of(events) == list(range(count))
        assert len([each for each in events if isinstance(each, Opened)]) == 1
        assert second.world.hold.calls.count("transcribe") < count

    play(tmp_path, scene)


def test_a_checkpoint_is_deleted_though_the_run_ends_while_it_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperx_api_server.distributed.attempt.CHECKPOINT_INTERVAL", 0.01)
    put = MemoryBucket.put

    async def answered_late(self: MemoryBucket, key: str, data: bytes) -> None:
        await put(self, key, data)
        if key.startswith("memory/"):
            await asyncio.Event().wait()

    monkeypatch.setattr(MemoryBucket, "put", answered_late)

    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "diarize"
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english", diarize=DiarizeOptions()))
        await until(lambda: bool(cluster.objects("memory/")))
        worker.world.hold.go.set()
        await running
        await until(lambda: cluster.objects() == [])

    play(tmp_path, scene)


def test_a_run_fails_when_every_worker_that_tries_it_dies(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english"))
        for attempt in range(3):
            worker = await cluster.worker(f"worker {attempt}")
            worker.world.hold.stage = "transcribe"
            await until(worker.world.hold.entered.is_set)
            await worker.kill()
        await cluster.worker("last")
        with pytest.raises(WorkerLost):
            await running
        assert len(cluster.log.of("dead")) == 1
        await until(lambda: not cluster.queued)

    play(tmp_path, scene)


def test_a_record_that_the_broker_would_drop_is_queued_again(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english"))
        await until(lambda: cluster.queued == 1)
        (record,) = (record for broker in cluster.brokers for record in broker.records)
        record.count = 3  # its workers died while it waited
        doomed = await cluster.worker("doomed")
        doomed.world.hold.stage = "transcribe"
        await until(doomed.world.hold.entered.is_set)
        (again,) = (record for broker in cluster.brokers for record in broker.records)
        assert again is not record
        assert len([key for key in cluster.objects("runs/") if "/attempts/" in key]) == 1
        await doomed.kill()
        await cluster.worker("last")
        _, text = await running
        assert text.startswith("red door.")

    play(tmp_path, scene)


def test_a_run_of_an_unknown_kind_fails_at_once(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english"))
        await until(lambda: cluster.queued == 1)
        (record,) = (record for broker in cluster.brokers for record in broker.records)
        record.value = record.value.replace(b"transcribe", b"transcribe_backwards")
        await cluster.worker()
        with pytest.raises(VersionMismatch):
            await running
        await until(lambda: not cluster.queued)

    play(tmp_path, scene)


@pytest.mark.parametrize("damaged", ["request.json", "end"])
def test_a_run_of_another_version_fails_at_once(tmp_path: Path, damaged: str) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english"))
        await until(lambda: cluster.queued == 1)
        request = next(key for key in cluster.objects("runs/") if key.endswith("request.json"))
        await cluster.bucket.put(request.replace("request.json", damaged), b'{"result": 1}')
        worker = await cluster.worker()
        with pytest.raises(VersionMismatch):
            await running
        await until(lambda: not cluster.queued)
        assert worker.world.clips.opened == 0

    play(tmp_path, scene)


def test_a_cancelled_run_stops_and_leaves_nothing(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        replica = await cluster.replica()
        worker.world.hold.stage = "transcribe"
        running = asyncio.create_task(replica.run("english"))
        await until(worker.world.hold.entered.is_set)
        running.cancel()
        await asyncio.wait([running])
        await until(lambda: not cluster.queued)
        worker.world.hold.go.set()
        await until(lambda: not worker.worker.seconds)
        await until(lambda: cluster.objects("runs/") == [])

    play(tmp_path, scene)


def test_a_run_that_is_cancelled_in_the_queue_is_not_computed(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        running = asyncio.create_task(replica.run("english"))
        await until(lambda: cluster.queued == 1)
        running.cancel()
        await asyncio.wait([running])
        worker = await cluster.worker()
        await until(lambda: not cluster.queued)
        assert worker.world.hold.calls == []

    play(tmp_path, scene)


def test_a_restart_of_the_broker_moves_no_run(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        replica = await cluster.replica()
        worker.world.hold.stage = "transcribe"
        running = asyncio.create_task(replica.run("english"))
        await until(worker.world.hold.entered.is_set)
        for broker in cluster.brokers:
            broker.lose_locks()
        await until(lambda: all(r.lock is not None for b in cluster.brokers for r in b.records))
        worker.world.hold.go.set()
        await running
        await until(lambda: not cluster.queued)
        assert worker.world.clips.opened == 1

    play(tmp_path, scene)


def test_a_worker_stops_what_another_has_taken(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        slow = await cluster.worker("slow")
        replica = await cluster.replica()
        slow.world.hold.stage = "transcribe"
        running = asyncio.create_task(replica.run("english"))
        await until(slow.world.hold.entered.is_set)
        await cluster.worker("quick")
        # It was paused for longer than the lock: the record is free again.
        slow.worker._draining.set()
        await asyncio.gather(*(queue.close() for queue in slow.queues))
        _, text = await running
        assert text.startswith("red door.")
        assert slow.worker._held == {}

    play(tmp_path, scene)


def test_a_run_queued_twice_is_computed_once(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        replica = await cluster.replica()
        worker.world.hold.stage = "transcribe"
        request = await replica.request("english")
        running = asyncio.create_task(replica.runner.run(request, unwatched, Checkpoint()))
        await until(worker.world.hold.entered.is_set)
        await worker.queues[0].send(TASK.dump(Task(run=request.id, kind="transcribe")))
        await until(lambda: cluster.queued == 1)
        worker.world.hold.go.set()
        await running
        await until(lambda: not cluster.queued)
        assert worker.world.clips.opened == 1

    play(tmp_path, scene)


def test_of_two_workers_that_take_a_run_at_once_one_goes_on(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        request = await replica.request("english")
        running = asyncio.create_task(replica.runner.run(request, unwatched, Checkpoint()))
        await until(lambda: cluster.queued == 1)
        (broker,) = (each for each in cluster.brokers if each.records)
        await MemoryQueue(broker).send(TASK.dump(Task(run=request.id, kind="transcribe")))
        await asyncio.gather(cluster.worker("one"), cluster.worker("other"))
        transcript = await running
        assert transcript.text.startswith("red door.")
        await until(lambda: not cluster.queued)

    play(tmp_path, scene)


def test_a_drained_worker_hands_its_runs_on(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        leaving = await cluster.worker("leaving")
        replica = await cluster.replica()
        leaving.world.hold.stage = "diarize"
        running = asyncio.create_task(replica.run("english", diarize=DiarizeOptions()))
        await until(lambda: "diarize" in leaving.world.hold.calls)
        await leaving.worker.drain(0.0)
        assert [record.count for broker in cluster.brokers for record in broker.records] == [0]
        await cluster.worker("staying")
        _, text = await running
        assert text.startswith("red door.")

    play(tmp_path, scene)


def test_a_drained_worker_finishes_in_its_grace_time(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        replica = await cluster.replica()
        worker.world.hold.stage = "transcribe"
        running = asyncio.create_task(replica.run("english"))
        await until(worker.world.hold.entered.is_set)
        draining = asyncio.create_task(worker.worker.drain(20))
        worker.world.hold.go.set()
        await draining
        await running
        assert cluster.queued == 0

    play(tmp_path, scene)


def test_a_full_worker_leaves_the_queue_to_others(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        full = await cluster.worker("full", prefetch_seconds=5)
        replica = await cluster.replica()
        full.world.hold.stage = "transcribe"
        first = asyncio.create_task(replica.run("english"))
        await until(lambda: full.worker.seconds > 5)
        others = [asyncio.create_task(replica.run("french")) for _ in range(3)]
        await until(lambda: cluster.queued >= 2)
        free = await cluster.worker("free")
        await until(lambda: free.world.clips.opened > 0)
        full.world.hold.go.set()
        await asyncio.gather(first, *others)

    play(tmp_path, scene)


def test_a_broker_that_is_away_delays_events_only(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        replica = await cluster.replica()
        worker.world.hold.stage = "transcribe"
        running = asyncio.create_task(replica.run("english"))
        await until(worker.world.hold.entered.is_set)
        cluster.log.down = True
        worker.world.hold.go.set()
        await until(lambda: any(key.endswith("/end") for key in cluster.objects()))
        cluster.log.down = False
        events, _ = await running
        assert windows_of(events) == list(range(len(windows_of(events)))) != []

    play(tmp_path, scene)


def test_the_job_of_a_client_does_not_wait_for_the_flood_of_another(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()

        def begin(request: TranscriptionRequest) -> asyncio.Task[Transcript]:
            return asyncio.create_task(replica.runner.run(request, unwatched, Checkpoint()))

        flood = [await replica.request("german", client="ann", waits=True) for _ in range(20)]
        running = [*map(begin, flood)]
        await until(lambda: cluster.queued == 20)
        for client in ("bob", "eve"):
            other = await replica.request("german", client=client, waits=True)
            running.append(begin(other))
            await until(lambda: cluster.queued == len(running))
        await cluster.worker(prefetch_seconds=1)
        await asyncio.gather(*running)
        said = [CONTROL.load(each.value) for each in cluster.log.of("control") if each.value]
        taken = [message.run for message in said if isinstance(message, Taken)]
        assert len(taken) == len(running)
        assert taken.index(other.id) < 6  # the second in its queue

    play(tmp_path, scene)


def test_models_are_loaded_and_unloaded_by_all_workers(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker("first")
        await cluster.worker("second")
        replica = await cluster.replica()
        models = replica.models
        key = (await cluster.worker("third")).world.catalog.transcriber("small")
        await models.load(key)
        await until(lambda: len(models.loaded("transcription")) == 3)
        assert [each["worker"] for each in models.loaded("transcription")] == [
            "first",
            "second",
            "third",
        ]
        assert await models.unload(key)
        assert not await models.unload(key)

    play(tmp_path, scene)


def test_a_worker_tells_why_a_model_cannot_be_loaded(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        replica = await cluster.replica()
        worker.world.failures["transcription"] = ModelNotFound("there is no such model")
        with pytest.raises(ModelNotFound):
            await replica.models.load(worker.world.catalog.transcriber("small"))

    play(tmp_path, scene)


def test_an_equal_request_resumes_a_cancelled_run_and_repeats_a_finished_one(
    tmp_path: Path,
) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        first, second = await cluster.replica("first"), await cluster.replica("second")
        count = len(windows_of((await first.run("english"))[0]))
        worker.world.hold.stage = "diarize"
        seen: list[Event] = []

        async def emit(event: Event) -> None:
            seen.append(event)

        request = await first.request("english", diarize=DiarizeOptions())
        running = asyncio.create_task(first.runner.run(request, emit, Checkpoint()))
        await until(lambda: len(windows_of(seen)) == count)
        running.cancel()
        await asyncio.wait([running])
        worker.world.hold.go.set()
        await until(lambda: not cluster.queued)
        await until(lambda: any(key.startswith("memory/") for key in cluster.objects()))
        worker.world.hold.calls.clear()
        _, text = await second.run("english", diarize=DiarizeOptions())
        assert text.startswith("red door.")
        assert "transcribe" not in worker.world.hold.calls
        await until(lambda: cluster.objects("memory/") == [])
        await second.run("english", diarize=DiarizeOptions())
        assert "transcribe" in worker.world.hold.calls

    play(tmp_path, scene)


def test_texts_are_translated_by_a_worker(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        await cluster.worker()
        replica = await cluster.replica()
        texts = ClusterText(replica.runner, ActiveRequests())
        request = TextRequest(
            id=uuid4().hex, client="ann", text="red door", source="en", target="fr"
        )
        assert await texts.translate(request) == "RED DOOR"
        with pytest.raises(InvalidRequest) as raised:
            await texts.translate(replace(request, id=uuid4().hex, source="klingon"))
        assert raised.value.param == "source_language"
        await until(lambda: cluster.objects("runs/") == [])

    play(tmp_path, scene)


WINDOWS = [
    WindowDone(
        transcript=WindowTranscript(
            window_index=index, language="en", language_probability=1.0, segments=()
        ),
        until=1.0,
    )
    for index in range(3)
]
TRANSCRIPT = Transcript(task="transcribe", language="en", languages=(), duration=1.0, segments=())


async def store_windows(replica: Replica, run: str) -> None:
    for part, window in enumerate(WINDOWS):
        await replica.files.store_events(run, "first", part, [RunEvent(place=part, event=window)])


def test_events_whose_notices_are_lost_come_with_the_next_one(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        replica = await cluster.replica()
        request = await replica.request("english")
        seen: list[Event] = []

        async def emit(event: Event) -> None:
            seen.append(event)

        running = asyncio.create_task(replica.runner.run(request, emit, Checkpoint()))
        await until(lambda: cluster.queued == 1)
        await store_windows(replica, request.id)
        await announce(cluster.log, Notice(run=request.id, attempt="first", parts=2))
        await until(lambda: windows_of(seen) == [0, 1])
        await announce(cluster.log, Notice(run=request.id, attempt="first", parts=1))
        await announce(cluster.log, Notice(run=request.id, attempt="first", parts=3))
        await until(lambda: windows_of(seen) == [0, 1, 2])
        await replica.files.finish(request.id, End(result=TRANSCRIPT))
        await announce(cluster.log, Notice(run=request.id, ended=True))
        assert await running == TRANSCRIPT

    play(tmp_path, scene)


async def untold_end(cluster: Cluster) -> tuple[asyncio.Task[Transcript], list[Event]]:
    """Store the windows and the end of a request, without notices; its run, and what it gets."""
    seen: list[Event] = []

    async def emit(event: Event) -> None:
        seen.append(event)

    replica = await cluster.replica()
    request = await replica.request("english")
    running = asyncio.create_task(replica.runner.run(request, emit, Checkpoint()))
    await until(lambda: cluster.queued == 1)
    await store_windows(replica, request.id)
    await replica.files.finish(request.id, End(result=TRANSCRIPT))
    return running, seen


def test_events_and_end_are_found_without_a_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whisperx_api_server.distributed.kafka_runner.LOOK", 0.1)

    async def scene(cluster: Cluster) -> None:
        running, seen = await untold_end(cluster)
        assert await running == TRANSCRIPT
        assert windows_of(seen) == [0, 1, 2]

    play(tmp_path, scene)


def test_an_end_is_stored_after_all_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = MemoryBucket.put
    early: list[str] = []

    async def scene(cluster: Cluster) -> None:
        runner, computed = (await cluster.worker()).world.runner, asyncio.Event()
        run = runner.run

        async def note_end(
            request: TranscriptionRequest, emit: Emit, checkpoint: Checkpoint
        ) -> Transcript:
            transcript = await run(request, emit, checkpoint)
            computed.set()
            return transcript

        async def put_late(self: MemoryBucket, key: str, data: bytes) -> None:
            if "/events/" in key:
                await computed.wait()
                for _ in range(1000):  # the end could be stored meanwhile
                    await asyncio.sleep(0)
                early.extend(each for each in self.objects if each.endswith("/end"))
            await put(self, key, data)

        vars(runner)["run"] = note_end
        monkeypatch.setattr(MemoryBucket, "put", put_late)
        events, _ = await (await cluster.replica()).run("english")
        assert early == []
        assert windows_of(events) == list(range(len(windows_of(events)))) != []

    play(tmp_path, scene)


def test_events_are_found_though_their_worker_died_before_it_told_the_end(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        running, seen = await untold_end(cluster)
        await cluster.worker()
        assert await running == TRANSCRIPT
        assert windows_of(seen) == [0, 1, 2]

    play(tmp_path, scene)


def test_a_replica_that_takes_up_a_job_sees_its_windows_so_far(tmp_path: Path) -> None:
    async def scene(cluster: Cluster) -> None:
        worker = await cluster.worker()
        worker.world.hold.stage = "diarize"
        first, second = await cluster.replica("first"), await cluster.replica("second")
        request = await first.request("english", diarize=DiarizeOptions(), waits=True)
        seen: list[list[Event]] = [[], []]

        async def emit_first(event: Event) -> None:
            seen[0].append(event)

        async def emit_second(event: Event) -> None:
            seen[1].append(event)

        running = asyncio.create_task(first.runner.run(request, emit_first, Checkpoint()))
        await until(lambda: "diarize" in worker.world.hold.calls)
        await until(lambda: len(windows_of(seen[0])) > 0)
        first.runner.leave()
        running.cancel()
        await asyncio.wait([running])
        running = asyncio.create_task(second.runner.run(request, emit_second, Checkpoint()))
        await until(lambda: set(windows_of(seen[0])) <= set(windows_of(seen[1])))
        assert not running.done()
        worker.world.hold.go.set()
        assert (await running).text.startswith("red door.")

    play(tmp_path, scene)
