"""Languages: whatever a client calls one, and only that, becomes its code."""

from __future__ import annotations

import pytest

from whisperx_api_server.errors import InvalidRequest
from whisperx_api_server.languages import LANGUAGES, language_name, parse_language


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("en", "en"),
        ("English", "en"),
        (" FR ", "fr"),
        ("pt-BR", "pt"),
        ("zh_Hans_CN", "zh"),
        ("mandarin", "zh"),
        ("Haitian Creole", "ht"),
        ("flemish", "nl"),
        ("jv", "jw"),
        ("iw", "he"),
        ("nb-NO", "no"),
        ("yue", "yue"),
    ],
)
def test_a_language_is_found_by_code_name_and_tag(value: str, code: str) -> None:
    assert parse_language(value) == code


@pytest.mark.parametrize("value", ["", "xx", "eng1", "-", "en glish", "é" * 500])
def test_an_unknown_language_is_refused_by_name(value: str) -> None:
    with pytest.raises(InvalidRequest, match="ISO-639-1") as caught:
        parse_language(value)
    assert caught.value.param == "language"
    assert len(caught.value.message) < 200


def test_every_code_and_name_leads_back_to_its_code() -> None:
    assert len(LANGUAGES) == 100
    for code, name in LANGUAGES.items():
        assert parse_language(code) == parse_language(name) == code
        assert language_name(code) == name == name.lower()


def test_an_unknown_code_is_its_own_name() -> None:
    assert language_name("tlh") == "tlh"
