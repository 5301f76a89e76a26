"""What a policy is shown in play is what training shows it of the recording.

tests/models/test_models.py demands this of every model, on a made dataset. Here one that reads all
that an environment can give meets each kind of environment.
"""

import pytest

from gameplay_pipeline.environments.adapter import AS_IT_IS, Adapter, Wanted, make
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.in_play import same_in_play_and_training

BUFFERS = Adapter(
    frame="screen",
    color_order="BGR",
    state=("gamevariables.1", "gamevariables.0"),
    actions={"shoot": "button_2", "left": "button_0"},
    fps=11.5,
)


@pytest.mark.parametrize(
    ("name", "adapter", "size", "state"),
    [
        ("boss_arena:BossArena-v0", AS_IT_IS, (64, 36), True),
        ("tests.support.toy_env:Buffers-v0", BUFFERS, (40, 30), True),
        ("vizdoom_games:TakeCover-v0", AS_IT_IS, (64, 48), False),
    ],
)
def test_an_environment_shows_in_play_what_was_recorded(name, adapter, size, state, tmp_path):
    if name.startswith("vizdoom"):
        pytest.importorskip("vizdoom", reason="needs the group: uv run --group vizdoom pytest")
    env = make(name, adapter, Wanted(*size))
    same_in_play_and_training(env, tmp_path, state)
    env.close()


def test_a_state_that_never_changes_is_refused(tmp_path):
    env = make(
        "tests.support.toy_env:Buffers-v0",
        BUFFERS.model_copy(update={"state": ("gamevariables.1",)}),
        Wanted(40, 30),
    )
    with pytest.raises(UserError, match="is the same at every tick of the training split"):
        same_in_play_and_training(env, tmp_path)
