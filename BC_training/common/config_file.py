"""YAML and command-line overrides in, a validated configuration out; refusals name their key."""

import difflib
import functools
import json
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast, get_args

import pydantic
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from BC_training import models
from BC_training.common.config import RENAMED, RETIRED, Config
from BC_training.common.types import ModelConfig
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.paths import expand
from gameplay_pipeline.plumbing.section import in_words

MAX_VALUES = 100_000
"""Values that a YAML text may have once its aliases are written out; they grow exponentially."""

USAGE = """\
usage: python -m BC_training --config FILE [--resume] [--init_from CHECKPOINT]
       [--SECTION.KEY VALUE ...]

Trains a policy. The values below are those of the file; each can be overridden, with a value that
is spelled as in YAML. --resume goes on with the run in its folder; --init_from begins with another
checkpoint's parameters.
"""

_INT, _FLOAT, _TIME, _MERGE, _TEXT = (
    f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp", "merge", "str")
)


class _Loader(yaml.SafeLoader):
    """A SafeLoader with the numbers of YAML 1.2, whose keys are texts and stand once."""

    # YAML 1.1, which PyYAML follows, reads 010 as 8, 1:30 as 90, 1e-3 as a text, dates as dates.
    yaml_implicit_resolvers: ClassVar = {
        first: [pair for pair in pairs if pair[0] not in (_INT, _FLOAT, _TIME)]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if key.tag != _MERGE]
        names = [key.value for key in keys]
        for key, name in zip(keys, names, strict=True):
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a text", key.start_mark
                )
            if names.count(name) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is given twice", key.start_mark
                )
            key.tag = _TEXT
        return node


_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$"
        r"|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
    ),
    list("-+.0123456789"),
)
_Loader.add_constructor(_INT, lambda _, node: int(node.value))


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, with merge keys (<<) resolved.

    Raises:
        yaml.YAMLError: it is not valid, nested too deep, or a key is given twice.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > MAX_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {MAX_VALUES:,} values")
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None


def _written_out(node: yaml.Node, sizes: dict[yaml.Node, int]) -> int:
    """Values in a node once its aliases are written out; one that contains itself has no end."""
    if node not in sizes:
        sizes[node] = MAX_VALUES + 1
        children = node.value if isinstance(node.value, list) else []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in children for part in pair]
        sizes[node] = 1 + sum(_written_out(child, sizes) for child in children)
    return sizes[node]


def find_file(path: str) -> Path:
    """A configuration file, looked up from the current folder, then from BC_training/.

    Raises:
        UserError: it is in neither; the configurations that ship with the project are listed.
    """
    package = Path(__file__).parent.parent
    for candidate in (Path(expand(path)), package / path):
        if candidate.is_file():
            return candidate
    shipped = sorted(f"configs/{file.name}" for file in (package / "configs").glob("*.yaml"))
    raise UserError(
        f"--config: no file {path}, neither from the current folder nor from {package.name}/. "
        f"Shipped: {', '.join(shipped)}."
    )


