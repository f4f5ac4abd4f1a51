"""What the model hub refuses ends in 404 or 503, with the reason and without paths."""

from __future__ import annotations

import httpx
import huggingface_hub.errors as hub_errors
import pytest
import requests

from whisperx_api_server.backends.hub import translate_hub_errors
from whisperx_api_server.errors import InvalidRequest, ModelNotFound, ModelUnavailable


def answer(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    return response


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "ours", "says"),
    [
        (hub_errors.GatedRepoError("x", answer(403)), ModelNotFound, "HF_TOKEN"),
        (hub_errors.HfHubHTTPError("x", response=answer(403)), ModelNotFound, "gated"),
        (hub_errors.RepositoryNotFoundError("x", answer(404)), ModelNotFound, "check the name"),
        (hub_errors.HfHubHTTPError("x", response=answer(401)), ModelNotFound, "check the name"),
        (hub_errors.RevisionNotFoundError("x", answer(404)), ModelNotFound, "lacks files"),
        (hub_errors.EntryNotFoundError("x", answer(404)), ModelNotFound, "lacks files"),
        (hub_errors.HFValidationError("x"), ModelNotFound, "not a model name"),
        (hub_errors.OfflineModeIsEnabled("x"), ModelNotFound, "downloads are off"),
        (hub_errors.LocalEntryNotFoundError("x"), ModelNotFound, "downloads are off"),
        (
            caused(OSError("transformers"), hub_errors.LocalEntryNotFoundError("x")),
            ModelNotFound,
            "downloads are off",
        ),
        (
            caused(hub_errors.LocalEntryNotFoundError("x"), requests.ConnectionError("refused")),
            ModelUnavailable,
            "cannot be reached",
        ),
        (
            caused(OSError("transformers"), hub_errors.RepositoryNotFoundError("x", answer(404))),
            ModelNotFound,
            "check the name",
        ),
        (requests.Timeout("x"), ModelUnavailable, "cannot be reached"),
        (httpx.ConnectError("x"), ModelUnavailable, "cannot be reached"),
        (hub_errors.HfHubHTTPError("x", response=answer(502)), ModelUnavailable, "502"),
        (OSError(28, "No space left on device"), ModelUnavailable, "OSError"),
    ],
)
def test_each_refusal_has_its_reason(error: Exception, ours: type[Exception], says: str) -> None:
    with pytest.raises(ours, match=says) as caught, translate_hub_errors("mine"):
        raise error
    assert type(caught.value) is ours
    assert caught.value.__cause__ is error
    assert "'mine'" in str(caught.value)


def test_our_own_errors_pass() -> None:
    with pytest.raises(InvalidRequest), translate_hub_errors("a/b"):
        raise InvalidRequest("x")
