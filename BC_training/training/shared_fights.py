"""Fights that the hosts of a run share out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from BC_training.play import fights
from BC_training.play.fight import FightResult, FightTask
from BC_training.training.hosts import Hosts


def share_fights(
    hosts: Hosts,
    tasks: Sequence[FightTask],
    setup: fights.FightSetup,
    workers: int,
    file: Path,
) -> list[FightResult]:
    """`keep_fights` on all hosts, each of which has a share of the fights, kept in a file of its
    own until all are over.

    Returns:
        The fights in the order of their tasks, on every host.

    Raises:
        UserError: some of the fights can't be had on a host, which is named.
    """
    if hosts.count == 1:
        return fights.keep_fights(tasks, setup, workers, file)
    share = tasks[hosts.rank :: hosts.count]
    part = file.with_suffix(f".host{hosts.rank}.json")

    def have_share() -> list[dict[str, Any]]:
        if not share:
            return []
        return [vars(result) for result in fights.keep_fights(share, setup, workers, part)]

    results = {
        (result["player"], result["seed"]): FightResult(**{
            **result, "latencies_ms": tuple(result["latencies_ms"])
        })
        for had in hosts.gather_results(have_share)
        for result in had
    }  # fmt: skip
    ordered = [results[task.player, task.seed] for task in tasks]
    if hosts.is_first:
        fights.write_fights(file, ordered)
    part.unlink(missing_ok=True)
    return ordered
