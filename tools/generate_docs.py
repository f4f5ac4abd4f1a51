"""`make docs`: writes .env.example, docs/settings.md and the settings table of README."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from whisperx_api_server.config import Settings, variables
from whisperx_api_server.setting_types import Section

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- make docs: settings -->\n", "<!-- make docs: end -->\n"

EXAMPLE = """\
# Every setting, with its default. Copy this file to .env and uncomment what you change. Variables
# of the environment take precedence over .env. docs/settings.md has the same as a table.
"""
PAGE = """\
# Settings

Every setting is an environment variable, or a line of `.env` in the working directory (the
environment takes precedence). Lists and objects are JSON. An invalid value stops the start with one
line that names the variable. [.env.example](../.env.example) has the same, ready to copy. Both
files are written by `make docs`.
"""


def documents() -> dict[Path, str]:
    """The generated files and their text."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    groups = list(_groups(Settings))
    return {
        ROOT / ".env.example": EXAMPLE + "".join(_example(*group) for group in groups),
        ROOT / "docs" / "settings.md": PAGE + "".join(_table(*group) for group in groups),
        readme: before + BEGIN + _overview(groups) + END + after,
    }


Variables = dict[str, FieldInfo]


def _groups(settings: type[BaseModel]) -> Iterator[tuple[str, Variables]]:
    """The heading and the variables of each section, then of the settings without one."""
    everything = dict(variables(settings))
    for name, field in settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            own = dict(variables(field.annotation, f"{name.upper()}__"))
            everything = {name: each for name, each in everything.items() if name not in own}
            yield (field.annotation.__doc__ or "").partition("\n")[0].removesuffix("."), own
    yield "The server", everything


def _example(heading: str, settings: Variables) -> str:
    lines = [f"\n# --- {heading} ---\n"]
    for name, field in settings.items():
        lines += textwrap.wrap(
            field.description or "",
            width=100,
            initial_indent="# ",
            subsequent_indent="# ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines.append(f"#{name}={_default(field) or ''}\n")
    return "\n".join(lines)


def _table(heading: str, settings: Variables) -> str:
    rows = []
    for name, field in settings.items():
        default = _default(field)
        shown = "unset" if default is None else f"`{default}`"
        rows.append(f"| `{name}` | {shown} | {field.description} |\n")
    return f"\n## {heading}\n\n| variable | default | meaning |\n| --- | --- | --- |\n" + "".join(
        rows
    )


def _overview(groups: list[tuple[str, Variables]]) -> str:
    rows = [
        f"| {heading} | {', '.join(f'`{name}`' for name in own)} |\n" for heading, own in groups
    ]
    return "| about | variables |\n| --- | --- |\n" + "".join(rows)


def _default(field: FieldInfo) -> str | None:
    """A default as it is written in the environment; None if the setting is unset."""
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, encoding="utf-8")
