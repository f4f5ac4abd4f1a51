"""Settings: every one is an environment variable (nested names join with `__`), also from `.env`.

Read once, by `main`, `wiring` and `cli`. Each section is defined beside the code that reads it;
this file composes them.
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

from .audio.urls import UrlFetchSettings
from .distributed.bucket import S3Settings
from .distributed.connection import KafkaSettings
from .distributed.worker_limits import WorkerSettings
from .errors import ConfigurationError
from .jobs.admission import LimitSettings
from .jobs.store import JobSettings
from .live.settings import LiveSettings
from .model_settings import (
    AlignmentSettings,
    BackendSettings,
    DiarizationSettings,
    LlmSettings,
    ModelSettings,
    ParakeetSettings,
    TranslationSettings,
    WhisperSettings,
)
from .output_formats import OutputFormat
from .scheduling.model_pool import PoolSettings, SchedulerSettings
from .setting_types import JsonList, LanguageCode, NonNegativeFloat, Section, UserPath


def _webhook_secret(value: SecretStr) -> SecretStr:
    """Standard Webhooks: after `whsec_` there is base64, which receivers decode."""
    written = value.get_secret_value()
    if written.startswith("whsec_"):
        try:
            key = base64.b64decode(written.removeprefix("whsec_"), validate=True)
        except ValueError:
            key = b""
        if not key:
            raise PydanticCustomError("base64", "after whsec_ there must be valid base64")
    return value


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
    kafka: KafkaSettings = KafkaSettings()
    s3: S3Settings = S3Settings()
    worker: WorkerSettings = WorkerSettings()
    realtime: LiveSettings = LiveSettings()

    hf_token: SecretStr | None = Field(None, description="Hugging Face token, for gated models.")
    api_key: SecretStr | None = Field(
        None,
        description="API key that clients must send. If neither this nor API_KEYS_FILE is set, "
        "the server is open to everyone.",
    )
    api_keys_file: UserPath | None = Field(
        None, description="JSON file, API key to client name; it is read again when it changes."
    )
    webhook_secret: Annotated[SecretStr, AfterValidator(_webhook_secret)] | None = Field(
        None,
        description="Key of the HMAC-SHA256 signature of `callback_url` deliveries: `whsec_` and "
        "base64, or any other text.",
    )
    mode: Literal["direct", "kafka"] = Field(
        "direct",
        description="Where models run: direct, in this process; kafka, in the processes of "
        "`whisperx-api-server worker`.",
    )
    default_language: LanguageCode | None = Field(
        None, description="Language of requests that name none; unset detects it."
    )
    default_response_format: OutputFormat = Field(
        "json", description="response_format of requests that name none."
    )
    allowed_origins: JsonList = Field(
        default_factory=list,
        description="JSON list of the origins whose web pages may use the API (CORS); without a "
        "key, also those whose pages may open live sessions.",
    )
    shutdown_grace: NonNegativeFloat = Field(
        30.0, description="Seconds until requests that are under way are cancelled after SIGTERM."
    )
    metrics: Literal["key", "open"] = Field(
        "key",
        description="Access to GET /metrics: key, with an API key like other routes; or open, "
        "without one.",
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None,
        description="URL of an OpenTelemetry collector (OTLP over HTTP) for traces; unset disables "
        "them.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum level of log messages: debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Format of log lines: text, or json, one object per line."
    )


def variables(
    model: type[BaseModel] = Settings, prefix: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """The environment variable of every setting and its definition, in the order of `Settings`."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from variables(field.annotation, f"{prefix}{name.upper()}__")
        else:
            yield prefix + name.upper(), field


def load_settings() -> Settings:
    """Read the environment and `.env`.

    Raises:
        ConfigurationError: one line that names the variable and the problem with its value.
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
        return f"{name}: unknown setting" + (f"; did you mean {close[0]}?" if close else "")
    # An entry of a list or an object is reported at its own place: name the variable that holds it.
    holder = next((variable for variable in known if f"{name}__".startswith(f"{variable}__")), name)
    if holder in known and _is_secret(known[holder].annotation):
        return f"{holder}: {error['msg']}"
    return f"{holder}: {error['msg']} (got {reprlib.repr(error['input'])})"


def _is_secret(annotation: object) -> bool:
    return annotation is SecretStr or any(_is_secret(each) for each in get_args(annotation))
