"""A real browser at the page: it fights, and its keys are up whenever it is not there."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import zarr

CHROMIUM = shutil.which("chromium")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs the group: uv run --group browser pytest"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
]

from tests.support.commands import start  # noqa: E402

KEYS = ("KeyA", "KeyL", "Space", "KeyD", "KeyJ", "KeyS", "KeyW")
"""The default keys of the arena's buttons, in their order."""

FINGERS = """plan => {
  window.held = {};
  let down = [];
  new MutationObserver(() => {
    const tick = document.body.dataset.tick, wanted = plan[tick % plan.length];
    if (document.body.dataset.phase !== "playing" || tick in held) return;
    const move = kind => code => window.dispatchEvent(new KeyboardEvent(kind, {code}));
    down.filter(code => !wanted.includes(code)).forEach(move("keyup"));
    wanted.filter(code => !down.includes(code)).forEach(move("keydown"));
    held[tick] = down = wanted;
  }).observe(document.body, {attributes: true, attributeFilter: ["data-tick"]});
}"""
"""Presses keys as a plan has it for each tick, and keeps in which ticks which were down."""


@contextlib.contextmanager
def recording(out: Path, *extra):
    """A recording that waits for its page; gives its process and the page's address."""
    command = ["-m", "gameplay_pipeline.record", "--policy", "human", "--port", "0"]
    process = start((*command, "--resolution", "256x144", "--out", out, *extra))
    try:
        address = process.stdout.readline().split()[2]
        yield process, address
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as it, contextlib.closing(
        it.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    ) as browser:  # fmt: skip
        yield browser


def open_page(browser, address):
    # What waits for the page's state is evaluated in the page, which its policy forbids.
    page = browser.new_page(viewport={"width": 1280, "height": 760}, bypass_csp=True)
    page.goto(address)
    page.wait_for_selector("[data-ask=start]")
    return page


def is_in(page, phase):
    page.wait_for_function(f"document.body.dataset.phase === '{phase}'", timeout=120_000)


def to_tick(page, tick):
    """Waits for a tick; whether the fight is still on."""
    page.wait_for_function(
        f"Number(document.body.dataset.tick) >= {tick} || document.body.dataset.phase !== 'playing'"
    )
    return page.evaluate("document.body.dataset.phase") == "playing"


def plan():
    """Walks up to the boss, strikes and sways: the keys that are down in each of 84 ticks."""
    every = {"KeyL": (4, 84, 3), "KeyJ": (0, 12, 3), "Space": (7, 21, 2), "KeyA": (9, 28, 6),
             "KeyD": (20, 28, 7), "KeyS": (40, 42, 1), "KeyW": (0, 12, 9)}  # fmt: skip
    return [
        [key for key, (first, period, length) in every.items() if (t - first) % period < length]
        for t in range(84)
    ]


def test_a_fight_in_a_browser_is_recorded_tick_for_tick_at_its_rate(browser, tmp_path):
    out = tmp_path / "mine.zarr"
    with recording(out, "--episodes", "1") as (process, address):
        page = open_page(browser, address)
        page.evaluate(FINGERS, plan())
        page.keyboard.press("Enter")
        is_in(page, "over")
        held = page.evaluate("window.held")
        page.screenshot(path=tmp_path / "over.png")
        page.keyboard.press("Enter")
        assert process.wait(timeout=30) == 0
        page.wait_for_selector("text=The session is over")
        page.close()
    episode = zarr.open_group(out, mode="r")["episode_0"]
    actions = np.asarray(episode["actions"])
    assert len(actions) > 100
    assert int(max(held, key=int)) == len(actions) - 1
    shown = [t for t in range(len(actions)) if str(t) in held]
    down = np.array([[key in held[str(t)] for key in KEYS] for t in shown])
    late = actions[shown] != down
    # On a busy machine a frame may come so late that its tick is over; the keys count for the next.
    assert late.any(axis=1).mean() < 0.05
    assert (late <= (actions[shown] == np.roll(down, 1, axis=0))).all()
    assert (actions.sum(axis=0) > 0).all()
    assert episode.attrs["fps"] == pytest.approx(17, rel=0.05)
    steps = np.diff(np.asarray(episode["timestamps"]))
    assert np.median(steps) == pytest.approx(1 / 17, rel=0.05)


@pytest.mark.parametrize("how", ["blur", "closed", "killed"])
def test_keys_are_up_when_the_browser_is_not_there(browser, tmp_path, how):
    out = tmp_path / "mine.zarr"
    with recording(out, "--episodes", "1") as (process, address):
        page = open_page(browser, address)
        page.keyboard.press("Enter")
        is_in(page, "playing")
        page.keyboard.down("w")
        page.wait_for_selector(".action.down")
        if how == "killed":
            os.kill(process.pid, signal.SIGKILL)
            page.wait_for_function(
                "document.getElementById('title').textContent === 'No connection'"
            )
            assert page.evaluate("keys.size") == 0
            page.close()
            assert not list(out.glob("episode_*"))
            return
        if how == "blur":
            page.evaluate("window.dispatchEvent(new Event('blur'))")
        else:
            page.close()
            page = browser.new_page(bypass_csp=True)
            page.goto(address)
        is_in(page, "paused")
        tick = int(page.evaluate("document.body.dataset.tick"))
        page.keyboard.press("Enter")
        is_in(page, "playing")
        to_tick(page, tick + 3)
        assert page.query_selector(".action.down") is None
        page.keyboard.press("Escape")
        is_in(page, "paused")
        page.close()


PAD = """button => {
  const buttons = Array.from({length: 16}, (_, i) => ({pressed: i === button}));
  const pad = {axes: [0, 0], buttons};
  navigator.getGamepads = () => [pad];
  window.dispatchEvent(new Event("gamepadconnected"));
}"""


def test_keys_can_be_changed_and_a_gamepad_is_heard(browser, tmp_path):
    def down():
        return [cell.inner_text() for cell in page.query_selector_all(".action.down")]

    with recording(tmp_path / "mine.zarr") as (_, address):
        page = open_page(browser, address)
        page.click(".bind.key[data-action=attack]")
        page.keyboard.press("a")  # which was that of another button
        page.reload()
        page.wait_for_selector("[data-ask=start]")
        keys = [chip.inner_text() for chip in page.query_selector_all(".bind.key")]
        assert keys == ["J", "L", "Space", "D", "A", "S", "W"]
        page.keyboard.press("Enter")
        is_in(page, "playing")
        page.keyboard.down("a")
        page.wait_for_selector(".action.down")
        assert down() == ["attack"]
        page.keyboard.up("a")
        page.wait_for_selector(".action.down", state="detached")
        page.evaluate(PAD, 5)  # RB
        page.wait_for_selector(".action.down")
        assert down() == ["attack"]
        page.evaluate(PAD, -1)
        page.wait_for_selector(".action.down", state="detached")
        page.close()
