"""The pages: what they say is so, and what they show works."""

import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from BC_training import models
from BC_training.common import config_file
from BC_training.train import parse
from BC_training.training.host_place import Place, find_place
from docs import make_architecture, make_configuration, make_results
from tests.support.following import BLOCK, run_commands, write_files
from tests.support.made_data import make_dataset
from tests.support.made_policy import made_bundle, save_policy

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_a_model_can_be_added_by_following_the_page(tmp_path):
    assert len(write_files("adding_a_model.md", tmp_path)) == 3
    make_dataset(tmp_path / "dataset" / "boss_arena.zarr", lengths=(60, 50, 40, 30, 40))
    done = run_commands("adding_a_model.md", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--model.stride" in done.stdout
    lines = (tmp_path / "checkpoints" / "glance" / "metrics.jsonl").read_text().splitlines()
    figures = [json.loads(line) for line in lines]
    losses = [each["train/loss"] for each in figures if "train/loss" in each]
    assert len(losses) == 10
    assert losses[-1] < 0.7 * losses[0]
    assert "glance" not in models.available()


def test_the_five_lines_of_python_play(tmp_path, monkeypatch):
    readme = (ROOT / "README.md").read_text()
    (python,) = [text for kind, text in BLOCK.findall(readme) if kind == "python"]
    save_policy(tmp_path / "checkpoints" / "demo", made_bundle())
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(python, names)
    assert names["observation"]["frame"].shape == (36, 64, 3)


def test_every_page_can_be_found_from_the_readme():
    linked, new = set(), {ROOT / "README.md"}
    while new:
        linked |= new
        targets = {
            (page.parent / target.partition("#")[0]).resolve()
            for page in new
            for target in re.findall(r"\]\(([^)\s:]+)\)", page.read_text())
        }
        new = {target for target in targets if target.suffix == ".md"} - linked
    assert {page.name for page in PAGES} <= {page.name for page in linked}


def test_the_configuration_page_is_what_the_schema_gives():
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == make_configuration.page(), "run: uv run python docs/make_configuration.py"


@pytest.mark.parametrize("name", models.available())
def test_the_configuration_page_has_every_key(name):
    page = (ROOT / "docs" / "configuration.md").read_text()
    schema = config_file.schema_of(name)
    for key in dict(config_file.keys(schema)):
        # Sections that several models have are listed by themselves.
        spelled = (key, key.rpartition(".")[2]) if key.startswith("model.") else (key,)
        assert any(f"`{each}`" in page for each in spelled), key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("http"):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_modules_and_files_that_are_there(page):
    text = page.read_text()
    for module in re.findall(r"(?:uv run|python)[^\n|`]* -m ([A-Za-z_]\w*(?:\.\w+)*)", text):
        path = ROOT / Path(*module.split("."))
        known = path.is_dir() or path.with_suffix(".py").exists()
        known = known or f"`{module.replace('.', '/')}.py`:\n" in text  # the page shows it
        assert known or module == "pip", module
    for name in re.findall(r"(?:--config |BC_training/)(configs/\w+\.yaml)", text):
        assert (ROOT / "BC_training" / name).exists(), name
    for script in re.findall(r"((?:docs|benchmarks|BC_training)/\w+\.(?:py|sh))", text):
        assert (ROOT / script).exists(), script


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_overrides_on_the_pages_are_keys(page):
    """Those of models may be of any model, and the page on adding one has its own."""
    keys = {key for name in models.available()
            for key in dict(config_file.keys(config_file.schema_of(name)))}  # fmt: skip
    for key in re.findall(r"--([a-z]+\.[a-z_]+(?:\.[a-z_]+)*) ", page.read_text()):
        assert key in keys or key == "section.key", key


def cloud(kind):
    """The blocks of one kind on the page about rented machines, as text."""
    blocks = BLOCK.findall((ROOT / "docs" / "cloud.md").read_text())
    assert {found for found, _ in blocks} == {"bash", "yaml"}
    return [text for found, text in blocks if found == kind]


def test_the_shown_scripts_are_valid(tmp_path):
    tasks = [yaml.safe_load(text) for text in cloud("yaml") if "workdir" in text]
    assert [task.get("num_nodes") for task in tasks] == [None, 2]
    inside = [f"#!/bin/bash\n{task[key]}" for task in tasks for key in ("run", "setup")]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    for text in (*cloud("bash"), *inside):
        (tmp_path / "script").write_text(text)
        done = subprocess.run([shellcheck, tmp_path / "script"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def handed_over(script, folder, **environment):
    """The arguments with which a script of the page starts Python."""
    program = folder / ".venv" / "bin" / "python"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "srun").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    for file in (program, folder / "srun"):
        file.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={"PATH": path, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines()


def test_the_commands_for_several_machines_say_where_each_stands(tmp_path, monkeypatch):
    slurm = {
        "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[3-4]", "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
    }  # fmt: skip
    sky = {
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_RANK": "1", "DATASET_URL": "https://a/b.zarr.zip",
    }  # fmt: skip
    pod, task = (yaml.safe_load(text) for text in cloud("yaml")[1:])
    assert (pod["apiVersion"], pod["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = pod["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["parallelism"] == spec["completions"] == 2
    (container,) = spec["template"]["spec"]["containers"]
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}
    first = f"{pod['metadata']['name']}-{job['name']}-0-0.{pod['metadata']['name']}"
    in_pod = [word.replace("$(JOB_COMPLETION_INDEX)", "1") for word in container["command"]]
    for words, environment, coordinator in (
        (handed_over(cloud("bash")[1], tmp_path), slurm, "node3:61447"),
        (in_pod[1:], {}, f"{first}:9876"),
        (handed_over(task["run"], tmp_path, **sky), {}, "10.0.0.1:9876"),
    ):
        assert words[:2] == ["-m", "BC_training"]
        config, resume = parse(words[2:])
        assert resume
        assert config.training.batch_size % 16 == 0
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            place = find_place(config.system)
        assert place == Place(coordinator, 2, 1, config.system.meeting_s)


def test_the_slurm_job_queues_itself_again_only_when_it_was_stopped(tmp_path):
    asking = itertools.product(cloud("bash")[:2], ((0, False), (1, False), (130, True)))
    for number, (batch, (status, queued)) in enumerate(asking):
        folder = tmp_path / str(number)
        folder.mkdir()
        for tool, script in (("srun", f"exit {status}"), ("scontrol", 'echo "$@" > queued')):
            (folder / tool).write_text(f"#!/bin/sh\n{script}\n")
            (folder / tool).chmod(0o755)
        done = subprocess.run(
            ["bash", "-c", batch], cwd=folder,
            env={"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"},
        )  # fmt: skip
        assert done.returncode == status
        assert (folder / "queued").exists() == queued
        assert not queued or (folder / "queued").read_text() == "requeue 7\n"


def test_citation_and_changelog_are_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_pages_hold_what_was_measured():
    for page, expected in (("docs/results.md", make_results.page()),
                           ("README.md", make_results.readme())):  # fmt: skip
        assert (ROOT / page).read_text() == expected, "run: uv run python docs/make_results.py"


def test_the_tower_is_drawn_from_the_imports_as_they_are():
    drawn = (ROOT / "docs" / "architecture.md").read_text()
    assert drawn == make_architecture.page(), "run: uv run python docs/make_architecture.py"


def test_the_files_that_the_architecture_names_are_there():
    text = (ROOT / "docs" / "architecture.md").read_text()
    names = re.findall(r"`([\w/]+\.py)`", text)
    assert len(names) > 20
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "BC_training" / name).exists(), name
