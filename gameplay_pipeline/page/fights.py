"""Fights one after another, as the person at the page asks for them."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from gameplay_pipeline.environments.play import Failure
from gameplay_pipeline.page.desk import Desk, FightAbandoned

Result = TypeVar("Result")


def fights_by_hand(
    desk: Desk,
    numbers: Iterable[int],
    fight: Callable[[int], Result | Failure],
    discard: Callable[[int], None],
) -> Iterator[Result | Failure]:
    """Has one fight for each number, unless the person ends it before.

    A fight that is over is kept from the first moment, whatever happens then; one that the person
    discards is had again, and so is one that is abandoned.

    Args:
        desk: where the person is asked.
        numbers: of the fights.
        fight: has the fight of a number and keeps it.
        discard: removes what was kept of a number.

    Yields:
        What came of each fight, once the person leaves it as it is.
    """
    won = lost = kept = 0
    request = ""
    for number in numbers:
        request = request or desk.wait()
        while request == "start":
            desk.show(fight=number, tick=0, late=0, outcome=None)
            try:
                ended = fight(number)
            except FightAbandoned:
                desk.rest("ready", "The fight was abandoned; nothing of it is kept.")
                request = desk.wait()
                continue
            if isinstance(ended, Failure):
                desk.rest("ready", f"The fight failed: {ended.reason}")
                request = desk.wait()
                yield ended
                break
            desk.rest("over")
            request = desk.wait()
            if request == "discard":
                discard(number)
                desk.rest("ready", "The fight was discarded.")
                request = desk.wait()
                continue
            kept += 1
            outcome = desk.newest()[0]["outcome"]
            won, lost = won + (outcome == "won"), lost + (outcome == "lost")
            desk.show(kept=kept, won=won, lost=lost)
            yield ended
            break
        if request == "finish":
            break
    desk.rest("ended", "The session is over; you can close this page.")
