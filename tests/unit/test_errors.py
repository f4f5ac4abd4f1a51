"""Which of several errors a client is told, and errors as JSON."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from whisperx_api_server.errors import (
    DiskFull,
    Failure,
    InvalidRequest,
    ModelUnavailable,
    ServiceError,
    ShuttingDown,
    TooLarge,
    TranscriptionFailed,
    Unavailable,
    UnservableCombination,
    error_for_client,
    error_of,
)

REFUSAL, OTHER_REFUSAL = InvalidRequest("refused"), InvalidRequest("refused too")
FAILURE, OTHER_FAILURE = Unavailable("busy"), ModelUnavailable("offline")
BUG = ValueError("a bug")


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ((FAILURE, OTHER_FAILURE), FAILURE),
        ((OTHER_FAILURE, FAILURE), OTHER_FAILURE),
        ((FAILURE, REFUSAL), REFUSAL),
        ((REFUSAL, OTHER_REFUSAL), REFUSAL),
        ((BUG, FAILURE), FAILURE),
        ((BUG, ExceptionGroup("inner", [FAILURE, REFUSAL])), REFUSAL),
    ],
)
def test_a_refusal_comes_before_a_failure_and_the_first_before_later_ones(
    errors: tuple[Exception, ...], told: ServiceError
) -> None:
    assert error_for_client(ExceptionGroup("together", errors)) is told


def test_a_bug_is_told_as_a_failure_and_is_its_cause() -> None:
    told = error_for_client(ExceptionGroup("together", [BUG, KeyError("later")]))
    assert isinstance(told, TranscriptionFailed)
    assert told.__cause__ is BUG


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("no", param="language"),
        UnservableCombination("not together", param="stream"),
        TooLarge("too large", param="file"),
        ModelUnavailable("offline", retry_after=2.5),
        ShuttingDown("soon", retry_after=5),
        DiskFull(),
        TranscriptionFailed("broken"),
        ServiceError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_json(error: ServiceError) -> None:
    adapter = TypeAdapter(Failure)
    back = error_of(adapter.validate_json(adapter.dump_json(error.failure())))
    assert back.failure() == error.failure()
    assert isinstance(error, type(back))
    assert type(back) is (Unavailable if isinstance(error, DiskFull) else type(error))


def test_an_error_of_a_newer_version_is_told_as_it_is() -> None:
    unknown = Failure(message="new", type="server_error", code="new_code", status=507)
    assert error_of(unknown).message == "new"
