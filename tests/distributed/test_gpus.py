"""Workers of one machine take GPUs that no other has: real locks, one process each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from whisperx_api_server.config import Settings
from whisperx_api_server.distributed.gpus import free_gpu
from whisperx_api_server.errors import ConfigurationError
from whisperx_api_server.wiring import build_catalog, on_free_gpu

WORKER = """
import logging, sys
from pathlib import Path
from whisperx_api_server.distributed.gpus import free_gpu
logging.basicConfig(format="%(levelname)s %(message)s", level="INFO", stream=sys.stdout)
with free_gpu(Path(sys.argv[1]), int(sys.argv[2])) as gpu:
    print(gpu, flush=True)
    sys.stdin.read()
"""


@contextmanager
def worker(locks: Path, gpus: int) -> Iterator[tuple[int, str, subprocess.Popen[str]]]:
    """A process that has a GPU: which one, what it logged, and the process."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(locks), str(gpus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        log, gpu = process.stdout.readline(), process.stdout.readline()
        try:
            yield int(gpu), log, process
        finally:
            process.kill()


def test_each_worker_has_a_gpu_of_its_own_and_the_next_ones_share(tmp_path: Path) -> None:
    locks = tmp_path / "locks"
    with ExitStack() as stack:
        workers = [stack.enter_context(worker(locks, 2)) for _ in range(5)]
        assert [gpu for gpu, _, _ in workers] == [0, 1, 0, 1, 0]
        logs = [log for _, log, _ in workers]
        assert logs[1] == "INFO this worker has GPU 1 of 2\n"
        assert logs[4] == (
            "WARNING each of 2 GPUs has a worker: this one shares GPU 0 with 2 of them\n"
        )


def test_the_gpu_of_a_worker_that_dies_is_free(tmp_path: Path) -> None:
    with worker(tmp_path, 2), worker(tmp_path, 2) as (second, _, process):
        process.kill()
        process.wait()
        with free_gpu(tmp_path, 2) as gpu:
            assert gpu == second


def test_locks_that_cannot_be_written_stop_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match=r"^WORKER__GPU_LOCKS: .* cannot be written to: "),
        free_gpu(tmp_path / "file", 2),
    ):
        pass


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("catalog", "wiring"):
        monkeypatch.setattr(f"whisperx_api_server.{module}.gpu_count", lambda: 3)


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings(_env_file=None)


@pytest.mark.usefixtures("three_gpus")
def test_models_are_on_the_gpu_that_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(monkeypatch, WORKER__GPU_LOCKS=str(tmp_path), WHISPER__DEVICE_INDEX="")
    with worker(tmp_path, 3), on_free_gpu(given) as chosen:
        assert chosen.whisper.device_index == (1,)
        assert build_catalog(chosen).transcriber("whisper-1").spec.device_index == 1


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    "variables",
    [
        {"WHISPER__DEVICE_INDEX": "0"},
        {"WHISPER__INFERENCE_DEVICE": "cpu"},
        {"WORKER__GPU_LOCKS": ""},
    ],
)
def test_settings_that_name_the_device_take_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    given = settings(monkeypatch, **{"WORKER__GPU_LOCKS": str(tmp_path / "locks")} | variables)
    with on_free_gpu(given) as chosen:
        assert chosen is given
    assert not (tmp_path / "locks").exists()
