"""The exceptions of the service, with the HTTP status and OpenAI error code of each.

    ServiceError
    ├── InvalidRequest                400 invalid_value
    │   ├── MissingParameter          400 missing_required_parameter
    │   ├── InvalidAudio              400 invalid_audio
    │   └── UnservableCombination     422 invalid_value
    ├── Unauthorized                  401 invalid_api_key
    ├── NotFound                      404 not_found
    │   └── ModelNotFound             404 model_not_found
    ├── RequestTimeout                408 request_timeout
    ├── Conflict                      409 conflict
    ├── TooLarge                      413 file_too_large
    ├── Overloaded                    429 overloaded, Retry-After
    ├── TranscriptionFailed           500 transcription_failed
    ├── Interrupted                   500 interrupted
    ├── NotInstalled                  501 not_installed
    │   └── NotConfigured             501 not_configured
    ├── Unavailable                   503 service_unavailable, Retry-After
    │   ├── DiskFull                  503 service_unavailable, Retry-After
    │   ├── ShuttingDown              503 shutting_down
    │   └── ModelUnavailable          503 model_unavailable
    └── InsufficientMemory            503 insufficient_memory

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
    """Base class; `param` names the invalid form field, `retry_after` is in seconds."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[ErrorType] = "server_error"

    def __init__(
        self, message: str, *, param: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

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


class InvalidRequest(ServiceError):
    """A field has an invalid value."""

    status = 400
    code = "invalid_value"
    type = "invalid_request_error"


class MissingParameter(InvalidRequest):
    """A required field is absent."""

    code = "missing_required_parameter"


class InvalidAudio(InvalidRequest):
    """The file is not audio, has no audio stream, or is truncated."""

    code = "invalid_audio"


class UnservableCombination(InvalidRequest):
    """The fields are valid, but cannot be combined."""

    status = 422


class Unauthorized(ServiceError):
    """No API key, or a wrong one."""

    status = 401
    code = "invalid_api_key"
    type = "invalid_request_error"


class NotFound(ServiceError):
    """The named object does not exist."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"


class ModelNotFound(NotFound):
    """The hub has no such model, or it is not on disk while downloads are off."""

    code = "model_not_found"


class RequestTimeout(ServiceError):
    """The client stopped sending its request."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"


class Conflict(ServiceError):
    """The object is in use."""

    status = 409
    code = "conflict"
    type = "invalid_request_error"


class TooLarge(ServiceError):
    """The upload or the recording exceeds a limit."""

    status = 413
    code = "file_too_large"
    type = "invalid_request_error"


class Overloaded(ServiceError):
    """The queue is full; `retry_after` is computed from the measured speed."""

    status = 429
    code = "overloaded"
    type = "rate_limit_error"


class TranscriptionFailed(ServiceError):
    """A stage failed on this recording, also in a batch of its own."""

    code = "transcription_failed"


class Interrupted(ServiceError):
    """The server ended before the job did."""

    code = "interrupted"


class NotInstalled(ServiceError):
    """The packages of a stage are not installed; the message has the install command."""

    status = 501
    code = "not_installed"


class NotConfigured(NotInstalled):
    """A setting that a stage needs is missing; the message names it."""

    code = "not_configured"


class Unavailable(ServiceError):
    """A temporary failure; a retry may succeed."""

    status = 503
    code = "service_unavailable"


class DiskFull(Unavailable):
    """An upload or decoded audio does not fit on the server's disk."""

    def __init__(self) -> None:
        super().__init__("the server's disk is full: try again later", retry_after=60.0)


class ShuttingDown(Unavailable):
    """The server is draining: accepted requests complete, new ones are refused."""

    code = "shutting_down"


class ModelUnavailable(Unavailable):
    """The hub cannot be reached, or loading failed for a temporary reason."""

    code = "model_unavailable"


class InsufficientMemory(ServiceError):
    """The device's memory is too small, even for one window."""

    status = 503
    code = "insufficient_memory"


class Cancelled(Exception):
    """The request was cancelled: its client disconnected, it timed out, or it was deleted."""


def error_to_tell(group: BaseExceptionGroup[BaseException]) -> ServiceError:
    """Choose the error to send to a client from an exception group.

    Refusals (below 500) come before failures; the first of several is used. Without a
    ServiceError, the result is TranscriptionFailed with the first error as its cause.
    """
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    for error in leaves:
        if isinstance(error, ServiceError) and error.status < 500:
            return error
    for error in leaves:
        if isinstance(error, ServiceError):
            return error
    failure = TranscriptionFailed("the recording could not be transcribed")
    failure.__cause__ = leaves[0]
    return failure


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
