"""Downloads model files from the Hugging Face hub, and translates its errors.

Every backend may import it; huggingface_hub is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from ..errors import ModelNotFound, ModelUnavailable, ServiceError
from .base import ModelSpec
from .vendors import is_out_of_memory, require


def snapshot(spec: ModelSpec, repo_id: str, *, patterns: Sequence[str], extra: str = "cpu") -> Path:
    """Return the directory with the files of a hub repository, downloading missing files.

    Raises:
        ModelNotFound: the repository does not exist or is not accessible, or downloads are off.
        ModelUnavailable: the hub cannot be reached.
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
    """Whether the cache has one of the files, at the main revision of a hub repository.

    Reads huggingface_hub's cache layout directly, because importing its function takes 0.4 s.
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
    """Whether downloads are disabled, by our setting or by huggingface_hub's `HF_HUB_OFFLINE`."""
    constants = require("huggingface_hub.constants", extra="cpu")
    return spec.local_files_only or bool(constants.HF_HUB_OFFLINE)


@contextmanager
def translate_hub_errors(model: str, *, extra: str = "cpu") -> Iterator[None]:
    """Translate errors of huggingface_hub, also when raised inside transformers or pyannote.

    Use it only around the load of a model, since every OSError counts as a failed load.

    Raises:
        ModelNotFound: the hub refuses it, or it is not on disk while downloads are off.
        ModelUnavailable: the hub or the disk failed; a retry may succeed.
    """
    errors = require("huggingface_hub.errors", extra=extra)
    try:
        yield
    except (OSError, httpx.HTTPError, errors.HFValidationError) as error:
        if is_out_of_memory(error):
            raise
        raise _translated(error, model, errors) from error


def _translated(error: BaseException, model: str, errors: object) -> ServiceError:
    chain = list(_chain(error))

    def kinds(*names: str) -> tuple[type[Exception], ...]:
        return tuple(getattr(errors, name) for name in names)

    def has(*names: str) -> bool:
        return any(isinstance(link, kinds(*names)) for link in chain)

    status = next(filter(None, map(_http_status, chain)), None)
    if has("GatedRepoError") or status == 403:
        return ModelNotFound(
            f"the model {model!r} is gated: accept its conditions on the Hugging Face hub and set "
            "HF_TOKEN to a token with access to it"
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
            f"the model {model!r} is not on disk and downloads are off: download it first, or "
            "allow downloads"
        )
    if has("RevisionNotFoundError") or (
        has("EntryNotFoundError") and not has("LocalEntryNotFoundError")
    ):
        return ModelNotFound(
            f"{model!r} lacks files that this kind of model needs: use another model"
        )
    if status is not None:
        return ModelUnavailable(
            f"the Hugging Face hub answered {status} for the model {model!r}: try again later"
        )
    if has("LocalEntryNotFoundError") or any(map(_of_transport, chain)):
        return ModelUnavailable(
            f"the model {model!r} is not on disk and the Hugging Face hub cannot be reached: "
            "try again later"
        )
    return ModelUnavailable(
        f"the model {model!r} could not be loaded ({type(error).__name__}): see the server's log"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes, latest first."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _http_status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _of_transport(error: BaseException) -> bool:
    """Whether the error is a failed connection; huggingface_hub 0.x uses requests."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, (ConnectionError, TimeoutError)) or library in ("requests", "httpx")
