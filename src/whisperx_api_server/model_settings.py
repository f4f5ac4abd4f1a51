"""Settings sections of engines and models: engine per stage, model, device, precision."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .setting_types import (
    AlignModels,
    Device,
    DeviceIndices,
    Languages,
    ModelPatterns,
    NonNegativeInt,
    PositiveInt,
    Section,
    TranslationModels,
    UserPath,
)

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


class WhisperSettings(Section):
    """Transcription with Whisper."""

    model: str = Field(
        "large-v3", description="Name, hub id or path of the model for requests that name none."
    )
    compute_type: ComputeType = Field(
        "default",
        description="CTranslate2 compute type, such as default, int8, float16 or int8_float16.",
    )
    inference_device: Device = Field(
        "auto", description="Device: cpu, cuda, or auto, which is cuda if there is a usable GPU."
    )
    device_index: DeviceIndices = Field(
        (0,),
        description="Indices of the GPUs, separated by commas, for all models: each GPU gets a "
        "copy of a model, and all copies compute the batches of one queue.",
    )
    cpu_threads: NonNegativeInt = Field(
        0, description="Number of threads for inference on the CPU; 0 uses all cores."
    )
    vad_method: Literal["silero", "pyannote"] = Field(
        "silero", description="Voice activity detector: silero, or pyannote, much slower on a CPU."
    )
    batch_size: PositiveInt = Field(16, description="Maximum number of windows per batch.")
    chunk_size: Annotated[float, Field(ge=1, le=30)] = Field(
        30.0, description="Maximum length of a window in seconds, 1 to 30."
    )
    context: Literal["auto", "full"] = Field(
        "auto",
        description="How much audio Whisper encodes per window: auto, which on a CPU is the speech "
        "and a few seconds of silence; or full, always 30 s.",
    )
    beam_size: Annotated[int, Field(ge=1, le=20)] = Field(
        5, description="Number of beams at temperature 0, for requests that name none."
    )
    download_root: UserPath | None = Field(
        None, description="Directory for downloaded models; unset is the Hugging Face cache."
    )
    local_files_only: bool = Field(
        False, description="Whether to forbid downloads, so that models must be on disk."
    )
    preload: bool = Field(False, description="Whether to load the model at start.")

    @property
    def precision(self) -> str:
        """The type to compute in."""
        return self.compute_type

    @property
    def short_contexts(self) -> bool:
        """Whether windows may be encoded in less than 30 s."""
        return self.context == "auto"


class ModelSettings(Section):
    """Models that clients may name."""

    allowed: ModelPatterns = Field(
        default_factory=list,
        description="JSON list of hub ids of Whisper models in CTranslate2's format that clients "
        "may name besides the published ones; `org/*` matches all of an organisation. Parakeets "
        "and diarization pipelines, whose files can run code, are never allowed by this setting.",
    )


class AlignmentSettings(Section):
    """Word times by forced alignment."""

    models: AlignModels = Field(
        default_factory=dict,
        description="JSON object, language to model name or path; the key `multilingual` is for "
        "all languages without an entry. Unset uses WhisperX's table.",
    )
    preload: Languages = Field(
        default_factory=list,
        description="JSON list of the languages whose models are loaded at start.",
    )


class DiarizationSettings(Section):
    """Speaker diarization."""

    model: str = Field(
        "pyannote/speaker-diarization-community-1",
        description="Hub id or path of the pyannote pipeline.",
    )
    preload: bool = Field(False, description="Whether to load the diarizer at start.")


class BackendSettings(Section):
    """Backend of each stage.

    A built-in one, or one from an installed entry point.
    """

    transcription: str = Field("whisperx", description="Transcriber: whisperx, parakeet or fake.")
    alignment: str = Field(
        "whisperx",
        description="Aligner: whisperx, fake, or none, which keeps the transcriber's word times.",
    )
    diarization: str | None = Field(
        None,
        description="Diarizer: pyannote (also named whisperx), onnx or fake. Unset is pyannote if "
        "HF_TOKEN is set or DIARIZATION__MODEL is a path, else onnx.",
    )


class ParakeetSettings(Section):
    """Transcription with NVIDIA NeMo Parakeet."""

    model: str = Field(
        "nvidia/parakeet-tdt-0.6b-v2",
        description="Hub id or .nemo path of the model that `parakeet` means.",
    )
    inference_device: Device = Field(
        "auto", description="Device: cpu, cuda, or auto, which is cuda if there is a usable GPU."
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="Floating-point type: float32, bfloat16 or float16."
    )
    batch_size: PositiveInt = Field(16, description="Maximum number of windows per batch.")
    preload: bool = Field(False, description="Whether to load the model at start.")

    @property
    def short_contexts(self) -> bool:
        """Parakeet does not pad its windows."""
        return False


TranscriberSettings = WhisperSettings | ParakeetSettings
"""The sections of transcription backends; `Declaration.settings` names one."""


class TranslationSettings(Section):
    """Text translation, for Reflector's /translate."""

    models: TranslationModels = Field(
        default_factory=dict,
        description="JSON object, `src-tgt` to model name or path; other pairs use "
        "Helsinki-NLP/opus-mt-{src}-{tgt}.",
    )


class LlmSettings(Section):
    """Text generation, for Reflector's /llm."""

    model: str | None = Field(
        None, description="Hub id or path of a causal language model; unset answers 501."
    )
