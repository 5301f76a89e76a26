"""An episode as a .rrd file for Rerun's viewer, with the layout in which it opens."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from BC_training.analysis.policy.replay import Replayed
from gameplay_pipeline.plumbing.errors import UserError

try:
    import rerun as rr
    import rerun.blueprint as rrb
except ImportError as error:
    raise ImportError(
        f"Rerun is not installed ({error}); run the command with: uv run --group visualize ..."
    ) from error

QUALITY = 90
"""JPEG quality of the frames."""
LEVELS = 16
"""Steps of the overlay's opacity: few pack well in PNG, and no eye misses more."""
DENSEST = 0.75
"""Opacity of the overlay where the picture counts most."""
HEAT = (255, 60, 200)
"""Colour of the overlay and of probabilities: rare in pictures."""
BUTTON = {
    "player": rr.SeriesLines(
        colors=[(120, 130, 145)], widths=[5.0], names=["player"], interpolation_mode="StepAfter"
    ),
    "threshold": rr.SeriesLines(colors=[(85, 85, 85)], widths=[1.0], names=["threshold"]),
    "probability": rr.SeriesLines(colors=[HEAT], widths=[1.5], names=["probability"]),
    "policy": rr.SeriesLines(
        colors=[(60, 200, 120)], widths=[2.0], names=["policy"], interpolation_mode="StepAfter"
    ),
}
"""What is drawn of a button, the foremost last; all but the first if a policy plays."""
PALETTE = (
    *((230, 80, 80), (90, 160, 240), (90, 200, 120), (240, 190, 70)),
    *((180, 120, 230), (80, 210, 210), (240, 140, 190), (170, 170, 170)),
)
"""Colours of the lines of the state."""
AROUND = 10.0
"""Seconds of the buttons' lines that are shown before and after the current moment."""
AROUND_TICKS = 150
"""Ticks shown before and after, on the timeline `tick`."""
LANES = "animations"
"""The group of the state whose values are names: drawn as lanes, not as lines."""


class RerunWriter:
    """Writes a .rrd file tick by tick, so that a fight need not fit into memory.

    Entities: `screen/frame`, `screen/saliency`; `buttons/ACTION/player` (0 or 1), and beside it
    `policy` (likewise), `probability` and `threshold`; `state/GROUP/ATTRIBUTE`; `about`.
    Timelines: `tick`, and `time` where it is known.
    """

    def __init__(
        self,
        path: Path,
        *,
        about: str,
        actions: Sequence[str],
        thresholds: Sequence[float] | None,
        state: Mapping[str, Sequence[str]],
        has_time: bool,
    ):
        """Begins a file; an older one of that name is overwritten.

        Args:
            path: the .rrd file to write.
            about: Markdown that is shown beside the screen.
            actions: names of the A buttons.
            thresholds: the probability from which a policy presses each button; None where no
                policy plays.
            state: names of the attributes, by group.
            has_time: whether `add` will be given seconds.

        Raises:
            UserError: it can't be written.
        """
        self._path, self._state = path, state
        self._actions, self._thresholds = actions, thresholds
        self._lanes: dict[str, str] = {}
        self._stream = rr.RecordingStream("project_ranni")
        try:
            self._stream.save(path, default_blueprint=_layout(actions, state, has_time))
        except RuntimeError as error:
            raise UserError(f"{path}: can't be written: {error}") from error
        self._stream.send_recording_name(path.stem)
        self._stream.log("about", rr.TextDocument(about, media_type="text/markdown"), static=True)
        drawn = [*BUTTON] if thresholds is not None else ["player"]
        for action, name in itertools.product(actions, drawn):
            self._stream.log(_entity("buttons", action, name), BUTTON[name], static=True)
        for group, names in state.items():
            for name, color in zip(names if group != LANES else (), itertools.cycle(PALETTE)):
                line = rr.SeriesLines(colors=[color], names=[name])
                self._stream.log(_entity("state", group, name), line, static=True)

    def add(
        self,
        tick: int,
        seconds: float | None,
        *,
        frame: UInt8[np.ndarray, "H W 3"],
        pressed: Bool[np.ndarray, "A"],
        state: Mapping[str, float],
        decision: Replayed | None,
        saliency: Float[np.ndarray, "H W"] | None,
    ) -> None:
        """Adds a tick.

        Args:
            tick: ticks since the episode's start.
            seconds: seconds since the episode's start; None where the time is not known.
            frame: the RGB image.
            pressed: the buttons that the player held.
            state: a value for each attribute.
            decision: what the policy made of the frame; None where no policy plays.
            saliency: weight of each pixel, 0 to 1; None where it is not drawn.
        """
        self._stream.set_time("tick", sequence=tick)
        if seconds is not None:
            self._stream.set_time("time", duration=seconds)
        self._stream.log("screen/frame", rr.Image(frame).compress(QUALITY))
        for number, action in enumerate(self._actions):
            values = {"player": pressed[number]}
            if self._thresholds is not None and decision is not None:
                values["threshold"] = self._thresholds[number]
                values["probability"] = decision.probabilities[number]
                values["policy"] = decision.pressed[number]
            for name, value in values.items():
                self._stream.log(_entity("buttons", action, name), rr.Scalars(float(value)))
        if saliency is not None:
            overlay = rr.EncodedImage(
                contents=_overlay(saliency), media_type="image/png", draw_order=1.0
            )
            self._stream.log("screen/saliency", overlay)
        for group, names in self._state.items():
            for name in names:
                entity = _entity("state", group, name)
                if group != LANES:
                    self._stream.log(entity, rr.Scalars(float(state[name])))
                elif self._lanes.get(entity) != (value := f"{state[name]:.0f}"):
                    # A lane holds its value until the next one.
                    self._lanes[entity] = value
                    self._stream.log(entity, rr.StateChange(state=value))

    def close(self) -> None:
        """Writes what is left.

        Raises:
            UserError: since the beginning, something could not be written.
        """
        try:
            self._stream.flush()
        except RuntimeError as error:
            raise UserError(f"{self._path}: can't be written: {error}") from error
        finally:
            self._stream.disconnect()


