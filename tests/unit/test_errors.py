"""Which of several errors a client is told."""

from __future__ import annotations

import pytest

from whisperx_api_server.errors import (
    InvalidRequest,
    ModelUnavailable,
    ServiceError,
    TranscriptionFailed,
    Unavailable,
    error_to_tell,
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
    assert error_to_tell(ExceptionGroup("together", errors)) is told


def test_a_bug_is_told_as_a_failure_and_is_its_cause() -> None:
    told = error_to_tell(ExceptionGroup("together", [BUG, KeyError("later")]))
    assert isinstance(told, TranscriptionFailed)
    assert told.__cause__ is BUG