def load(path: str, arguments: Sequence[str] = ()) -> Config:
    """Reads a YAML file and applies overrides spelled `--section.key VALUE`.

    Raises:
        UserError: the file can't be found or read, or holds what the schema refuses.
        SystemExit: the arguments ask for help, which has been printed.
    """
    file = find_file(path)
    try:
        raw = parse_yaml(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{file}: expected sections such as dataset: and model:, found {raw!r}")
    raw = _plain(raw, str(file))
    overrides = _overrides([word for word in arguments if word not in ("-h", "--help")])
    source = f"{file} with the command line" if overrides else str(file)
    model = raw.get("model")
    if not isinstance(model, dict):
        raise UserError(f"{file}: the section model, with at least a name, is missing")
    # Set first, as the file's other keys are judged by the class of the model that will run.
    model["name"] = overrides.get("model.name", model.get("name"))
    if not isinstance(model["name"], str):
        raise UserError(
            f"{file}: model.name must be a text, one of {', '.join(models.available())}"
        )
    fields = dict(keys(schema_of(model["name"])))
    for key, text in overrides.items():
        _set(raw, fields, key, _value(key, text, fields.get(key)))
    for warning in _update(raw, source):
        warnings.warn(f"{source}: {warning}", stacklevel=2)
    config = validate(raw, source)
    if {"-h", "--help"} & set(arguments):
        print(help_text(config))
        raise SystemExit(0)
    return config


def validate(raw: Mapping[str, Any], source: str) -> Config:
    """Plain data, as YAML or JSON give it, to a configuration whose class knows the model's own.

    Raises:
        UserError: every key that the schema refuses, with what is wrong with it.
    """
    plain = _plain(raw, source)
    model = plain.get("model")
    schema = schema_of(str(model.get("name", "")) if isinstance(model, dict) else "")
    _fill(plain, schema)
    try:
        # By way of JSON, where strict validation takes a list for a tuple.
        return schema.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        lines = [f"  {_explain(schema, detail)}" for detail in error.errors()]
        raise UserError("\n".join([f"{source}:", *lines])) from error


def stored(raw: Mapping[str, Any], source: str) -> Config:
    """The configuration that an earlier run, perhaps of an earlier version, wrote.

    Raises:
        UserError: as `validate`.
    """
    plain = _plain(raw, source)
    _update(plain, source)
    return validate(plain, source)


def to_yaml(config: Config) -> str:
    """The resolved configuration, every default spelled out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def schema_of(model: str) -> type[Config]:
    """The class of a configuration whose model has this name."""
    return _with_section(models.load(model).Config)


@functools.cache
def _with_section(model: type[ModelConfig]) -> type[Config]:
    # Kept, since making it takes longer than validating a configuration.
    return cast(type[Config], pydantic.create_model("Config", __base__=Config, model=(model, ...)))


def keys(schema: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted names of all sections and keys of a schema, each with its field."""
    for name, field in schema.model_fields.items():
        yield prefix + name, field
        if _is_section(field.annotation):
            yield from keys(cast(type[BaseModel], field.annotation), f"{prefix}{name}.")


def help_text(config: Config) -> str:
    """What --help prints: each key with its value in this configuration and what it is for."""
    lines = [USAGE]

    def section(values: BaseModel, prefix: str) -> None:
        for name, field in type(values).model_fields.items():
            value, key = getattr(values, name), prefix + name
            if isinstance(value, BaseModel):
                lines.append(f"\n{key}\n")
                section(value, f"{key}.")
                continue
            lines.append(f"  --{key} {json.dumps(values.model_dump(mode='json')[name])}")
            about = " ".join((field.description or "").split())
            lines.extend(
                textwrap.wrap(about, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
            )

    section(config, "")
    return "\n".join(lines)


def _plain(raw: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A copy in which nothing is shared, as it is where a YAML alias stands."""
    try:
        return json.loads(json.dumps(raw))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: {error}; values must be plain YAML") from error


def _overrides(arguments: Sequence[str]) -> dict[str, str]:
    """The values of `--key VALUE` and `--key=VALUE`, as they are spelled."""
    overrides, words = {}, iter(arguments)
    for word in words:
        key, equals, value = word.partition("=")
        if not key.startswith("--"):
            raise UserError(f"{word}: expected --section.key VALUE")
        if not equals:
            value = next(words, "--")
        if value.startswith("--"):
            raise UserError(f"{key}: a value is missing")
        overrides[key[2:].replace("-", "_")] = value
    return overrides


def _value(key: str, text: str, field: FieldInfo | None) -> Any:
    kind = None if field is None else field.annotation
    # A name such as 2026 or *.zarr stays a name.
    is_text = kind in (str, str | None) or (kind == str | tuple[str, ...] and text[:1] != "[")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        if is_text:
            return text
        raise UserError(f"--{key}: {text!r} is not valid YAML") from error
    return text if is_text and value is not None else value


def _set(raw: dict[str, Any], fields: dict[str, FieldInfo], key: str, value: Any) -> None:
    *parents, name = key.split(".")
    section = raw
    for depth, parent in enumerate(parents, 1):
        if section.get(parent) is None:
            field = fields.get(".".join(parents[:depth]))
            section[parent] = {}
            if field is not None and _kinds(field) and not field.is_required():
                section[parent]["type"] = field.get_default().type
        section = section[parent]
        if not isinstance(section, dict):
            return  # validation has a word for it
    section[name] = value


def _update(raw: dict[str, Any], source: str) -> list[str]:
    """Removes retired keys from nested plain data and renames those that have another name today;
    returns what was done.

    Raises:
        UserError: a key is given under both of its names.
    """
    notes = []
    for key, reason in RETIRED.items():
        if _pop(raw, key):
            notes.append(f"{key} is retired and ignored: {reason}")
    for key, today in RENAMED.items():
        for value in _pop(raw, key):
            section, name = today.split(".")
            settings = raw[section] = raw.get(section) or {}
            if isinstance(settings, dict) and settings.setdefault(name, value) is not value:
                raise UserError(f"{source}: {key} is now called {today}, and both are given")
            notes.append(f"{key} is now called {today}")
    return notes


def _pop(raw: dict[str, Any], key: str) -> list[Any]:
    """Takes a dotted key out of nested plain data; its value, if it was there."""
    *sections, name = key.split(".")
    section: Any = raw
    for part in sections:
        section = section.get(part) if isinstance(section, dict) else None
    return [section.pop(name)] if isinstance(section, dict) and name in section else []


def _fill(raw: dict[str, Any], schema: type[BaseModel]) -> None:
    """Completes sections by their defaults; one that is left empty is all defaults."""
    for name, field in schema.model_fields.items():
        kinds = _kinds(field)
        if name not in raw or not (kinds or _is_section(field.annotation)):
            continue
        section, default = raw[name] or {}, {}
        if not isinstance(section, dict):
            continue
        if not field.is_required():
            default = field.get_default(call_default_factory=True).model_dump(mode="json")
        if not section or section.get("type") == default.get("type"):
            section = {**default, **section}
        raw[name] = section
        kind: Any = kinds.get(section.get("type", "")) if kinds else field.annotation
        if kind is not None:
            _fill(section, kind)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _kinds(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The classes that a section may have by its `type`; none where it has but one."""
    if field.discriminator != "type":
        return {}
    classes = get_args(field.annotation)
    return {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in classes}


def _explain(schema: type[BaseModel], detail: Any) -> str:
    """One line on what pydantic found wrong, with the nearest key for one that is not known."""
    fields = dict(keys(schema))
    location, kinds, kind = [], {}, None
    for part in map(str, detail["loc"]):
        if kinds and kind is None:
            kind = part  # not a key: pydantic tells the type by which it judged
            continue
        location.append(part)
        field = fields.get(".".join(location))
        kinds = kinds or ({} if field is None else _kinds(field))
    key = ".".join(location)
    match detail["type"]:
        case "union_tag_not_found":
            return f"{key}.type: missing; one of {', '.join(kinds)}"
        case "union_tag_invalid":
            return f"{key}.type: one of {', '.join(kinds)}, not {detail['ctx']['tag']!r}"
        case "extra_forbidden" if kind is not None:
            names = ", ".join(name for name in kinds[kind].model_fields if name != "type")
            return f"{key}: no key of the type {kind}, whose keys are {names}"
        case "extra_forbidden":
            if key in RETIRED:
                return f"{key}: retired: {RETIRED[key]}"
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.4)
            hint = f"; the nearest known one is {near[0]}" if near else ""
            return f"{key}: unknown key{hint}"
        case "missing":
            return f"{key}: missing"
    return in_words(key, detail)
