"""Pictures of names that their font lacks."""

import numpy as np
import pytest

from BC_training.analysis import plots
from BC_training.analysis.policy import charts

NAMES = ("\u6253\u51fb", "jump [space] $x_2$", "\U0001f5e1 roll")


def test_a_name_that_no_font_can_draw_is_escaped_and_stays_its_own(monkeypatch):
    monkeypatch.setattr(plots, "_characters", lambda: frozenset(range(32, 127)))
    assert [plots.drawable(name) for name in NAMES] == [
        r"\u6253\u51fb", "jump [space] $x_2$", r"\U0001f5e1 roll",
    ]  # fmt: skip
    assert plots.drawable("e\u0301 " * 30).isascii()


@pytest.mark.parametrize("fonts", [plots.fonts(), ("DejaVu Sans",)])
def test_charts_are_drawn_whatever_actions_are_called(monkeypatch, fonts):
    """Warnings are errors here, and a missing glyph is one."""
    monkeypatch.setattr(plots, "fonts", lambda: fonts)
    plots._characters.cache_clear()
    monkeypatch.setitem(charts.STYLE, "font.family", fonts)
    rng = np.random.default_rng(0)
    pictures = charts.draw(
        rng.random((50, 3), np.float32), rng.random((50, 3)) < 0.3, np.repeat([0, 1], 25),
        title="episode_0", names=NAMES, thresholds=np.full(3, 0.5), threshold=0.5, fps=None,
    )  # fmt: skip
    plots._characters.cache_clear()
    assert all(picture.std() > 0 for picture in pictures.values())
