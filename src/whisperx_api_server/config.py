"""Settings: every one is an environment variable (nested names join with `__`), also from `.env`.

Read once, by `main` and `cli`. Each section is defined beside the code that reads it; this file
composes them.
"""

from __future__ import annotations

import base64
import difflib
import reprlib
from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from .domain import OutputFormat
from .job_store import JobSettings
from .setting_types import (
    AlignModels,
    Device,
    JsonList,
    LanguageCode,
    Languages,
    ModelPatterns,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    TranslationModels,
    UserPath,
)
from .urls import UrlFetchSettings

ComputeType = Literal[
    "default",
    "auto",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
]


def _webhook_secret(value: SecretStr) -> SecretStr:
    """What follows `whsec_` must be base64, as Standard Webhooks has it: receivers decode it."""
    written = value.get_secret_value()
    if written.startswith("whsec_"):
        try:
            key = base64.b64decode(written.removeprefix("whsec_"), validate=True)
        except ValueError:
            key = b""
        if not key:
            raise PydanticCustomError("base64", "after whsec_ there must be valid base64")
    return value


class ConfigurationError(Exception):
    """A setting has a wrong value; the message is one line that names the variable."""


class WhisperSettings(Section):
    """Transcription with Whisper."""

    model: str = Field("large-v3", description="Model name, hub id or path; the default model.")
    compute_type: ComputeType = Field(
        "default", description="CTranslate2 compute type: default, int8, float16, int8_float16…"
    )
    inference_device: Device = Field("auto", description="auto takes CUDA where there is one.")
    device_index: NonNegativeInt = Field(0, description="Which GPU.")
    cpu_threads: NonNegativeInt = Field(0, description="Threads for inference on CPU; 0 is all.")
    vad_method: Literal["silero", "pyannote"] = Field(
        "silero", description="Voice activity detector. pyannote costs far more on CPU."
    )
    batch_size: PositiveInt = Field(16, description="Most windows in one batch.")
    chunk_size: Annotated[float, Field(ge=1, le=30)] = Field(
        30.0, description="Longest window in seconds, 1 to 30."
    )
    beam_size: Annotated[int, Field(ge=1, le=20)] = Field(5, description="Beams at temperature 0.")
    download_root: UserPath | None = Field(
        None, description="Where models are kept; unset is the Hugging Face cache."
    )
    local_files_only: bool = Field(False, description="Never download: models must be on disk.")
    preload: bool = Field(False, description="Load the default model at start.")


class ModelSettings(Section):
    """Which models clients may name."""

    allowed: ModelPatterns = Field(
        default_factory=list,
        description="JSON list of hub ids, `org/*` for all of an organisation: Whisper models in "
        "CTranslate2's format that clients may name besides the published ones. Parakeets and "
        "diarization pipelines, whose files can run code, are never loaded because of it.",
    )


class AlignmentSettings(Section):
    """Word times by forced alignment."""

    models: AlignModels = Field(
        default_factory=dict,
        description="JSON object, language to model name or path; key `multilingual` is for all "
        "languages without an entry. Unset is WhisperX's table.",
    )
    preload: Languages = Field(
        default_factory=list, description="JSON list of languages whose models load at start."
    )


class DiarizationSettings(Section):
    """Who speaks when."""

    model: str = Field(
        "pyannote/speaker-diarization-community-1", description="Pipeline name or path."
    )
    preload: bool = Field(False, description="Load it at start.")


class BackendSettings(Section):
    """Which backend serves each stage: a built-in name, or one from an installed entry point."""

    transcription: str = Field("whisperx", description="whisperx, parakeet or fake.")
    alignment: str = Field(
        "whisperx", description="whisperx, fake, or none: words have the transcriber's own times."
    )
    diarization: str | None = Field(
        None,
        description="pyannote (also named whisperx), onnx or fake. Unset is pyannote if HF_TOKEN "
        "is set or DIARIZATION__MODEL is a path, else onnx.",
    )


class ParakeetSettings(Section):
    """Transcription with NVIDIA NeMo Parakeet."""

    model: str = Field(
        "nvidia/parakeet-tdt-0.6b-v2", description="Hub id or .nemo path of the Parakeet default."
    )
    inference_device: Device = Field("auto", description="auto takes CUDA where there is one.")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Arithmetic of the Parakeet model."
    )
    batch_size: PositiveInt = Field(16, description="Most windows in one batch.")
    preload: bool = Field(False, description="Load it at start.")


class TranslationSettings(Section):
    """Text translation for Reflector's /translate."""

    models: TranslationModels = Field(
        default_factory=dict,
        description="JSON object, `src-tgt` to model name or path; unset pairs are "
        "Helsinki-NLP/opus-mt-{src}-{tgt}.",
    )


