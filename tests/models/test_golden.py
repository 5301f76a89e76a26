"""Checkpoints that users may have: written by the first release, they load and act for ever.

Each was trained for three epochs on a small made dataset in which the state held four attributes
of Elden Ring. Beside it lie the probabilities that the release which wrote it gave for FRAMES.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from BC_training.play.policy import Policy

GOLDEN = Path(__file__).parent.parent / "golden"
TICKS = 12


def frames():
    """Made of whole numbers alone, so that no library's random generator can change them."""
    at = np.arange(TICKS * 24 * 32 * 3, dtype=np.int64)
    values = (at * 7919 + at // 96 * 104729) % 251
    return values.astype(np.uint8).reshape(TICKS, 24, 32, 3)


@pytest.mark.parametrize("name", ["pure_cnn", "temporal_transformer"])
def test_an_old_checkpoint_loads_and_acts_as_it_did(name):
    policy = Policy.load(GOLDEN / name)
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    policy.reset()
    pressed, probabilities = [], []
    for tick, frame in enumerate(frames()):
        # The hero's second and third animations are one that training knew, and one that it didn't.
        state = {
            "HeroHp": 50.0 * tick,
            "HeroMaxHp": 900,
            "HeroAnimId": (180032304, 27100, 5)[tick % 3],
            "NpcAnimId": (3000, 3011)[tick // 6],
        }
        decision = policy.act({"frame": frame, **state})
        pressed.append(decision.pressed.tolist())
        probabilities.append(decision.probabilities)
    np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-4)
    assert pressed == expected["pressed"]
    assert policy.bundle.spec.frame.color_order == "BGR"
    assert policy.bundle.spec.frame.fps == 17.0
