"""Warm-up, cosine and clipping really happen."""

import jax.numpy as jnp
import numpy as np
import pytest

from BC_training.common.config import ScheduleConfig, TrainingConfig
from BC_training.training import optimizer as optim


def test_warm_up_rises_and_the_cosine_falls_to_min_lr():
    config = TrainingConfig(
        num_epochs=10,
        learning_rate=1e-2,
        lr_schedule=ScheduleConfig(warmup_epochs=2.0, min_lr=1e-4),
    )
    rate = optim.schedule(config, steps_per_epoch=50)
    assert float(rate(0)) == 0
    assert float(rate(50)) == pytest.approx(5e-3)
    assert float(rate(100)) == pytest.approx(1e-2)
    middle = 1e-4 + (1e-2 - 1e-4) / 2
    assert float(rate(300)) == pytest.approx(middle, rel=1e-3)
    assert float(rate(500)) == pytest.approx(1e-4)


def test_constant_stays():
    config = TrainingConfig(lr_schedule=ScheduleConfig(type="constant", warmup_epochs=0.0))
    rate = optim.schedule(config, steps_per_epoch=10)
    assert [float(rate(step)) for step in (0, 1, 499)] == pytest.approx([1e-3] * 3)


def first_moment(config, gradient):
    optimizer = optim.make_optimizer(config, lambda step: 1e-3, {})
    params = {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}
    grads = {"kernel": jnp.full((3, 3), gradient), "bias": jnp.zeros(3)}
    updates, state = optimizer.update(grads, optimizer.init(params), params)
    return updates, state[1][0].mu


def test_gradients_are_clipped_by_global_norm():
    _, clipped = first_moment(TrainingConfig(grad_clip_norm=1.0), 100.0)
    _, free = first_moment(TrainingConfig(grad_clip_norm=None), 100.0)
    assert np.linalg.norm(clipped["kernel"]) == pytest.approx(0.1, rel=1e-3)
    assert np.linalg.norm(free["kernel"]) == pytest.approx(30.0, rel=1e-3)


def test_biases_are_not_decayed():
    updates, _ = first_moment(TrainingConfig(weight_decay=0.5), 0.0)
    assert np.all(np.asarray(updates["bias"]) == 0)
    assert np.allclose(updates["kernel"], -1e-3 * 0.5)


def test_layers_learn_at_multiples_of_the_rate_or_not_at_all():
    config = TrainingConfig(weight_decay=0.5)
    params = {"backbone": {"kernel": jnp.ones((3, 3))}, "backbones_head": jnp.ones((3, 3))}
    grads = {"backbone": {"kernel": jnp.full((3, 3), 0.1)}, "backbones_head": jnp.ones((3, 3))}

    def updated(multiple):
        optimizer = optim.make_optimizer(config, lambda step: 1e-3, {"backbone.": multiple})
        return optimizer.update(grads, optimizer.init(params), params)[0]

    whole, tenth, none = (updated(multiple) for multiple in (1.0, 0.1, 0.0))
    assert np.allclose(tenth["backbone"]["kernel"], 0.1 * whole["backbone"]["kernel"])
    assert not np.any(none["backbone"]["kernel"])
    for other in (tenth, none):
        assert np.array_equal(other["backbones_head"], whole["backbones_head"])
