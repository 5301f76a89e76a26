"""Brings together what several clocks recorded: frames, samples of the state, buttons."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from gameplay_pipeline.convert.keybinds import Button, Keybinds
from gameplay_pipeline.convert.session_tables import TIME_LIMIT_US, Event
from gameplay_pipeline.convert.video import TimedFrame

FIRST_REPEAT_US, NEXT_REPEAT_US = 1_200_000, 600_000
"""A key that is held repeats itself: first after a second at most, then at least twice a second
(the slowest that Windows can be set to). A fifth is added, for recorders that are late."""

EXACT_S = 1e-4
"""Times this close are the same; LeRobot's own tolerance."""

MAX_LISTED = 5
"""Times or ranges that a note lists."""


class Press(NamedTuple):
    """A button is down for a while; times are microseconds."""

    button: Button
    down: int
    up: int


class _Hold(NamedTuple):
    """A button went down, and no event says when it went up."""

    button: Button
    signs: list[int]
    """When it went down and when it repeated itself, in microseconds."""


def pressed_in(
    times: Int64[np.ndarray, "N"], events: Sequence[Event], binds: Keybinds
) -> tuple[Bool[np.ndarray, "N A"], list[str]]:
    """Finds what is pressed at any moment from one frame until the next; no press is ever lost.

    The last frame lasts as long as the one before it.

    Args:
        times: times of the frames, in microseconds, rising.
        events: in order of time.
        binds: which action a button presses.

    Returns:
        What is pressed, and notes on the presses whose end had to be inferred (see `find_presses`).
    """
    pressed = np.zeros((len(times), len(binds.actions)), bool)
    end = 2 * int(times[-1]) - int(times[-2])
    presses, notes = find_presses(events, set(binds.columns), end)
    for button, down, up in presses:
        if down < end:
            first = int(np.searchsorted(times, down, "right")) - 1
            last = int(np.searchsorted(times, up, "left")) - 1
            # A press that begins and ends between two frames still has a frame in which it falls.
            pressed[max(first, 0) : max(first, last) + 1, binds.columns[button]] = True
    return pressed, notes


def find_presses(
    events: Sequence[Event], buttons: set[Button], end: int
) -> tuple[list[Press], list[str]]:
    """Finds out from when to when buttons are down.

    A button that goes up first was down from the beginning. A key that goes down again without
    having gone up repeats itself, or, after a silence longer than any keyboard's repeat, is pressed
    anew: the release in between was lost, as it is when another window takes the keyboard. Such a
    press ends one repeat of the keyboard after the last event that shows the key down, and so does
    that of a key that falls silent and never goes up. Any other button that never goes up is down
    to the end; a key is silent without being released once another key goes down.

    Args:
        events: in order of time.
        buttons: those that count.
        end: end of the last frame, in microseconds.

    Returns:
        The presses, and notes on those whose end no event tells.
    """
    presses: list[Press] = []
    lost: list[_Hold] = []
    repeats: list[int] = []
    down: dict[Button, list[int]] = {}
    earlier: set[Button] = set()
    for time, is_down, button in events:
        signs = down.get(button)
        if is_down and signs is not None and not _is_silent(signs, time):
            if len(signs) > 1:
                repeats.append(time - signs[-1])
            signs.append(time)
        elif is_down:
            if signs is not None:
                lost.append(_Hold(button, signs))
            down[button] = [time]
        elif signs is not None or button not in earlier:
            presses.append(Press(button, signs[0] if signs else -TIME_LIMIT_US, time))
            down.pop(button, None)
        earlier.add(button)
    at_end = [_Hold(button, signs) for button, signs in down.items()]
    fell_silent = [hold for hold in at_end if _fell_silent(hold, events, end)]
    held = [hold for hold in at_end if hold not in fell_silent]
    repeat = round(median(repeats)) if repeats else 0
    lost += fell_silent
    presses += [Press(button, signs[0], signs[-1] + repeat) for button, signs in lost]
    presses += [Press(button, signs[0], TIME_LIMIT_US) for button, signs in held]
    presses = [press for press in presses if press.button in buttons]
    return presses, _notes(lost, held, buttons, repeat)


def _is_silent(signs: Sequence[int], time: int) -> bool:
    """Whether a key that was held would have repeated itself by then."""
    return time - signs[-1] > (FIRST_REPEAT_US if len(signs) == 1 else NEXT_REPEAT_US)


def _fell_silent(hold: _Hold, events: Sequence[Event], end: int) -> bool:
    """Whether a key was repeating itself and stopped though no other key went down."""
    last = hold.signs[-1]
    if len(hold.signs) == 1 or not _is_silent(hold.signs, end):
        return False
    return not any(
        last <= event.time <= last + NEXT_REPEAT_US
        and event.is_down
        and event.button[0] == "key"
        and event.button != hold.button
        for event in events
    )


def _notes(
    lost: Sequence[_Hold], held: Sequence[_Hold], buttons: set[Button], repeat: int
) -> list[str]:
    """Names the presses whose end no event tells."""
    notes = []
    for button in sorted({hold.button for hold in lost} & buttons):
        ends = [hold.signs[-1] + repeat for hold in lost if hold.button == button]
        listed = ", ".join(map(str, ends[:MAX_LISTED])) + (" ..." if len(ends) > MAX_LISTED else "")
        how = (
            f"{repeat / 1000:g} ms (one repeat of the keyboard) after the last event that shows it"
            if repeat
            else "where it began, since keys do not repeat in this recording"
        )
        notes.append(
            f"{_name(button)}: the release of {len(ends)} of its presses was not recorded; each is "
            f"taken to end {how} ({listed} us)"
        )
    for button in sorted({hold.button for hold in held} & buttons):
        notes.append(f"{_name(button)} never goes up at last; it is taken to be held to the end")
    return notes


def _name(button: Button) -> str:
    return f"{button[0]} {button[1].upper()}"


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


def pair_frames(
    times: Float64[np.ndarray, "N"], frames: Iterator[TimedFrame], tolerance: float
) -> Iterator[tuple[int | None, UInt8[np.ndarray, "H W 3"]]]:
    """Gives each row the frame that is nearest to it in time, and no frame to two rows.

    Args:
        times: times of the rows, in seconds, rising.
        frames: in order of time.
        tolerance: seconds between a row and its frame, at most.

    Yields:
        A row and its frame, or None and a frame that lies between rows and belongs to none. A row
        that has no frame is absent.
    """
    frame = following = None
    for row, time in enumerate(times.tolist()):
        frame, following = following or frame or next(frames, None), None
        while frame is not None and time - frame.time > EXACT_S:
            following = next(frames, None)
            if following is None or abs(following.time - time) >= abs(frame.time - time):
                break
            yield None, frame.image
            frame, following = following, None
        if frame is not None and abs(frame.time - time) <= tolerance:
            yield row, frame.image
            frame = None
        elif frame is not None and following is not None:
            yield None, frame.image


def listed_ranges(numbers: Sequence[int]) -> str:
    """Writes rising numbers as ranges, such as 3, 5-7."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in parts]
    return ", ".join(texts[:MAX_LISTED]) + (" ..." if len(texts) > MAX_LISTED else "")
