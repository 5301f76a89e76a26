"""Tables and key bindings of any content: what can't be read is refused in words."""

import contextlib
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gameplay_pipeline.convert.keybinds import read_keybinds
from gameplay_pipeline.convert.session_tables import read_inputs, read_memory
from gameplay_pipeline.plumbing.errors import UserError

PIECES = [
    "timestamp_us", "Hp", "event_type", "key_or_button", "KEY_DOWN", "W", ",", ";", "\t", "\n",
    "\r\n", '"', "1", "-", "500000.0", "1e400", "1e999999999", "nan", "inf", "9" * 30, "\0", "é",
    "Unnamed: 0", "sNaN", " ",
]  # fmt: skip
HEADS = ("", "timestamp_us,Hp\n", "timestamp_us;event_type;key_or_button\n")
TEXTS = st.builds("".join, st.tuples(st.sampled_from(HEADS), *[st.sampled_from(PIECES)] * 8))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]))
def test_any_table_is_read_or_refused(text, encoding):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.csv")
        path.write_bytes(text.encode(encoding))
        for read in (lambda: read_memory(path, ("Hp",)), lambda: read_inputs(path)):
            with contextlib.suppress(UserError):
                read()


def test_tables_of_json_nested_without_end_are_refused(tmp_path):
    path = tmp_path / "keybinds.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="can't be read as key bindings"):
        read_keybinds(path)


@settings(max_examples=100, deadline=None)
@given(index=JSON, key=JSON, mouse=JSON)
def test_any_key_binding_is_read_or_refused(index, key, mouse):
    binding = {"index": index, "key": key, "mouse": mouse}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "keybinds.json")
        path.write_text(json.dumps({"version": "2.0", "actions": {"go": binding}}))
        with contextlib.suppress(UserError):
            assert read_keybinds(path).actions == ("go",)