def _entity(*parts: str) -> str:
    """Names come from the dataset, and may hold slashes and spaces."""
    return rr.new_entity_path([*parts])


def _overlay(saliency: Float[np.ndarray, "H W"]) -> bytes:
    """A PNG of one colour, as opaque as the picture counts."""
    steps = np.round(saliency * (LEVELS - 1)) / (LEVELS - 1)
    alpha = np.round(255 * DENSEST * steps).astype(np.uint8)
    bgr = np.broadcast_to(np.array(HEAT[::-1], np.uint8), (*alpha.shape, 3))
    return cv2.imencode(".png", np.dstack([bgr, alpha]))[1].tobytes()


def _layout(
    actions: Sequence[str], state: Mapping[str, Sequence[str]], has_time: bool
) -> rrb.Blueprint:
    """The screen and the state at the left, a plot for each button at the right."""
    bound = rr.TimeRangeBoundary.cursor_relative
    around = [
        rr.VisibleTimeRange("time", start=bound(seconds=-AROUND), end=bound(seconds=AROUND)),
        rr.VisibleTimeRange("tick", start=bound(seq=-AROUND_TICKS), end=bound(seq=AROUND_TICKS)),
    ]
    buttons = [
        rrb.TimeSeriesView(
            origin=_entity("buttons", action),
            name=action,
            time_ranges=around,
            axis_y=rrb.ScalarAxis(range=(-0.05, 1.05), zoom_lock=True),
            plot_legend=rrb.PlotLegend(visible=False),
        )
        for action in actions
    ]
    screen = rrb.Tabs(
        rrb.Spatial2DView(origin="screen", name="Screen"),
        rrb.TextDocumentView(origin="about", name="About"),
        active_tab=0,
    )
    left: list[rrb.Container | rrb.View] = [screen]
    shares = [6]
    lines = [
        rrb.TimeSeriesView(origin=_entity("state", group), name=group.capitalize())
        for group in state
        if group != LANES
    ]
    if lines:
        left.append(rrb.Tabs(*lines, active_tab=0))
        shares.append(4)
    if LANES in state:
        left.append(rrb.StateTimelineView(origin=_entity("state", LANES), name=LANES.capitalize()))
        shares.append(2)
    return rrb.Blueprint(
        rrb.Horizontal(rrb.Vertical(*left, row_shares=shares), rrb.Vertical(*buttons)),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed", timeline="time" if has_time else "tick"),
    )
