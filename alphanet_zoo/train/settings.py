"""The reference of all settings of a training run, from the sections of `TrainConfig`. Loads no torch.

``python -m alphanet_zoo.train.settings`` prints docs/settings.md.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from alphanet_zoo.errors import UsageError
from alphanet_zoo.schema import section_in
from alphanet_zoo.train.config import TrainConfig, affects_weights, nearest

_TYPES = {"string": "text", "array": "list", "object": "mapping", "integer": "integer", "number": "number"}
"""Names of the types of a JSON schema."""

_PAGE = """# Training settings

All settings of `alphanet train`, with their defaults. Pass them as `key=value` after the recipe, or write them in a
YAML file. A recipe replaces some of the defaults. `alphanet train RECIPE --print-config` prints the values of a recipe,
and `alphanet train --settings` prints this reference. [train.md](train.md) and [data.md](data.md) explain how training
works.

A setting with a *yes* in the column "resume" can be changed when a run is resumed. To change another one, start a new
run.
"""


@dataclass(frozen=True)
class Setting:
    """One setting of a run.

    Attributes:
        key: Dotted name, such as ``optim.lr``.
        values: Type and limits, or the choices.
        default: Default value as in YAML; None if the setting is required.
        meaning: Description, in Markdown.
    """

    key: str
    values: str
    default: str | None
    meaning: str


def sections(section: type[BaseModel] = TrainConfig, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The groups of settings, with the prefix of their keys: ``("", TrainConfig)``, ``("data.", DataConfig)``, ..."""
    yield prefix, section
    for name, field in section.model_fields.items():
        if (inner := section_in(field.annotation)) is not None:
            yield from sections(inner, f"{prefix}{name}.")


def settings_in(section: type[BaseModel], prefix: str) -> list[Setting]:
    """The settings of one group, in the order of the schema, without those of the groups in it."""
    schemas = section.model_json_schema()["properties"]
    found = []
    for name, field in section.model_fields.items():
        if section_in(field.annotation) is not None:
            continue
        default = None if field.default is PydanticUndefined else _in_yaml(field.default)
        meaning = " ".join((field.description or "").split())
        found.append(Setting(f"{prefix}{name}", _values(schemas[name]), default, meaning))
    return found


def settings_of(name: str = "") -> list[Setting]:
    """The settings whose dotted names begin with ``name``; all by default.

    Raises:
        UsageError: There are none; the message names a similar setting.
    """
    known = [setting for prefix, section in sections() for setting in settings_in(section, prefix)]
    found = [setting for setting in known if setting.key.startswith(name)]
    if not found:
        raise UsageError(f"no setting begins with {name!r}{nearest(name, [setting.key for setting in known])}")
    return found


def as_text(chosen: list[Setting]) -> str:
    """Settings as plain text, two or more lines each."""
    lines = []
    for each in chosen:
        default = "required" if each.default is None else f"default: {each.default}"
        lines += [f"{each.key}  ({each.values.replace('`', '')}; {default})",
                  textwrap.fill(each.meaning, 100, initial_indent="    ", subsequent_indent="    ")]  # fmt: skip
    return "\n".join(lines)


def page() -> str:
    """The page docs/settings.md."""
    lines = [_PAGE]
    for prefix, section in sections():
        rows = settings_in(section, prefix)
        title = f"`{prefix.rstrip('.')}`" if prefix else "The run"
        lines += [f"## {title}", "", " ".join(inspect.cleandoc(section.__doc__ or "").split()), "",
                  "| setting | values | default | resume | meaning |", "|---|---|---|---|---|"]  # fmt: skip
        for each in rows:
            default = "required" if each.default is None else f"`{each.default}`"
            resume = "" if affects_weights(each.key) else "yes"
            cells = (f"`{each.key}`", each.values, default, resume, each.meaning)
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _in_yaml(value: Any) -> str:
    """A value as in an override: ``null``, ``true``, ``[a, b]``."""
    plain = list(value) if isinstance(value, tuple) else value
    plain = int(plain) if isinstance(plain, float) and plain.is_integer() else plain
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _values(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema admits, in words."""
    if "anyOf" in schema:
        return " or ".join(_values(each) for each in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    kind = schema["type"]
    if kind in ("null", "boolean"):
        return "`null`" if kind == "null" else "`true`, `false`"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    found = {word: schema[name] for name, word in words.items() if name in schema}
    limits = " and ".join(f"{word} {'2^63' if limit == 2**63 else format(limit, 'g')}" for word, limit in found.items())
    return f"{_TYPES[kind]} {limits}".rstrip()


if __name__ == "__main__":
    print(page(), end="")
