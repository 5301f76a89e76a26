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

LOG = """
window.events = []; window.shown = {};
for (const kind of ["keydown", "keyup"])
  addEventListener(kind, e => e.repeat || events.push([kind, e.code, performance.now()]), true);
new MutationObserver(() => shown[document.body.dataset.tick] ??= performance.now())
  .observe(document, {attributes: true, subtree: true, attributeFilter: ["data-tick"]});
"""
"""Keeps what happens in the page, whatever the page makes of it."""

KEYS = {"KeyA": 0, "KeyL": 1, "Space": 2, "KeyD": 3, "KeyJ": 4, "KeyS": 5, "KeyW": 6}
"""The arena's buttons under their default keys."""
EDGE_MS = 15
"""A key that moves so shortly before the next tick is shown may reach the game after it."""


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
    page.add_init_script(LOG)
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


def fight(page):
    """Walks up to the boss and strikes at it until one of them is dead."""
    page.keyboard.press("Enter")
    is_in(page, "playing")
    page.keyboard.press("l")
    page.keyboard.down("w")
    tick = 20
    while to_tick(page, tick):
        keys = ("j", "Space", "a", "j", "d")
        page.keyboard.down(keys[tick // 7 % 5])
        if not to_tick(page, tick + 3):
            break
        page.keyboard.up(keys[tick // 7 % 5])
        tick += 7
    is_in(page, "over")


def held(page, ticks):
    """Which buttons were down in each tick as the page showed it, and which of that is certain."""
    shown = page.evaluate("window.shown")
    begin = np.array([shown.get(str(tick), np.nan) for tick in range(ticks)])
    begin = np.minimum.accumulate(np.where(np.isnan(begin), np.inf, begin)[::-1])[::-1]
    down, sure = np.zeros((ticks, 7), bool), np.ones((ticks, 7), bool)
    for kind, code, when in page.evaluate("window.events"):
        if code not in KEYS or when < begin[0]:
            continue
        button, tick = KEYS[code], int(np.searchsorted(begin, when, side="right")) - 1
        down[tick:, button] = kind == "keydown"
        if tick + 1 < ticks and begin[tick + 1] - when < EDGE_MS:
            sure[tick : tick + 2, button] = False
    return down, sure


def test_a_fight_in_a_browser_is_recorded_tick_for_tick_at_its_rate(browser, tmp_path):
    out = tmp_path / "mine.zarr"
    with recording(out, "--episodes", "1") as (process, address):
        page = open_page(browser, address)
        fight(page)
        ticks = int(page.evaluate("document.body.dataset.tick")) + 1
        down, sure = held(page, ticks)
        page.screenshot(path=tmp_path / "over.png")
        page.keyboard.press("Enter")
        assert process.wait(timeout=30) == 0
        page.wait_for_function(
            "document.getElementById('title').textContent === 'The session is over'"
        )
        page.close()
    episode = zarr.open_group(out, mode="r")["episode_0"]
    actions = np.asarray(episode["actions"])
    assert len(actions) == ticks > 100
    assert (actions != down)[sure].sum() <= 1, "one late tick is a busy machine's"
    assert sure.mean() > 0.98
    assert actions.sum(axis=0)[[0, 1, 2, 4, 6]].min() > 0
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
