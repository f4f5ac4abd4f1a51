"""Settings: what is read, and the one line that a wrong value gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisperx_api_server.config import Settings, load_settings, variables
from whisperx_api_server.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting and no `.env` of whoever runs the tests."""
    for name, _ in variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_are_the_documented_ones() -> None:
    settings = load_settings()
    assert settings.whisper.model == "large-v3"
    assert settings.diarization.model == "pyannote/speaker-diarization-community-1"
    assert settings.backends.transcription == "whisperx"
    assert settings.mode == "direct"
    assert settings.api_key is None


def test_nested_and_json_values_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER__BATCH_SIZE", "3")
    monkeypatch.setenv("whisper__model", "tiny")
    monkeypatch.setenv("WHISPER__DEVICE_INDEX", "0, 2")
    monkeypatch.setenv("ALIGNMENT__MODELS", '{"en": "a", "multilingual": "b"}')
    monkeypatch.setenv("ALLOWED_ORIGINS", '["https://example.com"]')
    settings = load_settings()
    assert settings.whisper.batch_size == 3
    assert settings.whisper.model == "tiny"
    assert settings.whisper.device_index == (0, 2)
    assert settings.alignment.models == {"en": "a", "multilingual": "b"}
    assert settings.allowed_origins == ["https://example.com"]


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".env").write_text("WHISPER__MODEL=small\nLOG_LEVEL=debug\nSOMEBODY_ELSES=1\n")
    monkeypatch.setenv("WHISPER__MODEL", "tiny")
    settings = load_settings()
    assert (settings.whisper.model, settings.log_level) == ("tiny", "debug")


def test_an_empty_value_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER__CHUNK_SIZE", "")
    monkeypatch.setenv("ALIGNMENT__MODELS", "")
    assert load_settings() == Settings()


def test_a_home_directory_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("API_KEYS_FILE", "~/keys.json")
    assert load_settings().api_keys_file == tmp_path / "keys.json"


def test_secrets_do_not_show() -> None:
    assert "hush" not in repr(Settings(api_key="hush", hf_token="hush", webhook_secret="hush"))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("WHISPER__BATCH_SIZE", "many", "valid integer"),
        ("WHISPER__BATCH_SIZE", "0", "greater than 0"),
        ("WHISPER__DEVICE_INDEX", "0,gpu", "valid integer"),
        ("WHISPER__DEVICE_INDEX", "0,-1", "greater than or equal to 0"),
        ("WHISPER__DEVICE_INDEX", "1,1", "an index is there twice"),
        ("WHISPER__CHUNK_SIZE", "nan", "less than or equal to 30"),
        ("WHISPER__CHUNK_SIZE", "31", "less than or equal to 30"),
        ("WHISPER__VAD_METHOD", "loud", "'silero' or 'pyannote'"),
        ("WHISPER__PRELOAD", "maybe", "valid boolean"),
        ("LIMITS__AUDIO_SECONDS", "nan", "finite"),
        ("LIMITS__QUEUE_SECONDS", "inf", "finite"),
        ("LIMITS__UPLOAD_BYTES", "2GB", "valid integer"),
        ("POOL__TTL", "nan", "finite"),
        ("POOL__TTL", "-2", "greater than or equal to -1"),
        ("MODE", "cluster", "'direct'"),
        ("LOG_LEVEL", "loud", "'debug'"),
        ("WHISPER__COMPUTE_TYPE", "int9", "'int8_float16'"),
        ("DEFAULT_LANGUAGE", "xx", "ISO-639-1"),
        ("DEFAULT_LANGUAGE", "{x}", "ISO-639-1"),
        ("DEFAULT_RESPONSE_FORMAT", "docx", "'verbose_json'"),
        ("ALIGNMENT__MODELS", "{", "should be JSON"),
        ("ALIGNMENT__MODELS", '["en"]', "valid dictionary"),
        ("ALIGNMENT__MODELS", '{"en": 3}', "valid string"),
        ("ALIGNMENT__MODELS", '{"klingon": "a"}', "ISO-639-1"),
        ("ALIGNMENT__PRELOAD", "en,fr", "should be JSON"),
        ("ALIGNMENT__PRELOAD", '["klingon"]', "ISO-639-1"),
        ("TRANSLATION__MODELS", '{"en_fr": "a"}', "such as en-fr"),
        ("TRANSLATION__MODELS", '{"en-klingon": "a"}', "ISO-639-1"),
        ("MODELS__ALLOWED", '["*"]', "pattern"),
        ("MODELS__ALLOWED", '["../models/*"]', "pattern"),
        ("URL_FETCH__ALLOWED_HOSTS", "[1]", "valid string"),
        ("WHISPER", "[]", "valid dictionary"),
        ("WHISPER__MODLE", "tiny", "did you mean WHISPER__MODEL?"),
        ("WHISPER__MODEL__NAME", "tiny", "valid string"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(name.removesuffix("__NAME") + ": ")
    assert reason in message


def test_a_language_may_be_written_as_clients_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What requests are matched with is the code that their own names become."""
    monkeypatch.setenv("DEFAULT_LANGUAGE", "nb")
    monkeypatch.setenv("ALIGNMENT__PRELOAD", '["english", "pt-BR"]')
    monkeypatch.setenv("ALIGNMENT__MODELS", '{"Norwegian": "a", "multilingual": "b"}')
    monkeypatch.setenv("TRANSLATION__MODELS", '{"nb-English": "c"}')

    settings = load_settings()
    assert settings.default_language == "no"
    assert settings.alignment.preload == ["en", "pt"]
    assert settings.alignment.models == {"no": "a", "multilingual": "b"}
    assert settings.translation.models == {"no-en": "c"}


def test_a_section_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHISPER", "tiny")
    with pytest.raises(ConfigurationError, match='field "whisper"'):
        load_settings()


def test_a_wrong_value_in_the_env_file_is_named_too() -> None:
    Path(".env").write_text("WHISPER__BEAM_SIZE=0\n")
    with pytest.raises(ConfigurationError, match=r"^WHISPER__BEAM_SIZE: "):
        load_settings()


def test_an_env_file_that_is_not_text_is_named() -> None:
    Path(".env").write_bytes(b"API_KEY=\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"^\.env cannot be read: "):
        load_settings()
