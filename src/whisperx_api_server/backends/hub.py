"""Names of models: where they lie, and what it means when the Hugging Face hub does not give them.

A plain helper that every backend may import; huggingface_hub itself is imported in the functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from ..errors import ModelNotFound, ModelUnavailable, ServiceError
from .base import ModelSpec, require


def snapshot(spec: ModelSpec, repo_id: str, *, patterns: Sequence[str], extra: str = "cpu") -> Path:
    """The directory with the files of a hub repository, downloaded unless they are on disk.

    Raises:
        ModelNotFound: the hub has no such repository, keeps it from us, or downloads are off.
        ModelUnavailable: the hub cannot be reached for now.
        NotInstalled: huggingface_hub is absent; the message names `extra`.
    """
    hub = require("huggingface_hub", extra=extra)
    require("huggingface_hub.utils", extra=extra).disable_progress_bars()
    with translate_hub_errors(repo_id, extra=extra):
        return Path(
            hub.snapshot_download(
                repo_id,
                cache_dir=spec.download_root,
                local_files_only=spec.local_files_only,
                token=spec.hf_token,
                allow_patterns=list(patterns),
            )
        )


def is_cached(spec: ModelSpec, repo_id: str, *files: str) -> bool:
    """Whether the cache has one of the files of a hub repository's main revision.

    As huggingface_hub lays its cache out; its own function for this takes 0.4 s to import.
    """
    constants = require("huggingface_hub.constants", extra="cpu")
    root = Path(spec.download_root or constants.HF_HUB_CACHE)
    repository = root / f"models--{repo_id.replace('/', '--')}"
    try:
        revision = (repository / "refs" / "main").read_text()
    except OSError:
        return False
    return any((repository / "snapshots" / revision / file).exists() for file in files)


def downloads_are_off(spec: ModelSpec) -> bool:
    """Whether the hub is not asked, by our setting or by huggingface_hub's `HF_HUB_OFFLINE`."""
    constants = require("huggingface_hub.constants", extra="cpu")
    return spec.local_files_only or bool(constants.HF_HUB_OFFLINE)


@contextmanager
def translate_hub_errors(model: str, *, extra: str = "cpu", advice: str = "") -> Iterator[None]:
    """Turn what huggingface_hub raises, also from within transformers or pyannote, into our errors.

    Wrap only the loading of a model in it: any other OSError inside is taken for a failed load.
    `advice` is added to the error where the model is not on disk and the hub does not give it.

    Raises:
        ModelNotFound: the hub does not give it, or it is not on disk while downloads are off.
        ModelUnavailable: the hub or the disk failed; another try may succeed.
    """
    errors = require("huggingface_hub.errors", extra=extra)
    try:
        yield
    except (OSError, httpx.HTTPError, errors.HFValidationError) as error:
        raise _translated(error, model, errors, advice) from error


def _translated(error: BaseException, model: str, errors: object, advice: str) -> ServiceError:
    chain = list(_chain(error))

    def kinds(*names: str) -> tuple[type[Exception], ...]:
        return tuple(getattr(errors, name) for name in names)

    def has(*names: str) -> bool:
        return any(isinstance(link, kinds(*names)) for link in chain)

    status = next(filter(None, map(_http_status, chain)), None)
    if has("GatedRepoError") or status == 403:
        return ModelNotFound(
            f"the model {model!r} is gated: accept its conditions on the Hugging Face hub and set "
            "HF_TOKEN to a token that may read it"
        )
    if has("RepositoryNotFoundError", "DisabledRepoError", "LocalTokenNotFoundError") or (
        status == 401
    ):
        return ModelNotFound(
            f"the Hugging Face hub has no model {model!r}: check the name, or set HF_TOKEN if it "
            "is private"
        )
    if has("HFValidationError"):
        return ModelNotFound(f"{model!r} is not a model name: use a published one or a hub id")
    if has("OfflineModeIsEnabled") or isinstance(chain[-1], kinds("LocalEntryNotFoundError")):
        return ModelNotFound(
            f"the model {model!r} is not on disk while downloads are off: download it before, or "
            f"allow downloads{advice}"
        )
    if has("RevisionNotFoundError") or (
        has("EntryNotFoundError") and not has("LocalEntryNotFoundError")
    ):
        return ModelNotFound(
            f"{model!r} lacks files that a model of this kind needs: use another model"
        )
    if status is not None:
        return ModelUnavailable(
            f"the Hugging Face hub answered {status} for the model {model!r}: try again later"
        )
    if has("LocalEntryNotFoundError") or any(map(_of_transport, chain)):
        return ModelUnavailable(
            f"the model {model!r} is not on disk and the Hugging Face hub cannot be reached: "
            f"try again later{advice}"
        )
    return ModelUnavailable(
        f"the model {model!r} could not be loaded ({type(error).__name__}): see the server's log"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _http_status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _of_transport(error: BaseException) -> bool:
    """Whether it never came to an answer; huggingface_hub 0.x speaks through requests."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, (ConnectionError, TimeoutError)) or library in ("requests", "httpx")
