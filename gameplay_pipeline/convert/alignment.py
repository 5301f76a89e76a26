"""Brings what was recorded at other times than the frames to the frames."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Int64

from gameplay_pipeline.convert.keybinds import Button, Keybinds
from gameplay_pipeline.convert.session_tables import TIME_LIMIT_US, Event


def pressed_in(
    times: Int64[np.ndarray, "N"], events: Sequence[Event], binds: Keybinds
) -> Bool[np.ndarray, "N A"]:
    """Finds what is pressed at any moment from one frame until the next; no press is ever lost.

    The last frame lasts as long as the one before it. A button that goes up first was down from
    the beginning; one that never goes up is down to the end.

    Args:
        times: of the frames, in microseconds, rising.
        events: in order of time.
        binds: which action a button presses.
    """
    pressed = np.zeros((len(times), len(binds.actions)), bool)
    end = 2 * times[-1] - times[-2]
    for button, down, up in _presses(events):
        if button in binds.columns and down < end:
            first = int(np.searchsorted(times, down, "right")) - 1
            last = int(np.searchsorted(times, up, "left")) - 1
            # A press that begins and ends between two frames still has a frame in which it falls.
            pressed[max(first, 0) : max(first, last) + 1, binds.columns[button]] = True
    return pressed


def _presses(events: Sequence[Event]) -> Iterator[tuple[Button, int, int]]:
    """Yields each press: its button, when it went down and when up again."""
    down: dict[Button, int] = {}
    heard_of: set[Button] = set()
    for time, is_down, button in events:
        if is_down:
            down.setdefault(button, time)  # a key that is held repeats itself
        elif button in down or button not in heard_of:
            yield button, down.pop(button, -TIME_LIMIT_US), time
        heard_of.add(button)
    for button, time in down.items():
        yield button, time, TIME_LIMIT_US


def nearest(
    times: Int64[np.ndarray, "N"], samples: Int64[np.ndarray, "M"]
) -> Int64[np.ndarray, "N"]:
    """Finds the sample nearest in time to each frame: of two as near the earlier, of two at the
    same time the one that was written later."""
    after = np.searchsorted(samples, times, "left").clip(0, len(samples) - 1)
    before = (np.searchsorted(samples, times, "right") - 1).clip(0)
    later = np.abs(samples[after] - times) < np.abs(times - samples[before])
    chosen = samples[np.where(later, after, before)]
    return np.searchsorted(samples, chosen, "right") - 1
