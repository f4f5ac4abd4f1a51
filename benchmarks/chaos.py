"""`make chaos`: workers and replicas of MODE=kafka are killed at random times under load.

No job may be lost, answered wrongly, end twice, or be told of under two webhook ids or to another
receiver, and runs of killed workers must resume. `CHAOS_KILLS` (20) and `CHAOS_SEED` (0) set the
number of kills and the dice.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urljoin

import httpx

from . import simulated_backend
from .common import TESTS
from .machines import Machines, machines, wait_until_ready

sys.path.insert(0, str(TESTS))

from live import PATH
from receiver import Receiver, faults
from server import Server
from tones import CHUNK, sentences, text

LENGTHS = (4, 8, 12)
"""Windows of the recordings."""

UNDER_WAY = 12
"""Jobs that are kept under way."""

LONGEST = 300.0
"""Seconds that the last jobs may take."""

ADOPTION = 20.0
"""Seconds after a kill in which the other replica takes up jobs, and may tell of their ends."""


class Load:
    """Submits jobs to the replicas that live, and remembers what each has to say.

    Each submission has a `callback_url` of its own; `paths` has the job that was answered for it.
    """

    def __init__(self, replicas: list[Server], callback_url: str, dice: random.Random) -> None:
        self._replicas = replicas
        self._callback_url = callback_url
        self._dice = dice
        self._recordings = {length: sentences(length) for length in LENGTHS}
        self._stopping = threading.Event()
        self.jobs: dict[str, int] = {}
        self.paths: dict[str, str | None] = {}
        self.ended: dict[str, str] = {}
        self.thread = threading.Thread(target=self._run)

    def stop(self) -> None:
        self._stopping.set()
        self.thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if len(self.jobs) - len(self.ended) < UNDER_WAY:
                self._submit()
            self.look()
            time.sleep(0.1)

    def _submit(self) -> None:
        length = self._dice.choice(LENGTHS)
        path = f"/{len(self.paths)}"
        self.paths[path] = None
        try:
            answer = self._dice.choice(self._replicas).transcribe(
                self._recordings[length],
                **{"async": "true"},
                callback_url=urljoin(self._callback_url, path),
                **CHUNK,
            )
        except (httpx.HTTPError, RuntimeError):  # the replica is killed; nothing was promised
            return
        if answer.status_code == 202:
            job = self.paths[path] = answer.json()["request_id"]
            self.jobs[job] = length

    def look(self) -> None:
        """Note the jobs that have ended since, as any replica tells."""
        for job in self.jobs.keys() - self.ended.keys():
            try:
                status = self.get(f"{PATH}/{job}/status").json().get("status", "lost")
            except (httpx.HTTPError, RuntimeError):
                continue
            if status not in ("queued", "running"):
                self.ended[job] = status

    def get(self, path: str) -> httpx.Response:
        return self._dice.choice(self._replicas).http.get(path)


def kill(victims: list[Server], place: int, start: Machines, engine: dict[str, str]) -> None:
    """Kill a process, and start another in its place; engines are a worker's."""
    victim = victims[place]
    victim.process.send_signal(signal.SIGKILL)
    victim.process.wait()
    fresh = start.worker(engine) if engine else start.replica()
    wait_until_ready(fresh)
    victims[place] = fresh


def is_right(load: Load, replicas: list[Server], job: str) -> bool:
    """Whether each replica says that a job completed, as one has said before, and with its text."""
    answers = [each.http.get(f"{PATH}/{job}/result").json() for each in replicas]
    states = [each.http.get(f"{PATH}/{job}/status").json().get("status") for each in replicas]
    return {load.ended.get(job), *states} == {"completed"} and all(
        answer.get("text") == text(load.jobs[job]) for answer in answers
    )


def told(load: Load, receiver: Receiver) -> set[str]:
    """The jobs whose receivers were told of something."""
    return {job for each in [*receiver.deliveries] if (job := load.paths.get(each.path))}


def settle(load: Load, receiver: Receiver) -> None:
    """Wait for the ends of all jobs, and for the time in which they could be told a second time."""
    adopted = time.monotonic() + ADOPTION
    deadline = time.monotonic() + LONGEST
    while time.monotonic() < deadline:
        load.look()
        if load.jobs.keys() <= load.ended.keys() and set(load.jobs) <= told(load, receiver):
            break
        time.sleep(0.2)
    time.sleep(max(0.0, adopted - time.monotonic()))


def main() -> int:
    kills, seed = int(os.environ.get("CHAOS_KILLS", "20")), int(os.environ.get("CHAOS_SEED", "0"))
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, Receiver() as receiver:
        directory = Path(name)
        engine = simulated_backend.settings(directory / "engine", batch=0.3, window=0.05)
        settings = {
            "WEBHOOK_SECRET": "secret",
            "URL_FETCH__ALLOW_PRIVATE_HOSTS": "true",
            "JOBS__RETRY_WINDOW": "0",  # each job is a run of its own
            "KAFKA__MAX_ATTEMPTS": "4",  # the dice may hit one run again and again
        }
        with machines(directory, settings) as start:
            replicas = [start.replica() for _ in range(2)]
            workers = [start.worker(engine) for _ in range(2)]
            wait_until_ready(*replicas, *workers)
            load = Load(replicas, receiver.url, dice)
            load.thread.start()
            killed: Counter[str] = Counter()
            for _ in range(kills):
                time.sleep(dice.uniform(0.5, 3))
                if dice.random() < 0.75:
                    kill(workers, dice.randrange(len(workers)), start, engine)
                    killed["workers"] += 1
                else:
                    kill(replicas, dice.randrange(len(replicas)), start, {})
                    killed["replicas"] += 1
            load.stop()
            settle(load, receiver)
            wrong = [job for job in load.jobs if not is_right(load, replicas, job)]
            untold = set(load.jobs) - told(load, receiver)
            found = faults(load.paths, receiver.deliveries)
            resumed = [
                int(count)
                for server in start.servers
                for count in re.findall(r"resumes after (\d+) windows", server.log)
            ]
    print(f"kills         {killed['workers']} workers, {killed['replicas']} replicas")
    print(f"jobs          {len(load.jobs)}")
    print(f"lost or wrong {len(wrong)} {dict(Counter(map(load.ended.get, wrong)))}")
    print(f"resumed       {len(resumed)} runs after {sum(resumed)} windows")
    print(f"webhooks      {len(receiver.deliveries)} sent; {len(untold)} jobs not told")
    print(f"faults        {len(found)}", *found, sep="\n              ")
    return 1 if wrong or untold or found or not resumed else 0


if __name__ == "__main__":
    sys.exit(main())
