"""Finds a model's files on disk or on the hub, without downloading."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from ..backends import ModelKey
    from ..backends.base import ModelSpec

HUB_TIMEOUT = 5.0  # s

GATED = "it is gated: accept its conditions on the Hugging Face hub and set HF_TOKEN"


@dataclass(frozen=True, kw_only=True, slots=True)
class Location:
    """Where a model was found; `fix` is empty when it is there or can be downloaded.

    `checked` is False where only the first use will tell.
    """

    found: str
    fix: str = ""
    checked: bool = True


def locate(key: ModelKey) -> Location | None:
    """Find the model; None if it has no files of its own."""
    from ..backends import model_advice

    location = _locate(key)
    if location is None or not location.fix:
        return location
    return replace(location, fix=location.fix + model_advice(key))


def _locate(key: ModelKey) -> Location | None:
    from ..backends import declaration, find_backend, model_source

    declared = declaration(find_backend(key.backend, key.stage), key.stage)
    if declared.probe is None:
        return None
    name = key.spec.name
    probe = declared.probe.format(name=name.rpartition("/")[2])
    if key.spec.path is not None:
        return _on_path(key.spec.path, probe)
    if model_source(key) == "packages":
        return Location(found=f"{name}: in installed packages")
    repository = declared.repository(name)
    if repository is None:
        found = f"{name}: not on the hub, downloaded at its first use; not checked"
        return Location(found=found, checked=False)
    return _on_hub(repository, probe, key.spec)


def _on_path(path: Path, probe: str) -> Location:
    if path.is_file() or (path / probe).is_file():
        return Location(found=f"{path}: on disk")
    return Location(found=str(path), fix=f"there is no model ({probe}): correct the path")


def _on_hub(repository: str, file: str, spec: ModelSpec) -> Location:
    import huggingface_hub

    cached = huggingface_hub.try_to_load_from_cache(repository, file, cache_dir=spec.download_root)
    if isinstance(cached, str):
        return Location(found=f"{repository}: on disk")
    if spec.local_files_only:
        fix = "download it, or unset WHISPER__LOCAL_FILES_ONLY"
    else:
        fix = _refusal(huggingface_hub.hf_hub_url(repository, file), spec.hf_token)
    if fix:
        return Location(found=f"{repository}: not on disk", fix=fix)
    return Location(found=f"{repository}: on the Hugging Face hub, downloaded at its first use")


def _refusal(url: str, token: str | None) -> str:
    """Why the hub refuses a file, and the remedy; empty if it does not.

    One HEAD request: huggingface_hub itself would retry for most of a minute.
    """
    from ..backends.vendors import require

    utils = require("huggingface_hub.utils", extra="cpu")
    errors = require("huggingface_hub.errors", extra="cpu")
    try:
        headers = utils.build_hf_headers(token=token)
        utils.hf_raise_for_status(
            utils.get_session().head(url, headers=headers, timeout=HUB_TIMEOUT)
        )
    except errors.GatedRepoError:
        return GATED
    except errors.RepositoryNotFoundError:
        return "the hub has no such model: correct the name, or set HF_TOKEN if it is private"
    except errors.EntryNotFoundError:
        return f"it is not a model of this kind: it has no {url.rpartition('/')[2]}"
    except errors.OfflineModeIsEnabled:
        return "download it, or unset HF_HUB_OFFLINE"
    except errors.HfHubHTTPError as error:
        return f"the hub answers {error.response.status_code}: try again later"
    except (OSError, httpx.HTTPError):
        return "the Hugging Face hub cannot be reached: check the network"
    return ""
