"""The shape of the project: imports run one way, the exported requirements follow the lock."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "BC_training"

ORDER = (
    "__main__", "commands", "training", "analysis", "play", "checkpoints", "models", "networks",
    "common",
)  # fmt: skip
"""The rooms of BC_training from the top; each may import those below it."""

RUNS_BACK = {
    ("train", "evaluate"), ("train", "rollout"),
    ("common.config", "models"),
}  # fmt: skip


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports(file: Path) -> set[str]:
    """Modules of the project that a file imports, by dotted name."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                path = ROOT / Path(*whole.split("."))
                is_module = path.with_suffix(".py").exists() or path.is_dir()
                found.add(whole if is_module else node.module)
    return found


def room(name: str) -> str:
    first = name.partition(".")[0]
    if first in ORDER:
        return first
    assert (PACKAGE / f"{first}.py").exists(), name
    return "commands"


FILES = sorted(file for file in PACKAGE.rglob("*.py") if module_name(file))


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_run_one_way(file):
    own = module_name(file)
    for imported in imports(file):
        if not imported.startswith("BC_training."):
            continue
        name = imported.removeprefix("BC_training.")
        if room(own) == "models":
            inside = name.startswith(own.rsplit(".", 1)[0])
            assert inside or room(name) == "networks" or name == "common.types", name
        elif (own, name) not in RUNS_BACK and (room(own) == "commands" or room(own) != room(name)):
            assert ORDER.index(room(name)) > ORDER.index(room(own)), name


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


@pytest.mark.parametrize("package", ["boss_arena", "gameplay_pipeline", "vizdoom_games"])
def test_data_sources_know_nothing_of_training(package):
    for file in (ROOT / package).rglob("*.py"):
        other = {"BC_training", "boss_arena", "gameplay_pipeline", "vizdoom_games"} - {package}
        assert not {name.partition(".")[0] for name in imports(file)} & other, file


def test_training_reaches_games_only_through_gymnasium():
    for file in PACKAGE.rglob("*.py"):
        packages = {name.partition(".")[0] for name in imports(file)}
        assert not packages & {"boss_arena", "vizdoom_games"}, file


def test_nothing_outside_models_knows_a_models_name():
    names = [folder.name for folder in (PACKAGE / "models").iterdir() if folder.is_dir()]
    for file in PACKAGE.rglob("*.py"):
        # A kind of backbone may have the name of the model that is little else.
        if (PACKAGE / "models") in file.parents or module_name(file) == "networks.backbones":
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
        for name in imports(file):
            assert not name.startswith("tests.") or name.startswith("tests.support"), (file, name)


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
