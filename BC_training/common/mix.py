"""Batches in which several kinds of ticks have fixed shares."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from BC_training.common.config import Config
from BC_training.common.order import EpochOrder, StreamPlan
from BC_training.common.tables import Tables
from gameplay_pipeline.plumbing.errors import UserError

MIXED = 6
"""Tells the random numbers of a mix from those of a single order with the same seed."""


class Part(NamedTuple):
    """Ticks that have a share of every batch."""

    name: str
    ticks: Bool[np.ndarray, "N"]
    """Which of the split's ticks these are."""
    share: float


class MixedOrder:
    """The order in which steps visit ticks of several parts: a pure function of (seed, step).

    Each part is visited in epochs of its own, laid end to end, so that a small one comes round
    more often than a large one. Within a batch the parts' samples are shuffled.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        lengths: Int[np.ndarray, "E"],
        seed: int,
        plan: StreamPlan,
    ):
        """Lays episodes end to end.

        Args:
            parts: no tick is in two of them; their shares add up to one.
            lengths: of the episodes, in ticks.
            seed: of all steps.
            plan: as for `EpochOrder`; the parts divide its buffer.
        """
        self._seed, self.parts = seed, tuple(parts)
        plan = plan._replace(buffer=max(plan.buffer // len(parts), 1))
        self._orders = [
            EpochOrder(lengths, (seed, MIXED, number), plan, part.ticks)
            for number, part in enumerate(parts)
        ]

    def __len__(self) -> int:
        """Ticks of all parts."""
        return sum(map(len, self._orders))

    def rows(self, batch_size: int) -> list[int]:
        """How many samples of each part every batch has.

        Raises:
            UserError: a part would have none.
        """
        rows = allot([part.share for part in self.parts], batch_size)
        for part, count in zip(self.parts, rows, strict=True):
            if count == 0:
                raise UserError(
                    f"training.batch_size: of {batch_size} samples, {part.name} would get none "
                    f"with a share of {part.share:.2g}; raise one of the two"
                )
        return rows

    def batch(self, step: int, batch_size: int) -> Int[np.ndarray, "B"]:
        """The ticks of a step's batch."""
        samples = [
            order.samples(*span)
            for order, rows in zip(self._orders, self.rows(batch_size), strict=True)
            for span in order.spans(step * rows, (step + 1) * rows)
        ]
        rng = np.random.default_rng([self._seed, MIXED, step])
        return rng.permutation(np.concatenate(samples))

    def ahead(self, step: int, batch_size: int) -> list[tuple[int, int]]:
        """Blocks to decode while a step's batch is in use, as `EpochOrder.ahead` has them."""
        return [
            block
            for order, rows in zip(self._orders, self.rows(batch_size), strict=True)
            for span in order.spans(step * rows, (step + 1) * rows)
            for block in order.blocks_ahead(*span)
        ]


def allot(shares: Sequence[float], size: int) -> list[int]:
    """Whole numbers that add up to `size`, as near to its shares as can be (Hamilton's method: what
    rounding down leaves over goes to the largest remainders)."""
    exact = np.array(shares) * size
    rows = np.floor(exact + 1e-9).astype(int)
    remainders = np.argsort(rows - exact, kind="stable")
    rows[remainders[: size - rows.sum()]] += 1
    return rows.tolist()


def make_order(tables: Tables, config: Config, plan: StreamPlan) -> EpochOrder | MixedOrder:
    """The order in which training visits a split: one shuffle of all ticks that were judged, or,
    where the configuration gives shares, a mix.

    Args:
        tables: of the split.
        config: dataset.shares, training.intervention_share, the batch size and the seed.
        plan: of streaming.

    Raises:
        UserError: a part of the mix has no tick, or no sample in a batch.
    """
    seed = config.system.seed
    if config.dataset.shares is None and config.training.intervention_share is None:
        return EpochOrder(tables.lengths, seed, plan, tables.judged)
    parts = list(_parts(tables, config))
    for part in parts:
        if not part.ticks.any():
            raise UserError(f"{part.name}: there are none in the training split")
    order = MixedOrder(parts, tables.lengths, seed, plan)
    order.rows(config.training.batch_size)
    return order


def _parts(tables: Tables, config: Config) -> Iterator[Part]:
    """The parts of a mix: corrected ticks, then the entries of dataset.path that have a share, then
    all others."""
    rest = np.ones(len(tables.actions), bool) if tables.judged is None else tables.judged
    left = 1.0
    if (share := config.training.intervention_share) is not None:
        yield Part("corrected ticks (training.intervention_share)", tables.corrected, share)
        rest, left = rest & ~tables.corrected, 1 - share
    paths = config.dataset.path
    names = (paths,) if isinstance(paths, str) else paths
    entry = np.repeat(tables.entries, tables.lengths)
    over = left
    for number, share in enumerate(config.dataset.shares or ()):
        if share is not None:
            ticks = entry == number
            yield Part(f"ticks of {names[number]} (dataset.shares)", rest & ticks, share * left)
            rest, over = rest & ~ticks, over - share * left
    if over > 1e-6:
        yield Part("other ticks", rest, over)
