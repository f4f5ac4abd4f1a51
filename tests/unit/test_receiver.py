"""What `make chaos` finds wrong with webhooks."""

from __future__ import annotations

import json

import pytest

from receiver import Delivery, faults

JOBS = {"/1": "job-1", "/2": "job-2", "/unanswered": None}


def delivery(
    path: str = "/1",
    job: str = "job-1",
    webhook_id: str = "evt_job-1",
    kind: str = "transcription.completed",
    at: int = 100,
) -> Delivery:
    event = {"type": kind, "created_at": at, "data": {"request_id": job}}
    return Delivery({"webhook-id": webhook_id}, json.dumps(event).encode(), path)


RIGHT = [delivery(), delivery("/2", "job-2", "evt_job-2")]


def test_events_that_are_sent_again_are_no_fault() -> None:
    unanswered = delivery("/unanswered", "job-3", "evt_job-3")
    assert faults(JOBS, [*RIGHT, *RIGHT, unanswered, unanswered]) == []


@pytest.mark.parametrize(
    "wrong",
    [
        delivery(webhook_id="evt_again"),
        delivery(webhook_id="evt_job-2"),
        delivery(kind="transcription.failed"),
        delivery(at=101),
        delivery(job="job-4"),
        delivery("/2", "job-1", "evt_job-1"),
        delivery("/unknown", "job-5", "evt_job-5"),
    ],
    ids=["second id", "other id", "failure", "second end", "other job", "wrong path", "unknown"],
)
def test_each_fault_is_found(wrong: Delivery) -> None:
    assert faults(JOBS, [*RIGHT, wrong])
    assert faults(JOBS, [wrong, *RIGHT])


def test_a_client_without_an_answer_has_one_job() -> None:
    twice = [delivery("/unanswered", job, f"evt_{job}") for job in ("job-3", "job-4")]
    assert len(faults(JOBS, twice)) == 1
