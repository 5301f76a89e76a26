"""The shape of the project: imports run one way, the exported requirements follow the lock."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "BC_training"

LAYERS = (
    {"common.types", "common.convolution", "common.memory"},
    {"common.console", "common.film", "common.viewer", "models"},
    {"common.config", "common.window", "common.layers", "common.losses",
     "common.metrics", "common.pretrained"},
    {"common.state", "common.instruction", "common.backbones", "common.charts",
     "common.ranking"},
    {"common.encoder"},
    {"common.model", "common.episodes", "common.preprocess", "common.optim", "common.runlog"},
    {"common.single_frame"},
    {"common.augment", "common.decision", "common.residency", "common.health",
     "common.checkpoint", "models.*"},
    {"common.dataset"},
    {"common.policy", "common.step"},
    {"common.saliency"},
    {"analysis.statistics", "analysis.advice"},
    {"analysis.reaction"},
    {"analysis.page"},
    {"diagnosis"},
    {"evaluate", "rollout", "analyze_dataset", "visualize"},
    {"train"},
    {"__main__"},
)  # fmt: skip
"""Each module may import those of the rows above its own."""

FOR_MODELS = {
    *("common.types", "common.layers", "common.losses", "common.backbones"),
    *("common.encoder", "common.model", "common.single_frame"),
}


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


def layer(name: str) -> int:
    kind = "models.*" if name.startswith("models.") else name
    return next(level for level, names in enumerate(LAYERS) if kind in names)


FILES = sorted(
    file for file in PACKAGE.rglob("*.py") if module_name(file) not in ("", "common", "analysis")
)


@pytest.mark.parametrize("file", FILES, ids=module_name)
def test_imports_run_one_way(file):
    own = module_name(file)
    for imported in imports(file):
        if not imported.startswith("BC_training."):
            continue
        name = imported.removeprefix("BC_training.")
        if own.startswith("models."):
            assert name in FOR_MODELS or name.startswith(own.rsplit(".", 1)[0]), name
        else:
            assert layer(name) < layer(own), name


def test_play_never_touches_the_dataset():
    reachable, left = set(), {"common.policy"}
    while left:
        name = left.pop()
        reachable.add(name)
        path = PACKAGE / Path(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        found = {i.removeprefix("BC_training.") for i in imports(file) if "BC_training." in i}
        left |= found - reachable
    assert not reachable & {"common.dataset", "common.episodes"}
    assert "common.checkpoint" in reachable


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
        if (PACKAGE / "models") in file.parents or module_name(file) == "common.backbones":
            continue
        code = ast.parse(file.read_text())
        texts = [n.value for n in ast.walk(code) if isinstance(n, ast.Constant)]
        docs = {ast.get_docstring(n, clean=False) for n in ast.walk(code)
                if isinstance(n, ast.Module | ast.FunctionDef | ast.ClassDef)}  # fmt: skip
        for text in texts:
            if isinstance(text, str) and text not in docs:
                assert not any(re.fullmatch(name, text) for name in names), (file, text)


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
