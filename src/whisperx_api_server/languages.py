"""Languages: ISO-639-1 codes, English names and aliases.

Codes and names are those of openai/whisper's `tokenizer.py`, which OpenAI's API reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .errors import InvalidRequest

LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "af": "afrikaans",
        "am": "amharic",
        "ar": "arabic",
        "as": "assamese",
        "az": "azerbaijani",
        "ba": "bashkir",
        "be": "belarusian",
        "bg": "bulgarian",
        "bn": "bengali",
        "bo": "tibetan",
        "br": "breton",
        "bs": "bosnian",
        "ca": "catalan",
        "cs": "czech",
        "cy": "welsh",
        "da": "danish",
        "de": "german",
        "el": "greek",
        "en": "english",
        "es": "spanish",
        "et": "estonian",
        "eu": "basque",
        "fa": "persian",
        "fi": "finnish",
        "fo": "faroese",
        "fr": "french",
        "gl": "galician",
        "gu": "gujarati",
        "ha": "hausa",
        "haw": "hawaiian",
        "he": "hebrew",
        "hi": "hindi",
        "hr": "croatian",
        "ht": "haitian creole",
        "hu": "hungarian",
        "hy": "armenian",
        "id": "indonesian",
        "is": "icelandic",
        "it": "italian",
        "ja": "japanese",
        "jw": "javanese",
        "ka": "georgian",
        "kk": "kazakh",
        "km": "khmer",
        "kn": "kannada",
        "ko": "korean",
        "la": "latin",
        "lb": "luxembourgish",
        "ln": "lingala",
        "lo": "lao",
        "lt": "lithuanian",
        "lv": "latvian",
        "mg": "malagasy",
        "mi": "maori",
        "mk": "macedonian",
        "ml": "malayalam",
        "mn": "mongolian",
        "mr": "marathi",
        "ms": "malay",
        "mt": "maltese",
        "my": "myanmar",
        "ne": "nepali",
        "nl": "dutch",
        "nn": "nynorsk",
        "no": "norwegian",
        "oc": "occitan",
        "pa": "punjabi",
        "pl": "polish",
        "ps": "pashto",
        "pt": "portuguese",
        "ro": "romanian",
        "ru": "russian",
        "sa": "sanskrit",
        "sd": "sindhi",
        "si": "sinhala",
        "sk": "slovak",
        "sl": "slovenian",
        "sn": "shona",
        "so": "somali",
        "sq": "albanian",
        "sr": "serbian",
        "su": "sundanese",
        "sv": "swedish",
        "sw": "swahili",
        "ta": "tamil",
        "te": "telugu",
        "tg": "tajik",
        "th": "thai",
        "tk": "turkmen",
        "tl": "tagalog",
        "tr": "turkish",
        "tt": "tatar",
        "uk": "ukrainian",
        "ur": "urdu",
        "uz": "uzbek",
        "vi": "vietnamese",
        "yi": "yiddish",
        "yo": "yoruba",
        "yue": "cantonese",
        "zh": "chinese",
    }
)

# The second block: codes that ISO replaced, or that differ in Whisper.
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "burmese": "my",
        "castilian": "es",
        "farsi": "fa",
        "filipino": "tl",
        "flemish": "nl",
        "haitian": "ht",
        "letzeburgesch": "lb",
        "mandarin": "zh",
        "moldavian": "ro",
        "moldovan": "ro",
        "norwegian nynorsk": "nn",
        "panjabi": "pa",
        "pushto": "ps",
        "sinhalese": "si",
        "valencian": "ca",
        #
        "cmn": "zh",
        "fil": "tl",
        "in": "id",
        "iw": "he",
        "ji": "yi",
        "jv": "jw",
        "nb": "no",
    }
)

_CODES: Mapping[str, str] = MappingProxyType(
    {code: code for code in LANGUAGES}
    | {name: code for code, name in LANGUAGES.items()}
    | dict(_ALIASES)
)


def parse_language(value: str, param: str = "language") -> str:
    """The code of a client's language in the field `param`: "en", "English" or "zh_Hans_CN".

    Raises:
        InvalidRequest: the language is unknown.
    """
    name = value.strip().lower().replace("_", "-")
    code = _CODES.get(name) or _CODES.get(name.partition("-")[0])
    if code is None:
        raise InvalidRequest(
            f"{value[:40]!r} is not a known language: use an ISO-639-1 code such as 'en'",
            param=param,
        )
    return code


def language_name(code: str) -> str:
    """The English name in lower case, as OpenAI reports it; the code if there is no name."""
    return LANGUAGES.get(code, code)
