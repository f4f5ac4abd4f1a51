"""`doctor`: whether this machine has what the settings need, without loading or downloading."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import typer

from .console import FAILED

if TYPE_CHECKING:
    from ..backends import ModelKey
    from ..config import Settings

SPARE_BYTES = 1_000_000_000
"""An hour of decoded audio takes 230 MB of the temporary directory."""

Verdict = Literal["ok", "missing", "note"]
MARKS: Mapping[Verdict, str] = {
    "ok": "[green]✓[/green]",
    "missing": "[red]✗[/red]",
    "note": "[dim]–[/dim]",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One line of the table."""

    name: str
    verdict: Verdict
    found: str
    fix: str = ""


def doctor() -> None:
    """Check this machine: settings, ffmpeg, device, packages, models, Hugging Face token.

    Nothing is loaded or downloaded. The exit status is 1 if something that the settings need is
    missing.

    Examples:

        whisperx-api-server doctor
        BACKENDS__TRANSCRIPTION=parakeet whisperx-api-server doctor
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    checks = list(examine())
    table = Table("", "check", "found", "fix", box=None, pad_edge=False)
    for check in checks:
        cells = (Text(check.name), Text(check.found), Text(check.fix))
        table.add_row(MARKS[check.verdict], *cells)
    Console(width=None if sys.stdout.isatty() else 300).print(table)
    if any(check.verdict == "missing" for check in checks):
        raise typer.Exit(FAILED)


def examine() -> Iterator[Check]:
    """Every check, in order; with invalid settings, only those that do not depend on them."""
    from ..config import load_settings
    from ..errors import ConfigurationError, NotConfigured, ServiceError
    from ..keys import KeyRing
    from ..wiring import build_catalog
    from .model_files import GATED, locate

    yield from _machine()
    try:
        settings = load_settings()
        KeyRing(api_key=None, file=settings.api_keys_file)
        catalog = build_catalog(settings)
    except (ConfigurationError, NotConfigured) as error:
        yield Check(name="settings", verdict="missing", found="invalid", fix=str(error))
        return
    yield Check(name="settings", verdict="ok", found="valid")
    yield _device(settings)
    keys: list[ModelKey] = []
    stages: tuple[tuple[str, Callable[[], ModelKey | None]], ...] = (
        ("transcription", lambda: catalog.transcriber(catalog.default_model)),
        ("alignment", lambda: catalog.aligner(settings.default_language or "en")),
        ("diarization", catalog.diarizer),
        ("voice activity", catalog.voice_detector),
    )
    for name, find in stages:
        try:
            key = find()
            check = _packages(name, key)
        except ServiceError as error:
            yield Check(name=name, verdict="missing", found="no such backend", fix=error.message)
            continue
        yield check
        if key is not None and check.verdict == "ok":
            keys.append(key)
    yield from _backends()
    token_needed = False
    for key in keys:
        location = locate(key)
        if location is not None:
            yield Check(
                name=f"{key.stage} model",
                verdict="missing" if location.fix else "ok" if location.checked else "note",
                found=location.found,
                fix=location.fix,
            )
            token_needed |= location.fix == GATED
    yield _token(settings, needed=token_needed)


def _machine() -> Iterator[Check]:
    """Checks that do not depend on settings."""
    from ..audio.ffmpeg import find_ffmpeg
    from ..errors import NotInstalled

    try:
        yield Check(name="ffmpeg", verdict="ok", found=find_ffmpeg())
    except NotInstalled as error:
        yield Check(name="ffmpeg", verdict="missing", found="not installed", fix=error.message)
    directory = tempfile.gettempdir()
    free = shutil.disk_usage(directory).free
    yield Check(
        name="temporary directory",
        verdict="ok" if free > SPARE_BYTES else "missing",
        found=f"{directory}, {free / 1e9:.1f} GB free",
        fix="" if free > SPARE_BYTES else "make room, or set TMPDIR to a directory with more",
    )


def _device(settings: Settings) -> Check:
    from ..catalog import resolve_device
    from ..wiring import transcriber_settings

    present = resolve_device("auto")
    sections = transcriber_settings(settings)
    wanted = {
        f"{name.upper()}__INFERENCE_DEVICE": section.inference_device
        for name, section in settings
        if section in (settings.whisper, sections[settings.backends.transcription])
    }
    for variable, device in wanted.items():
        if device == "cuda" and present != "cuda":
            fix = f"set {variable}=auto, or check the NVIDIA driver and the package ctranslate2"
            return Check(name="device", verdict="missing", found="no usable GPU", fix=fix)
    used = {present if device == "auto" else device for device in wanted.values()}
    return Check(name="device", verdict="ok", found=", ".join(sorted(used)))


def _packages(name: str, key: ModelKey | None) -> Check:
    """Whether a stage's backend finds what it imports.

    Raises:
        NotConfigured: there is no such backend.
    """
    from ..backends import declaration, find_backend

    if key is None:
        return Check(name=name, verdict="note", found="none: the engine's own word times are used")
    declared = declaration(find_backend(key.backend, key.stage), key.stage)
    absent = [package for package in declared.packages if not _installed(package)]
    if not absent:
        return Check(name=name, verdict="ok", found=f"backend {key.backend}")
    found, fix = (
        f"backend {key.backend} lacks {', '.join(absent)}",
        declared.install_command(key.spec.device),
    )
    if key.stage == "alignment":  # the only stage that the server can do without
        found = f"none, {found}: the engine's own word times are used"
        return Check(name=name, verdict="note", found=found, fix=f"for forced alignment: {fix}")
    return Check(name=name, verdict="missing", found=found, fix=fix)


def _backends() -> Iterator[Check]:
    """Whether the packages of every built-in backend are installed; no setting needs them all."""
    from ..backends import BUILT_IN, declaration, find_backend

    for name, stages in BUILT_IN.items():
        declared = [declaration(find_backend(name, stage), stage) for stage in stages]
        absent = {
            package: each.extra
            for each in declared
            for package in each.packages
            if not _installed(package)
        }
        if not any(each.packages for each in declared):
            continue
        extras = ", ".join(sorted(set(absent.values())))
        yield Check(
            name=f"backend {name}",
            verdict="note" if absent else "ok",
            found=f"lacks {', '.join(absent)} (extra {extras})" if absent else "installed",
        )


def _token(settings: Settings, *, needed: bool) -> Check:
    from ..backends.vendors import require

    logged_in = (
        _installed("huggingface_hub") and require("huggingface_hub", extra="cpu").get_token()
    )
    if settings.hf_token is not None or logged_in:
        return Check(name="Hugging Face token", verdict="ok", found="present")
    if not needed:
        return Check(name="Hugging Face token", verdict="note", found="none; nothing needs one")
    fix = "set HF_TOKEN, after accepting the diarization model's conditions on the hub"
    return Check(name="Hugging Face token", verdict="missing", found="none", fix=fix)


def _installed(package: str) -> bool:
    """Whether a package can be found; of "a.b" only "a" is imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
