"""Why a policy loses its health: by the boss's animation, and by what the policy did before."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from BC_training.analysis.policy import strip
from BC_training.common import console
from BC_training.common.types import DataSpec
from BC_training.play.health_log import HealthLosses, Hit, find_action

SPECIFIC_RATE, SPECIFIC_SHARE = 1.5, 0.15
"""An animation is a weakness of its own if a showing of it costs so many times the health that one
of the others costs, and it costs this share of all lost health."""

SHOWN = 12
"""How many of the worst blows are shown in pictures."""

ADVICE = {
    "did not roll": "It often does not roll at all. Record more fights that dodge (`--disturb` "
    "leads into more blows), train longer, or lower the threshold of {dodge!r}.",
    "rolled early": "It rolls too early. A model with a longer window sees how long an attack "
    "has lasted; recordings of late, delayed attacks help most.",
    "rolled late": "It rolls too late. Record fights of a player who reacts sooner, or give the "
    "model more pixels of the boss; check that play is not slower than the recordings.",
    "rolled in time": "It rolls in time and is hit all the same: in the wrong direction, or by a "
    "second blow. Record fights in which such blows are escaped.",
    "out of stamina": "It runs out of stamina. Record fights that keep some for the next roll, "
    "and let the model read the stamina (state) if the environment tells it.",
    "attacked into it": "It attacks while a blow is coming. Record fights that wait for an "
    "opening.",
    "pressed nothing": "It often does nothing before it is hit. Train longer, or lower the "
    "thresholds of its buttons.",
}
"""What recordings would help, by what the policy did."""


class Weakness(NamedTuple):
    """Something that costs health."""

    what: str
    share: float
    """Share of all lost health."""
    hits: int
    advice: str


def weaknesses(fights: Sequence[HealthLosses], actions: Sequence[str]) -> list[Weakness]:
    """What costs health, the worst first: animations of the boss that a showing of costs far more
    health than one of the others, then what the policy did before it was hit."""
    hits = [hit for fight in fights for hit in fight.hits]
    total = sum(hit.lost for hit in hits)
    shown = sum((Counter(fight.shown) for fight in fights), Counter[int]())
    dangerous = {hit.animation for hit in hits if hit.animation is not None}
    specific = []
    for animation in dangerous:
        those = [hit for hit in hits if hit.animation == animation]
        lost, times = sum(hit.lost for hit in those), shown[animation]
        others = sum(shown[other] for other in dangerous - {animation})
        usual = (total - lost) / max(others, 1)
        if lost >= SPECIFIC_SHARE * total and lost / max(times, 1) >= SPECIFIC_RATE * usual:
            deed = Counter(hit.deed for hit in those).most_common(1)[0][0]
            deed = "was out of stamina" if deed == "out of stamina" else deed
            advice = (
                f"It was hit {len(those)} times in the {times} showings of this animation; most "
                f"often it {deed}. Record more fights in which it is answered."
            )
            specific.append(Weakness(f"animation {animation}", lost / total, len(those), advice))
    dodge = find_action(actions, "dodge", "roll")
    deeds = []
    for deed in {hit.deed for hit in hits}:
        those = [hit.lost for hit in hits if hit.deed == deed]
        default = "Record more fights in which this situation ends well."
        advice = ADVICE.get(deed, default).format(dodge=None if dodge is None else actions[dodge])
        deeds.append(Weakness(deed, sum(those) / total, len(those), advice))
    return [
        *sorted(specific, key=lambda weakness: -weakness.share),
        *sorted(deeds, key=lambda weakness: -weakness.share),
    ]


def report(fights: Sequence[HealthLosses], spec: DataSpec, folder: Path) -> None:
    """Prints what lost health, and draws the worst blows into the folder.

    Args:
        fights: what each fight lost.
        spec: names of the actions, and the colour order of the frames.
        folder: where lost_health.png goes; it is made if need be.
    """
    out = console.make_console()
    hits = sorted((hit for fight in fights for hit in fight.hits), key=lambda hit: -hit.lost)
    if not hits:
        out.print(f"no health was lost in {len(fights)} fights")
        return
    total = sum(hit.lost for hit in hits)
    out.print(f"{len(hits)} blows cost {total:.2f} of a whole health in {len(fights)} fights")
    out.print(_table(hits, total))
    for number, weakness in enumerate(weaknesses(fights, spec.actions)[:3], 1):
        out.print(f"{number}. {weakness.what}: {100 * weakness.share:.0f} % of the lost health")
        out.print(f"   {weakness.advice}")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        (
            hit.pictures,
            (
                f"seed {hit.seed}, tick {hit.tick}: -{100 * hit.lost:.0f} %",
                "" if hit.animation is None else f"animation {hit.animation}",
                hit.deed,
            ),
        )
        for hit in hits[:SHOWN]
    ]
    strip.draw(rows, folder / "lost_health.png", is_bgr=spec.frame.color_order == "BGR")
    out.print(f"the {len(rows)} worst blows: {folder / 'lost_health.png'}")


def _table(hits: Sequence[Hit], total: float) -> Table:
    """Lost health by animation, and by what the policy did: the costliest rows first."""
    table = console.make_table("Lost health, in percent of all that was lost")
    deeds = [deed for deed, _ in Counter(hit.deed for hit in hits).most_common(6)]
    table.add_column("animation")
    for name in ("blows", "all", *deeds):
        table.add_column(name, justify="right")
    animations: dict[int | None, float] = {}
    for hit in hits:
        animations[hit.animation] = animations.get(hit.animation, 0.0) + hit.lost
    for animation, lost in sorted(animations.items(), key=lambda item: -item[1]):
        those = [hit for hit in hits if hit.animation == animation]
        cells = [sum(hit.lost for hit in those if hit.deed == deed) for deed in deeds]
        shares = (f"{100 * cell / total:.0f}" if cell else "-" for cell in (lost, *cells))
        table.add_row("any" if animation is None else str(animation), str(len(those)), *shares)
    return table
