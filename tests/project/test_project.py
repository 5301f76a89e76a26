"""The shape of the project: imports run one way, the exported requirements follow the lock."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.make_architecture import imports, module_of, room_of, rooms, sources

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "BC_training"

ORDER = rooms()
"""From the top; each may import those below it."""
COMMANDS = ("BC_training.commands", "gameplay_pipeline.commands")
REACHED = {
    "BC_training": {"environments", "page", "plumbing", "store"},
    "ranni_player": {"environments", "plumbing"},
}
"""The rooms of gameplay_pipeline that the two other packages may import."""

RUNS_BACK = {("BC_training.common.config_file", "BC_training.models")}
"""The command line has the keys of a model, which it finds by its name."""
APART = ("boss_arena", "vizdoom_games")
INSIDE = [file for file in sources() if module_of(file).partition(".")[0] not in APART]


def is_downward(module: str, imported: str) -> bool:
    """Whether an import runs down the tower."""
    room, other = room_of(module), room_of(imported)
    if room not in ORDER:  # a package as a whole, which everything in it imports first
        return other == "gameplay_pipeline.plumbing"
    if room == "BC_training.models" and imported.startswith("BC_training."):
        inside = imported.startswith(module.rsplit(".", 1)[0])
        return inside or "networks" in other or imported == "BC_training.common.types"
    if (module, imported) in RUNS_BACK or (other == room and room not in COMMANDS):
        return True
    return ORDER.index(other) > ORDER.index(room)


def is_open(module: str, imported: str) -> bool:
    """Whether a package is entered where it is open."""
    package = module.partition(".")[0]
    other, _, rest = imported.partition(".")
    if other != "gameplay_pipeline" or package not in REACHED:
        return True
    is_main = (module, imported) == ("BC_training.__main__", "gameplay_pipeline.record")
    return is_main or rest.partition(".")[0] in REACHED[package]


@pytest.mark.parametrize("is_right", [is_downward, is_open])
def test_imports_run_one_way_and_cross_borders_where_they_are_open(is_right):
    wrong = [
        f"{module_of(file)} imports {imported}"
        for file in INSIDE
        for imported in imports(file)
        if not is_right(module_of(file), imported)
    ]
    assert not wrong


def test_every_room_is_in_the_list():
    for file in INSIDE:
        if file.read_text() and file.parent != ROOT:
            assert room_of(module_of(file)) in {*ORDER, "BC_training", "gameplay_pipeline"}, file
    rooms = {room_of(module_of(file)) for file in INSIDE}
    assert set(ORDER) <= rooms, f"listed but not there: {set(ORDER) - rooms}"


PLAYING = """
import sys
import BC_training.play.policy
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_playing_loads_no_reader_of_datasets():
    done = subprocess.run(
        [sys.executable, "-c", PLAYING], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"zarr", "fsspec", "numcodecs"} & set(done.stdout.split())


def test_games_stand_apart_and_are_reached_only_through_gymnasium():
    for file in sources():
        package = module_of(file).partition(".")[0]
        for imported in imports(file):
            other = imported.partition(".")[0]
            assert other == package or not {package, other} & set(APART), (file, imported)


def test_files_and_functions_are_small():
    large = []
    for file in sources():
        module, text = module_of(file), file.read_text()
        large += [module] * (len(text.splitlines()) > 400)
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            lines = (node.end_lineno or 0) - node.lineno + 1
            large += [f"{module}.{node.name} has {lines} lines"] * (lines > 60)
            names = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
            # A command's parameters are its flags.
            if room_of(module) not in COMMANDS and len(names - {"self", "cls"}) > 8:
                large.append(f"{module}.{node.name} has {len(names)} parameters")
    assert not large


def test_nothing_outside_models_knows_a_models_name():
    names = [folder.name for folder in (PACKAGE / "models").iterdir() if folder.is_dir()]
    for file in PACKAGE.rglob("*.py"):
        # A kind of backbone may have the name of the model that is little else.
        if PACKAGE / "models" in file.parents or file.parent == PACKAGE / "networks":
            continue
        code = ast.parse(file.read_text())
        texts = [n.value for n in ast.walk(code) if isinstance(n, ast.Constant)]
        docs = {ast.get_docstring(n, clean=False) for n in ast.walk(code)
                if isinstance(n, ast.Module | ast.FunctionDef | ast.ClassDef)}  # fmt: skip
        for text in texts:
            if isinstance(text, str) and text not in docs:
                assert not any(re.fullmatch(name, text) for name in names), (file, text)


def test_tests_share_through_support_alone():
    for file in (ROOT / "tests").rglob("*.py"):
        names = re.findall(r"^\s*(?:from|import) (tests\.[\w.]+)", file.read_text(), re.MULTILINE)
        assert all(name.startswith("tests.support") for name in names), (file, names)


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_the_exported_requirements_follow_the_lock():
    export = (PACKAGE / "requirements.txt").read_text()
    command = re.search(r"uv export .*", export)
    assert command is not None
    words = [word for word in command[0].split() if not word.startswith("BC_training/")]
    words = [word for word in words if word not in ("-o", "--output-file")]
    fresh = subprocess.run(
        [*words, "--locked"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    def body(text):
        return [line for line in text.splitlines() if not line.startswith("#")]

    assert body(fresh.stdout) == body(export)
