"""Writes docs/configuration.md from the schema. uv run python docs/make_configuration.py"""

import json
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from BC_training import models
from BC_training.common.config import RETIRED, Config
from BC_training.common.types import ModelConfig

TARGET = Path(__file__).parent / "configuration.md"

HEAD = """\
# Configuration

Written by `docs/make_configuration.py` from the schema (`BC_training/common/config.py` and each
model's `Config`); don't edit it by hand.

A configuration is a YAML file that says what differs from the defaults below; `dataset.path` and
`model.name` have none. Each key can be overridden on the command line as `--section.key VALUE`,
with the value spelled as in YAML. Unknown keys are errors. The resolved configuration of a run,
every default spelled out, is `config.yaml` in its folder.
"""


Defaults = Mapping[str, Any]
"""Of a section's keys; those that must be given are not in it."""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, field in Config.model_fields.items():
        if name == "model":
            parts += _models()
        else:
            parts += _section(name, field.annotation, _defaults(field), "##")
    retired = "\n".join(f"- `{key}`: {reason}" for key, reason in RETIRED.items())
    parts.append(f"## Retired\n\nIgnored with a warning:\n\n{retired}\n")
    return "\n".join(parts)


def _section(prefix: str, schema: Any, defaults: Defaults, level: str) -> list[str]:
    """A section's table, then those of the sections in it."""
    rows, inner = [], []
    for name, field in schema.model_fields.items():
        if _is_section(field.annotation):
            inner += _section(f"{prefix}.{name}", field.annotation, defaults[name], f"{level}#")
        else:
            rows.append(_row(f"{prefix}.{name}", _kind(field), defaults, name, field.description))
    return [_table(f"{level} `{prefix}`", schema.__doc__, rows), *inner]


def _models() -> list[str]:
    """What all models share, each model's own keys, and the sections that several models have."""
    tables_of_models, parts = [], {}
    for name in models.available():
        package = models.load(name)
        its_keys = [
            key
            for key, field in package.Config.model_fields.items()
            if key not in ModelConfig.model_fields
            or field.default != ModelConfig.model_fields[key].default
        ]
        rows = _part("model.", package.Config, its_keys, parts)
        tables_of_models.append(_table(f"### {name}", package.__doc__, rows))
    tables, done = [], set()
    while left := [schema for schema in parts if schema not in done]:
        done |= set(left)
        for schema in left:
            kind = schema.model_fields.get("type")
            about = kind.description if kind else schema.__doc__
            rows = _part("", schema, list(schema.model_fields), parts)
            tables.append(_table(f"### {schema.__name__}", about, rows))
    rows = _part("model.", ModelConfig, list(ModelConfig.model_fields), {})
    shared = _table(
        "## `model`", "All models have these; each has its own besides, or another default.", rows
    )
    return [shared, *tables_of_models, "## Sections of models\n", *tables]


def _part(prefix: str, schema: Any, keys: list[str], parts: dict[Any, None]) -> list[str]:
    """Rows that link to the sections in a section, which are added to `parts`."""
    rows = []
    for name in keys:
        field = schema.model_fields[name]
        sections: list[Any] = [kind for kind in (field.annotation, *get_args(field.annotation))
                    if _is_section(kind)]  # fmt: skip
        parts.update(dict.fromkeys(sections))
        links = [f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in sections]
        if field.discriminator:
            types = [kind.model_fields["type"].default for kind in sections]
            links = [f"`type: {kind}`, {link}" for kind, link in zip(types, links, strict=True)]
        default = (
            {} if field.is_required() else {name: field.get_default(call_default_factory=True)}
        )
        if sections:
            value = default[name]
            kept = value.model_dump(mode="json", exclude_defaults=True)
            default = {name: ({"type": value.type} if field.discriminator else {}) | kept}
        kind = "; or ".join(links) or _kind(field)
        rows.append(_row(prefix + name, kind, default, name, field.description))
    return rows


def _table(heading: str, about: str | None, rows: list[str]) -> str:
    about = "" if about is None else f"{_line(about)}\n\n"
    return (
        f"{heading}\n\n{about}| key | | default | |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _defaults(field: FieldInfo) -> Defaults:
    """Of a section and those in it. One without a default of its own has its keys'."""
    if not field.is_required():
        return field.get_default(call_default_factory=True).model_dump(mode="json")
    schema: Any = field.annotation
    return {
        name: _defaults(key)
        if _is_section(key.annotation)
        else key.get_default(call_default_factory=True)
        for name, key in schema.model_fields.items()
        if not key.is_required()
    }


def _row(key: str, kind: str, defaults: Defaults, name: str, about: str | None) -> str:
    # JSON is YAML.
    default = f"`{json.dumps(defaults[name])}`" if name in defaults else ""
    return f"| `{key}` | {kind} | {default} | {_line(about or '')} |"


def _line(text: str) -> str:
    return " ".join(text.split())


def _kind(field: FieldInfo) -> str:
    """What a value must be, limits included."""
    limits = []
    for limit in field.metadata:
        for name, words in (
            ("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"),
        ):  # fmt: skip
            if (bound := getattr(limit, name, None)) is not None:
                limits.append(f"{words} {bound:,}")
    kind, null, _ = _type(field.annotation).partition(" or `null`")
    return ", ".join([kind, *limits]) + null


def _type(annotation: Any) -> str:
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    if annotation in names:
        return names[annotation]
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        (limit,) = (getattr(item, "gt", None) for item in inner[1:])
        return f"{_type(inner[0])} above {limit}"
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if kind is type(None) else _type(kind) for kind in inner)
    if origin is tuple and inner[-1] is Ellipsis:
        return f"list of {_plural(_type(inner[0]))}"
    if origin is tuple:
        return f"list of {len(inner)} {_plural(_type(inner[0]))}"
    if origin is dict:
        return "mapping" if inner[1] is Any else f"mapping of text to {_type(inner[1])}"
    raise TypeError(f"docs/make_configuration.py has no word for {annotation}")


def _plural(words: str) -> str:
    return re.sub(r"^(text|whole number|number)\b", r"\1s", words)


def main() -> None:
    TARGET.write_text(page())
    print(f"{TARGET.name}: {len(page().splitlines())} lines")


if __name__ == "__main__":
    main()
