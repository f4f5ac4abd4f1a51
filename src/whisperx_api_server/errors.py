"""The exceptions of the service, with the HTTP status and OpenAI error code of each.

Foreign errors are translated once, where our code calls the foreign code, with `raise … from`.
A message is one sentence for the client: what is wrong, and the remedy; it never contains a path
of this machine or a traceback. `Cancelled` is never sent: the client has disconnected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A ServiceError as a value, as it is kept with a job and sent to other machines."""

    message: str
    type: ErrorType
    code: str
    param: str | None = None
    status: int = 500
    retry_after: float | None = None


class ServiceError(Exception):
    """Base class; `param` names the invalid form field, `retry_after` is in seconds.

    A subclass inherits the status and the code that it does not set.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init_subclass__(cls, *, status: int | None = None, code: str | None = None) -> None:
        cls.status = status or cls.status
        cls.code = code or cls.code

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def type(self) -> ErrorType:
        """OpenAI's kind of error, which follows from the status."""
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def failure(self) -> Failure:
        """Return the error as a value; its cause stays behind, in the log."""
        return Failure(
            message=self.message,
            type=self.type,
            code=self.code,
            param=self.param,
            status=self.status,
            retry_after=self.retry_after,
        )


class InvalidRequest(ServiceError, status=400, code="invalid_value"):
    """A field has an invalid value."""


class MissingParameter(InvalidRequest, code="missing_required_parameter"):
    """A required field is absent."""


class InvalidAudio(InvalidRequest, code="invalid_audio"):
    """The file is not audio, has no audio stream, or is truncated."""


class UnservableCombination(InvalidRequest, status=422):
    """The fields are valid, but cannot be combined."""


class Unauthorized(ServiceError, status=401, code="invalid_api_key"):
    """No API key, or a wrong one."""


class OriginRefused(ServiceError, status=403, code="origin_refused"):
    """A web page of another site, which the settings do not allow."""


class NotFound(ServiceError, status=404, code="not_found"):
    """The named object does not exist."""


class ModelNotFound(NotFound, code="model_not_found"):
    """The hub has no such model, or it is not on disk while downloads are off."""


class RequestTimeout(ServiceError, status=408, code="request_timeout"):
    """The client stopped sending its request."""


class Conflict(ServiceError, status=409, code="conflict"):
    """The object is in use."""


class TooLarge(ServiceError, status=413, code="file_too_large"):
    """The upload or the recording exceeds a limit."""


class UpgradeRequired(ServiceError, status=426, code="upgrade_required"):
    """The path is a WebSocket's."""


class Overloaded(ServiceError, status=429, code="overloaded"):
    """The queue is full; `retry_after` is computed from the measured speed."""


class TranscriptionFailed(ServiceError, code="transcription_failed"):
    """A stage failed on this recording, also in a batch of its own."""


class Interrupted(ServiceError, code="interrupted"):
    """The server ended before the job did."""


class WorkerLost(ServiceError, code="worker_lost"):
    """Each worker that tried the recording ended before it was done."""


class NotInstalled(ServiceError, status=501, code="not_installed"):
    """The packages of a stage are not installed; the message has the install command."""


class NotConfigured(NotInstalled, code="not_configured"):
    """A setting that a stage needs is missing; the message names it."""


class Unavailable(ServiceError, status=503, code="service_unavailable"):
    """A temporary failure; a retry may succeed."""


class VersionMismatch(Unavailable, code="version_mismatch"):
    """Data that another version of the server has stored cannot be read."""


class TakenOver(Unavailable):
    """Another process has the job by now."""


class DiskFull(Unavailable):
    """An upload or decoded audio does not fit on the server's disk."""

    def __init__(self) -> None:
        super().__init__("the server's disk is full: try again later", retry_after=60.0)


class ShuttingDown(Unavailable, code="shutting_down"):
    """The server is draining: accepted requests complete, new ones are refused."""


class ModelUnavailable(Unavailable, code="model_unavailable"):
    """The hub cannot be reached, or loading failed for a temporary reason."""


class InsufficientMemory(ServiceError, status=503, code="insufficient_memory"):
    """The device's memory is too small, even for one window."""


class ConfigurationError(Exception):
    """The process cannot start as it is configured; one line that names the setting."""


class Cancelled(Exception):
    """The request was cancelled: its client disconnected, it timed out, or it was deleted."""


def error_for_client(group: BaseExceptionGroup[BaseException]) -> ServiceError:
    """Choose the error to send to a client from an exception group.

    Refusals (below 500) come before failures; the first of several is used. Without a
    ServiceError, the result is TranscriptionFailed with the first error as its cause.
    """
    leaves = list(_leaves(group))
    known = [error for error in leaves if isinstance(error, ServiceError)]
    if known:
        return min(known, key=lambda error: error.status >= 500)
    failure = TranscriptionFailed("the recording could not be transcribed")
    failure.__cause__ = leaves[0]
    return failure


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def error_of(failure: Failure) -> ServiceError:
    """Return the error of a value, in the class that has its status and code."""
    named = (failure.status, failure.code)
    classes = (each for each in _classes(ServiceError) if (each.status, each.code) == named)
    kind = next(classes, ServiceError)
    return kind(failure.message, param=failure.param, retry_after=failure.retry_after)


def _classes(base: type[ServiceError]) -> Iterator[type[ServiceError]]:
    """A class, then those below it."""
    yield base
    for each in base.__subclasses__():
        yield from _classes(each)
