"""The environment of a policy: made as it needs it, and made anew after a fight that failed."""

from collections.abc import Callable
from typing import TypeVar

from gameplay_pipeline.environments.adapter import AS_IT_IS, Adapter, Environment, Wanted, make
from gameplay_pipeline.environments.play import Failure, attempt
from gameplay_pipeline.plumbing.errors import UserError
from ranni_player.contract import Contract, require_same

Result = TypeVar("Result")


def make_env(
    env_id: str, contract: Contract, adapter: Adapter = AS_IT_IS, *, all_attributes: bool = False
) -> Environment:
    """Makes the environment as a policy needs it, and holds it against the policy's contract.

    With `all_attributes` it gives more of the game's state than the policy reads.

    Raises:
        UserError: it can't be made, or what it shows or takes is not what the policy learned from.
    """
    actions, attributes, frame = contract
    wanted = Wanted(
        frame["width"],
        frame["height"],
        actions,
        None if all_attributes else attributes,
        frame["fps"],
    )
    env = make(env_id, adapter, wanted)
    has_all = set(attributes) <= set(env.attribute_names)
    height, width, channels = env.observation_space["frame"].shape  # pyright: ignore[reportIndexIssue]
    offered = {
        "actions": env.action_names,
        "state": attributes if has_all else env.attribute_names,
        "height": height,
        "width": width,
        "channels": channels,
        "color_order": env.color_order,
        "resize": env.resize_method,
        "fps": env.fps,
    }
    try:
        require_same({"actions": actions, "state": attributes, **frame}, offered, env_id)
    except BaseException:
        env.close()
        raise
    return env


class KeptEnvironment:
    """An environment for one fight after another. It is made for the first of them, and anew after
    a fight that failed, since nobody knows what state it is in. A context manager, which closes it.
    """

    def __init__(self, make: Callable[[], Environment]):
        """Keeps how it is made."""
        self._make = make
        self._env: Environment | None = None
        self._lost: Failure | None = None

    def __enter__(self) -> "KeptEnvironment":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def attempt(
        self, fight: Callable[[Environment], Result], player: str, seed: int
    ) -> Result | Failure:
        """Has a fight in the environment, and says what somebody's code raised in it.

        Raises:
            UserError: the environment can't be made, or the fight raised it.
        """
        if self._env is None:
            self._env = self._made()
        env, self._lost = self._env, None
        try:
            result = attempt(lambda: fight(env), player, seed)
        except BaseException:  # such as an abandoned fight, whose keys may be down
            self._close()
            raise
        if isinstance(result, Failure):
            self._lost = result
            self._close()
        return result

    def _made(self) -> Environment:
        try:
            return self._make()
        except UserError as error:
            if self._lost is None:
                raise
            lost = f"{self._lost.player}, seed {self._lost.seed}: {self._lost.reason}"
            raise UserError(f"{lost}; and after that: {error}") from error

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None
