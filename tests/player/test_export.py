"""Every model of the project exports, and plays in onnxruntime as it does in JAX."""

import jax
import numpy as np
import pytest

pytest.importorskip("jax2onnx", reason="needs the group: uv run --group export pytest")

if jax.__version_info__ >= (0, 11):
    pytest.skip("jax2onnx can't read what this JAX traces", allow_module_level=True)

from flax import nnx

from BC_training import export
from BC_training.checkpoints.bundle import build
from BC_training.common import config_file, game_state, instruction
from BC_training.common.preprocess import Preprocess
from BC_training.common.types import DataSpec
from BC_training.play.policy import Policy
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player import check
from ranni_player.manifest import GOLDEN, NETWORK
from ranni_player.player import Player
from ranni_player.state_history import add_history
from tests.support.commands import run
from tests.support.exported import CHECKPOINT, EXPORTED
from tests.support.following import run_commands
from tests.support.made_data import make_dataset
from tests.support.made_policy import made_bundle, save_policy
from tests.support.small_models import SMALL

STATE = ("HeroHp", "HeroMaxHp", "NpcAnimId")
TICKS = 12


def made_state(rng):
    health = rng.uniform(0, 900, TICKS)
    columns = (health, np.full(TICKS, 900), rng.choice([3000, 180032304], TICKS))
    return np.stack(columns, axis=1).astype(np.float32)


def bundle_of(model, state):
    config = config_file.validate({"dataset": {"path": "d"}, "model": model}, "the test")
    length = config.model.window().instruction
    fitted = Preprocess(
        frame_mean=(0.4,) * 3,
        frame_std=(0.2,) * 3,
        state=game_state.fit_schema(STATE, add_history(state, None)[0].joined()),
        instructions=instruction.fit(["attack", "keep away"], length) if length else None,
    )
    made = made_bundle(state=STATE, config=config)
    spec = DataSpec(**{**dict(made.spec), "features": fitted.features()})
    return made.model_copy(update={"spec": spec, "preprocess": fitted})


def model_of(bundle):
    """An untrained model, in which each parameter and statistic has a value of its own."""
    model, rng = build(bundle.config, bundle.spec), np.random.default_rng(0)
    graph, params, rest = nnx.split(model, (nnx.Param, nnx.BatchStat), ...)
    params = jax.tree.map(lambda x: x + rng.uniform(0.01, 0.05, x.shape).astype(x.dtype), params)
    return nnx.merge(graph, params, rest)


@pytest.mark.parametrize("name", SMALL)
def test_a_model_is_the_same_in_onnxruntime_tick_by_tick(name, tmp_path):
    rng = np.random.default_rng(5)
    state = made_state(rng)
    bundle = bundle_of({"name": name, **SMALL[name]}, state)
    policy = Policy(bundle, model_of(bundle))
    network = export.convert(bundle, model_of(bundle), "float32")
    (tmp_path / NETWORK).write_bytes(network.onnx)
    (tmp_path / GOLDEN).touch()
    export.make_manifest(bundle, network, tmp_path, "none", "float32").write(tmp_path)
    player = Player.load(tmp_path)
    told = "keep away" if player.manifest.instructions else None
    policy.reset(told)
    player.reset(told)
    for row in state:
        frame = rng.integers(0, 256, (36, 64, 3), np.uint8)
        observation = {"frame": frame, **dict(zip(STATE, row, strict=True))}
        theirs, ours = policy.act(observation), player.act(observation)
        np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=1e-5)
        assert np.array_equal(ours.pressed, theirs.pressed)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_command_ends_with_its_proof(tmp_path, precision):
    out = tmp_path / "out"
    done = run(export.main, "--checkpoint", CHECKPOINT, "--out", out, "--precision", precision)
    assert done.status == 0, done.err
    assert "64 golden ticks: probabilities differ by at most" in done.out
    player = Player.load(out)
    assert player.manifest.proof["presses_differ"] == 0
    assert player.manifest.proof["max_difference"] < check.TOLERANCE[precision]
    sizes = [(folder / NETWORK).stat().st_size for folder in (out, EXPORTED)]
    assert (sizes[0] < sizes[1]) == (precision == "float16")
    assert list(tmp_path.iterdir()) == [out]
    again = run(export.main, "--checkpoint", CHECKPOINT, "--out", out)
    assert f"--out: {out} is there already" in again.err
    stateless = make_dataset(tmp_path / "d.zarr", (5,), attributes={"attributes": ["a", "b"]})
    flags = ("--checkpoint", CHECKPOINT, "--out", tmp_path / "other", "--dataset", stateless.path)
    lacks = run(export.main, *flags)
    assert "its state lacks HeroHp" in lacks.err


def test_nothing_is_written_where_the_proof_fails(tmp_path, monkeypatch):
    monkeypatch.setitem(check.TOLERANCE, "float32", -1.0)
    with pytest.raises(UserError, match="is not the original"):
        export.export(CHECKPOINT, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_model_that_does_not_export_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("jax2onnx.to_onnx", lambda *_, **__: 1 // 0)
    done = run(export.main, "--checkpoint", CHECKPOINT, "--out", tmp_path / "out")
    assert done.status == 1
    assert "temporal_transformer can't be exported by jax2onnx: integer division" in done.err


def test_the_page_leads_from_a_checkpoint_to_a_fight_in_two_commands(tmp_path):
    save_policy(tmp_path / "checkpoints" / "demo", made_bundle())
    done = run_commands("playing.md", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "exported: 0.0 MB, float32" in done.stdout
    assert "seed 1000000: " in done.stdout
    assert "ticks too late" in done.stdout