class LlmSettings(Section):
    """The causal language model for Reflector's /llm."""

    model: str | None = Field(None, description="Hub id or path; unset answers 501.")


class LimitSettings(Section):
    """What one request, and all together, may ask for."""

    upload_bytes: PositiveInt = Field(
        2 * 1024**3, description="Largest upload or fetched file in bytes."
    )
    audio_seconds: PositiveFloat = Field(
        12 * 3600.0, description="Longest recording in seconds; longer ones get 413."
    )
    queue_seconds: PositiveFloat = Field(
        24 * 3600.0,
        description="Most audio seconds that may wait; beyond it new requests get 429.",
    )
    decode_timeout: PositiveFloat = Field(
        1800.0, description="Seconds that ffmpeg may take for one file; then 503."
    )
    request_timeout: NonNegativeFloat = Field(
        0.0, description="Seconds after which a request is given up; 0 is never."
    )


class SchedulerSettings(Section):
    """How windows become batches."""

    max_wait_ms: NonNegativeFloat = Field(
        4.0, description="How long an idle lane waits for company for its first window."
    )
    concurrent_per_device: PositiveInt = Field(
        2, description="Models that may compute on one device at a time."
    )


class PoolSettings(Section):
    """How long models stay loaded."""

    ttl: Annotated[float, Field(ge=-1, allow_inf_nan=False)] = Field(
        300.0, description="Seconds until an idle model is unloaded; -1 is never."
    )
    memory_bytes: NonNegativeInt = Field(
        0,
        description="Memory budget for loaded models; the least recently used idle ones go first. "
        "0 is none.",
    )


class Settings(BaseSettings):
    """All settings. Nested ones are written `WHISPER__MODEL`, top-level ones `API_KEY`."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    whisper: WhisperSettings = WhisperSettings()
    models: ModelSettings = ModelSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    diarization: DiarizationSettings = DiarizationSettings()
    backends: BackendSettings = BackendSettings()
    parakeet: ParakeetSettings = ParakeetSettings()
    translation: TranslationSettings = TranslationSettings()
    llm: LlmSettings = LlmSettings()
    limits: LimitSettings = LimitSettings()
    url_fetch: UrlFetchSettings = UrlFetchSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    pool: PoolSettings = PoolSettings()
    jobs: JobSettings = JobSettings()

    hf_token: SecretStr | None = Field(None, description="Hugging Face token for gated models.")
    api_key: SecretStr | None = Field(
        None, description="The one key that clients must send; unset with no key file is open."
    )
    api_keys_file: UserPath | None = Field(
        None, description="JSON file, key to client name; re-read when it changes."
    )
    webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = Field(
        None,
        description="Key of the HMAC-SHA256 signature on `callback_url` deliveries: `whsec_` and "
        "base64, or any other text.",
    )
    mode: Literal["direct"] = Field("direct", description="direct: models run in this process.")
    default_language: LanguageCode | None = Field(
        None, description="Language when a request names none; unset detects it."
    )
    default_response_format: OutputFormat = Field(
        "json", description="response_format when a request names none."
    )
    allowed_origins: JsonList = Field(
        default_factory=list, description="JSON list of CORS origins; unset allows none."
    )
    shutdown_grace: NonNegativeFloat = Field(
        30.0, description="Seconds that accepted requests have to finish after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe messages that are logged."
    )


def variables(
    model: type[BaseModel] = Settings, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """The environment variable of every setting and its definition, in the order of this file."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from variables(field.annotation, f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), field


def load_settings() -> Settings:
    """Read the environment and `.env`.

    Raises:
        ConfigurationError: one line that names the variable and what is wrong with its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        raise ConfigurationError(_explain(details[0])) from error
    except SettingsError as error:  # a whole section in one variable, which must be JSON then
        raise ConfigurationError(f"{error}: set its variables one by one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f".env cannot be read: {error}") from error


def _explain(error: ErrorDetails) -> str:
    known = dict(variables())
    name = "__".join(str(part) for part in error["loc"]).upper()
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, known, n=1)
        return f"{name}: there is no such setting" + (
            f"; did you mean {close[0]}?" if close else ""
        )
    # An entry of a list or an object is reported at its own place: name the variable that holds it.
    holder = next((variable for variable in known if f"{name}__".startswith(f"{variable}__")), name)
    if holder in known and _is_secret(known[holder].annotation):
        return f"{holder}: {error['msg']}"
    return f"{holder}: {error['msg']} (got {reprlib.repr(error['input'])})"


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_is_secret(each) for each in get_args(annotation))
