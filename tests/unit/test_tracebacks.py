"""What is logged of a failure, and with how much detail."""

from __future__ import annotations

import logging

import pytest

from whisperx_api_server.errors import (
    InvalidAudio,
    ModelUnavailable,
    ServiceError,
    TranscriptionFailed,
)
from whisperx_api_server.scheduling.tracebacks import log_and_release

logger = logging.getLogger(__name__)


def logged(error: BaseException, caplog: pytest.LogCaptureFixture) -> str:
    try:
        raise error from OSError("the vendor's words")
    except (ServiceError, KeyError, KeyboardInterrupt) as raised:
        log_and_release(raised, logger, "run 1 failed")
    return caplog.text


@pytest.mark.parametrize("error", [KeyError("a bug"), TranscriptionFailed("it broke")])
def test_a_fault_of_the_code_is_logged_with_its_traceback(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    text = logged(error, caplog)

    assert "run 1 failed" in text
    assert f'{__file__}", line' in text
    assert "the vendor's words" in text
    assert error.__traceback__ is None


def test_an_unavailable_model_is_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = logged(ModelUnavailable("the hub cannot be reached"), caplog).strip().splitlines()

    assert "run 1 failed: the hub cannot be reached" in line
    assert "the vendor's words" in line


@pytest.mark.parametrize("error", [InvalidAudio("this is not audio"), KeyboardInterrupt()])
def test_a_refusal_and_an_interruption_are_not_logged(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    assert logged(error, caplog) == ""
