"""Checkpoints that are damaged, half there or hostile: named, passed over, never believed."""

import json
import random
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from BC_training.checkpoints import store
from BC_training.checkpoints.bundle import build, read_bundle, revision
from BC_training.checkpoints.state import TrainState, flatten
from BC_training.checkpoints.store import Checkpoints, load_model, locate
from gameplay_pipeline.plumbing.errors import DataError, UserError
from tests.support.made_policy import made_bundle

FLIPS = 20
"""Bits flipped in each part of a checkpoint."""


def made_state(bundle, step):
    _, params, rest = nnx.split(build(bundle.config, bundle.spec), nnx.Param, ...)
    return TrainState(jnp.int32(step), params, rest, {"n": jnp.zeros(3)}, jnp.int32(-1), None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run with checkpoints of four epochs, the third of which is the best."""
    checkpoints = Checkpoints(
        tmp_path_factory.mktemp("saved") / "run", keep_last=3, best_metric="exact_match"
    )
    bundle = made_bundle()
    for epoch, exact_match in enumerate((0.1, 0.2, 0.9, 0.4), 1):
        changes = {"step": epoch, "epoch": epoch, "metrics": {"exact_match": exact_match}}
        made = bundle.model_copy(update=changes)
        checkpoints.save(made_state(made, epoch), made)
    return checkpoints.folder


@pytest.fixture
def run(saved, tmp_path):
    """A copy of that run, to be damaged."""
    folder = shutil.copytree(saved, tmp_path / "run")
    return Checkpoints(folder, keep_last=3, best_metric="exact_match")


def steps(run):
    return sorted(int(folder.name) for folder in run.folder.iterdir() if folder.name.isdigit())


def test_the_newest_and_the_best_are_kept(run):
    assert steps(run) == [2, 3, 4]
    assert run.latest().step == 4
    assert locate(run.folder).name == "3"
    narrow = Checkpoints(run.folder, keep_last=1, best_metric="exact_match")
    last = made_bundle().model_copy(update={"step": 5, "epoch": 5})
    narrow.save(made_state(last, 5), last)
    assert steps(run) == [3, 5]


@pytest.mark.parametrize("lost", ["bundle/metadata", "model", "model/_METADATA"])
def test_a_checkpoint_that_is_half_there_is_named_and_passed_over(run, lost):
    path = run.folder / "3" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.warns(UserWarning, match=r"skipped: .*/3: this checkpoint is damaged"):
        assert locate(run.folder).name == "4"
    with pytest.raises(DataError, match="/3: this checkpoint is damaged"):
        load_model(run.folder / "3")


def test_a_killed_deletion_leaves_nothing_under_a_checkpoints_name(run, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store.shutil, "rmtree", lambda *_, **__: None)
        last = made_bundle().model_copy(update={"step": 5, "epoch": 5})
        run.save(made_state(last, 5), last)
    assert steps(run) == [3, 4, 5]
    assert [folder.name for folder in (run.folder / store.DELETED).iterdir()] == ["2"]
    Checkpoints(run.folder, keep_last=3, best_metric="exact_match")
    assert not (run.folder / store.DELETED).exists()


@pytest.mark.parametrize("part", ["bundle", "model", "optimizer"])
def test_flipped_bits_are_noticed_or_do_no_harm(run, part):
    bundle = run.latest()
    like = made_state(bundle, bundle.step)
    whole = everything(run, like)
    files = [file for file in sorted((run.folder / "4" / part).rglob("*")) if file.is_file()]
    sizes = [file.stat().st_size for file in files]
    rng, messages = random.Random(0), []
    for _ in range(FLIPS):
        (file,) = rng.choices(files, sizes)
        before = file.read_bytes()
        at = rng.randrange(len(before))
        flipped = bytes([before[at] ^ 1 << rng.randrange(8)])
        file.write_bytes(before[:at] + flipped + before[at + 1 :])
        try:
            assert everything(run, like) == whole
        except UserError as error:
            messages.append(str(error))
        file.write_bytes(before)
    assert messages
    assert all(len(message.splitlines()) == 1 for message in messages)


def everything(run, like):
    """All that is in a checkpoint."""
    bundle = read_bundle(run.folder / "4")
    arrays = flatten(run.restore(bundle, like))
    return bundle.model_dump_json(), {
        name: np.asarray(array).tobytes() for name, array in arrays.items()
    }


def test_parameters_that_are_not_numbers_are_named(tmp_path):
    bundle = made_bundle()
    state = made_state(bundle, 1)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.params)
    Checkpoints(tmp_path, keep_last=1, best_metric="loss").save(
        state._replace(params=broken), bundle
    )
    with pytest.raises(DataError, match=r"model/params\..* holds values that are not finite"):
        load_model(tmp_path / "1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "damaged"),
        ('"text"', "no JSON object"),
        ('{"format": 9}', "its format is 9, this version reads 1 and 2"),
        ('{"format": 2}', "its checksum is wrong"),
        ('{"format": 1, "config": null}', "its configuration is no JSON object"),
        ('{"format": 1, "config": {"model": {"name": null}}}', "there is no model 'None'"),
        ('{"format": 1, "metrics": {"presses": 1, "actions": []}}', "is damaged"),
    ],
)
def test_a_bundle_of_anything_is_refused(run, text, message):
    (run.folder / "4" / "bundle" / "metadata").write_text(text)
    with pytest.raises(UserError, match=message):
        read_bundle(run.folder / "4")


def test_counts_that_disagree_are_named(run):
    raw = json.loads((run.folder / "4" / "bundle" / "metadata").read_text())
    del raw["sha256"]
    text = json.dumps({**raw, "format": 1, "thresholds": [0.5]})
    (run.folder / "4" / "bundle" / "metadata").write_text(text)
    with pytest.raises(DataError, match="thresholds holds 1 values, not 7"):
        read_bundle(run.folder / "4")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "features", "auxiliary"), -1, "spec.features is not what its preprocessing"),
        (("spec", "frame", "height"), 10**9, "spec.frame is 64x1000000000, which can't be meant"),
        (("config", "model", "conv_depth"), 10**9, "model.conv_depth: .* 1000"),
        (("config", "model", "conv_features"), [10**9], "its arrays do not fit the model"),
        (("spec", "frame", "channels"), -1, "frame_mean holds 3 values, not -1"),
    ],
)
def test_a_bundle_of_absurd_sizes_costs_nothing(run, path, value, message):
    file = run.folder / "4" / "bundle" / "metadata"
    raw = json.loads(file.read_text())
    del raw["sha256"]
    inner = raw
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps({**raw, "format": 1}))
    began = time.monotonic()
    with pytest.raises(UserError, match=message):
        load_model(run.folder / "4")
    assert time.monotonic() - began < 5


def test_a_full_disk_is_one_message_that_names_what_is_needed(run, monkeypatch, capfd):
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 9_000))
    following = made_bundle().model_copy(update={"step": 5, "epoch": 5})
    message = r"the checkpoint of step 5 can't be written: 0\.1 MiB are needed, 0\.0 MiB are free"
    with pytest.raises(UserError, match=f"{message}.*step 4; --resume goes on from there"):
        run.save(made_state(following, 5), following)
    assert (steps(run), run.latest().step) == ([2, 3, 4], 4)
    assert capfd.readouterr().err == ""


def test_of_equally_good_ones_the_first_is_the_best(run):
    for step in (4, 5):
        same = made_bundle().model_copy(
            update={"step": step, "epoch": step, "metrics": {"exact_match": 0.9}}
        )
        run.rewrite(same) if step == 4 else run.save(made_state(same, step), same)
        assert run.best_epoch() == 3
    assert locate(run.folder).name == "3"


def test_a_checkpoint_that_can_not_be_read_is_written_anew(run):
    (run.folder / "4" / "bundle" / "metadata").write_text("{")
    assert run.latest().step == 3
    again = made_bundle().model_copy(update={"step": 4, "epoch": 4})
    run.save(made_state(again, 4), again)
    assert run.latest().step == 4
    load_model(run.folder / "4")


def test_fights_are_added_to_a_checkpoint_that_is_there(run):
    fought = run.latest().model_copy(update={"fights": {"won": 0.5}})
    run.rewrite(fought)
    bundle, _ = load_model(run.folder / "4")
    assert bundle.fights == {"won": 0.5}


def test_the_revision_is_none_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert revision() is None
