"""The base of everything that is declared once and set from a file, a flag or code."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A group of settings: frozen, unknown keys refused, no silent coercion."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def in_words(key: str, detail: Any) -> str:
    """Puts what pydantic found wrong with a setting into one line.

    Args:
        key: the setting's name; empty where several settings contradict one another.
        detail: one of `ValidationError.errors()`.
    """
    name = f"{key}: " if key else ""
    if detail["type"] == "value_error":
        return f"{name}{detail['ctx']['error']}"
    if detail["type"] == "string_type" and isinstance(detail["input"], bool | int | float):
        return f"{name}{detail['msg']}, not {detail['input']!r}; put a text in quotes"
    return f"{name}{detail['msg']}, not {detail['input']!r}"
