"""Jobs on disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from whisperx_api_server.domain import (
    Job,
    OutputOptions,
    Segment,
    StageTimes,
    TokenLogprob,
    Transcript,
    Word,
)
from whisperx_api_server.errors import ConfigurationError, Failure, Unavailable
from whisperx_api_server.jobs.states import surplus
from whisperx_api_server.jobs.store import (
    DiskJobStore,
    JobSettings,
    default_directory,
)

ID = "0123456789abcdef0123456789abcdef"

JOB = Job(
    id=ID,
    client="ann",
    state="failed",
    submitted_at=100.5,
    finished_at=200.25,
    duration=60.0,
    progress=0.5,
    stages=(StageTimes(name="open", started_at=101.0, finished_at=102.0),),
    error=Failure(message="no", type="server_error", code="broken", param=None),
    output=OutputOptions(format="srt", granularities=frozenset({"word"}), highlight_words=True),
    callback_url="https://a.example/done",
)

TRANSCRIPT = Transcript(
    task="transcribe",
    language="fr",
    languages=("fr", "en"),
    duration=60.0,
    segments=(
        Segment(
            start=0.0,
            end=1.5,
            text="où ça",
            language="fr",
            words=(Word(text="où", start=0.0, end=0.5, score=0.9, speaker="SPEAKER_00"),),
            speaker="SPEAKER_00",
            tokens=(1, 2),
            logprobs=(TokenLogprob(token="où", logprob=-0.1, bytes=(111, 195, 185)),),
        ),
        Segment(start=2.0, end=3.0, text="no words"),
    ),
    speaker_embeddings={"SPEAKER_00": (0.25, 0.5)},
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def store(tmp_path: Path) -> DiskJobStore:
    return DiskJobStore(tmp_path / "jobs")


@pytest.mark.anyio
async def test_a_stored_job_is_read_back_whole(store: DiskJobStore, tmp_path: Path) -> None:
    await store.save(JOB)
    await store.save_transcript(ID, TRANSCRIPT)
    anew = DiskJobStore(tmp_path / "jobs")

    assert await anew.load() == [JOB]
    assert await anew.transcript(ID) == TRANSCRIPT


@pytest.mark.anyio
async def test_other_users_cannot_read_it(store: DiskJobStore, tmp_path: Path) -> None:
    await store.save(JOB)
    await store.save_transcript(ID, TRANSCRIPT)

    assert (tmp_path / "jobs").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "jobs").iterdir()} == {0o600}


def test_two_servers_never_share_a_directory(store: DiskJobStore, tmp_path: Path) -> None:
    second = DiskJobStore(tmp_path / "jobs")
    store.claim()
    store.claim()

    with pytest.raises(ConfigurationError, match="JOBS__DIRECTORY: another server uses"):
        second.claim()
    store.close()
    second.claim()


def test_a_directory_of_another_user_is_refused(
    store: DiskJobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    os.chown(tmp_path / "jobs", 4321, -1) if os.getuid() == 0 else None
    monkeypatch.setattr(os, "getuid", lambda: 1234)

    with pytest.raises(ConfigurationError, match="JOBS__DIRECTORY: other users can write"):
        store.claim()


def test_a_directory_that_others_can_write_to_is_refused(
    store: DiskJobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs").chmod(0o777)
    if os.getuid() == 0:
        os.chown(tmp_path / "jobs", 4321, -1)
        monkeypatch.setattr(os, "getuid", lambda: 4321)

    with pytest.raises(ConfigurationError, match="other users can write"):
        store.claim()


def test_a_directory_that_cannot_be_made_refuses_jobs_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")

    DiskJobStore(tmp_path / "file" / "jobs").claim()

    assert "jobs cannot be kept in JOBS__DIRECTORY" in caplog.text


def test_servers_of_a_user_have_a_default_directory_per_port(tmp_path: Path) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path)}

    assert default_directory(state, 8000) == tmp_path / "whisperx-api-server" / "jobs-8000"
    assert default_directory(state, 9000) != default_directory(state, 8000)
    assert default_directory({"XDG_STATE_HOME": "relative"}, 1).is_relative_to(Path.home())


@pytest.mark.anyio
async def test_a_job_is_replaced_and_deleted(store: DiskJobStore, tmp_path: Path) -> None:
    await store.save(JOB)
    await store.save(replace(JOB, progress=1.0))
    await store.save_transcript(ID, TRANSCRIPT)
    assert [job.progress for job in await store.load()] == [1.0]

    await store.delete(ID)
    await store.delete(ID)

    assert await store.load() == []
    assert await store.transcript(ID) is None
    assert list((tmp_path / "jobs").iterdir()) == []


@pytest.mark.anyio
async def test_damaged_files_are_left_out_and_said(
    store: DiskJobStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await store.save(JOB)
    (tmp_path / "jobs" / f"{'1' * 32}.job.json").write_text('{"id": "1"')
    (tmp_path / "jobs" / f"{ID}.transcript.jsonl").write_bytes(b"\xff")

    assert await store.load() == [JOB]
    assert await store.transcript(ID) is None
    assert "1" * 32 in caplog.text
    assert f"{ID}.transcript.jsonl" in caplog.text


@pytest.mark.anyio
async def test_half_a_write_leaves_the_old_file_and_is_swept(
    store: DiskJobStore, tmp_path: Path
) -> None:
    await store.save(JOB)
    (tmp_path / "jobs" / ".unfinished-x").write_text("{")

    assert await store.load() == [JOB]
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [f"{ID}.job.json"]


@pytest.mark.anyio
async def test_a_disk_that_takes_nothing_is_said_to_the_client(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = DiskJobStore(tmp_path / "file")

    with pytest.raises(Unavailable, match="cannot keep jobs") as refused:
        await store.save(JOB)
    assert str(tmp_path) not in refused.value.message


@pytest.mark.anyio
async def test_no_other_file_is_reached(store: DiskJobStore, tmp_path: Path) -> None:
    await store.save(JOB)
    (tmp_path / "secret.transcript.jsonll").write_bytes(b"{}")

    assert await store.transcript("../secret") is None


def test_the_oldest_and_the_surplus_go_but_never_what_is_under_way() -> None:
    def job(place: int, **fields: object) -> Job:
        return replace(JOB, id=f"{place:032x}", submitted_at=float(place), **fields)  # type: ignore[arg-type]

    old = job(9, finished_at=899.0)
    running = job(0, state="running", finished_at=None)
    ended = [job(place, finished_at=950.0) for place in range(1, 6)]

    gone = surplus([running, old, *ended], JobSettings(max_age=100, max_count=3), now=1000.0)

    # `old` is the newest by its number, and counts among the three that may stay.
    assert {each.id for each in gone} == {old.id, *(each.id for each in ended[:3])}
