"""An episode as a file for Rerun's viewer, which opens it in a layout of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

try:
    import rerun as rr
    import rerun.blueprint as rrb
except ImportError as error:
    raise ImportError(
        f"Rerun is not installed ({error}); run the command with: uv run --group visualize ..."
    ) from error

QUALITY = 90
"""Of the JPEG that a frame becomes."""
LEVELS = 16
"""Of the overlay's opacity: what PNG packs well, and no eye misses more."""
DENSEST = 0.75
"""Opacity of the overlay where the picture counts most."""
HEAT = (255, 80, 0)
PLAYER, POLICY, CHANCE, FAINT = (125, 135, 150), (60, 180, 110), (255, 150, 40), (90, 90, 90)
LANES = "animations"
"""The group of the state whose values are names: drawn as lanes, not as lines."""


class Recording:
    """A .rrd file, written tick by tick: a fight need not fit into memory.

    Entities: `screen/frame`, `screen/saliency`; `pressed/ACTION/player` and `.../policy`, lanes;
    `chance/ACTION/probability`, and beside it `player` (0 or 1) and `threshold`;
    `state/GROUP/ATTRIBUTE`; `about`. Timelines: `tick`, and `time` where it is known.
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
        """Begins a file, over whatever is there.

        Args:
            path: of the .rrd.
            about: shown beside the screen, Markdown.
            actions: names of the A buttons.
            thresholds: from which a policy presses each; None where no policy plays.
            state: names of the attributes, by group.
            has_time: whether seconds will be given.
        """
        self._actions, self._state = actions, state
        self._lanes: dict[str, str] = {}
        layout = _layout(actions, thresholds is not None, state, has_time)
        self._stream = rr.RecordingStream("project_ranni", recording_id=path.stem)
        self._stream.save(path, default_blueprint=layout)
        self._stream.log("about", rr.TextDocument(about, media_type="text/markdown"), static=True)
        for action, threshold in zip(actions, thresholds or [None] * len(actions), strict=True):
            for who, color in (("player", PLAYER), ("policy", POLICY)):
                lane = rr.StateConfiguration(values=[action], labels=[who], colors=[color])
                self._stream.log(_entity("pressed", action, who), lane, static=True)
            if threshold is None:
                continue
            lines = {
                "player": (PLAYER, 2.5, "StepAfter"),
                "threshold": (FAINT, 1.0, "Linear"),
                "probability": (CHANCE, 1.5, "Linear"),
            }
            for name, (color, width, shape) in lines.items():
                line = rr.SeriesLines(
                    colors=[color], widths=[width], names=[name], interpolation_mode=shape
                )
                self._stream.log(_entity("chance", action, name), line, static=True)
        self._thresholds = thresholds

    def __enter__(self) -> Self:
        self._stream.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.__exit__(kind, error, trace)
        self._stream.disconnect()

    def add(
        self,
        tick: int,
        seconds: float | None,
        *,
        frame: UInt8[np.ndarray, "H W 3"],
        pressed: Bool[np.ndarray, "A"],
        state: Mapping[str, float],
        probabilities: Float[np.ndarray, "A"] | None,
        decided: Bool[np.ndarray, "A"] | None,
        saliency: Float[np.ndarray, "H W"] | None,
    ) -> None:
        """Adds a tick.

        Args:
            tick: counted from the episode's start.
            seconds: likewise; None where the time is not known.
            frame: RGB.
            pressed: by the player.
            state: values of the attributes.
            probabilities: None where no policy plays.
            decided: likewise; what the policy presses.
            saliency: 0 to 1; None where there is none.
        """
        self._stream.set_time("tick", sequence=tick)
        if seconds is not None:
            self._stream.set_time("time", duration=seconds)
        self._stream.log("screen/frame", rr.Image(frame).compress(QUALITY))
        for number, action in enumerate(self._actions):
            self._lane(_entity("pressed", action, "player"), action if pressed[number] else "")
            if probabilities is None or decided is None or self._thresholds is None:
                continue
            self._lane(_entity("pressed", action, "policy"), action if decided[number] else "")
            for name, value in (
                ("player", pressed[number]),
                ("threshold", self._thresholds[number]),
                ("probability", probabilities[number]),
            ):
                self._stream.log(_entity("chance", action, name), rr.Scalars(float(value)))
        if saliency is not None:
            overlay = rr.EncodedImage(
                contents=_overlay(saliency), media_type="image/png", draw_order=1.0
            )
            self._stream.log("screen/saliency", overlay)
        for group, names in self._state.items():
            for name in names:
                entity = _entity("state", group, name)
                if group == LANES:
                    self._lane(entity, f"{state[name]:.0f}")
                else:
                    self._stream.log(entity, rr.Scalars(float(state[name])))

    def _lane(self, entity: str, value: str) -> None:
        """A lane holds its value until the next one."""
        if self._lanes.get(entity) != value:
            self._lanes[entity] = value
            self._stream.log(entity, rr.StateChange(state=value))


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
    actions: Sequence[str], has_policy: bool, state: Mapping[str, Sequence[str]], has_time: bool
) -> rrb.Blueprint:
    """Screen and lanes at the left, lines of the buttons beside them, the state at the right."""
    screen = rrb.Tabs(
        rrb.Spatial2DView(origin="screen", name="Screen"),
        rrb.TextDocumentView(origin="about", name="About"),
        active_tab=0,
    )
    lanes = rrb.StateTimelineView(origin="pressed", name="Pressed")
    columns: list[rrb.Container] = [rrb.Vertical(screen, lanes, row_shares=[3, 2])]
    shares = [5]
    if has_policy:
        lines = [
            rrb.TimeSeriesView(
                origin=_entity("chance", action),
                name=action,
                axis_y=rrb.ScalarAxis(range=(-0.05, 1.05), zoom_lock=True),
                plot_legend=rrb.PlotLegend(visible=False),
            )
            for action in actions
        ]
        columns.append(rrb.Vertical(*lines))
        shares.append(4)
    views = [
        (rrb.StateTimelineView if group == LANES else rrb.TimeSeriesView)(
            origin=_entity("state", group), name=group.capitalize()
        )
        for group in state
    ]
    if views:
        columns.append(rrb.Vertical(*views))
        shares.append(3)
    return rrb.Blueprint(
        rrb.Horizontal(*columns, column_shares=shares),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed", timeline="time" if has_time else "tick"),
    )
