"""Fights and corrections through the page, by a scripted person in a real browser.

    uv run --group browser python -m benchmarks.by_hand record --out by_hand.zarr --fights 20
    uv run --group browser python -m benchmarks.by_hand correct --out corrections.zarr \\
        --checkpoint checkpoints/by_hand --fights 12

The script reads the game's state off the page and presses keys in it, as a person would; what to
press the arena's expert tells it. It needs chromium. In a correction it looks on until the policy
fails to dodge or to strike when the expert would, and then plays for a while.
"""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import tyro
from playwright.sync_api import Page, sync_playwright

ENV = "boss_arena:BossArena-v0"
KEYS = ("a", "l", "Space", "d", "j", "s", "w")
"""Default keys of the arena's buttons, in their order."""
LOCK, DODGE, ATTACK = 1, 2, 4
CORRECTED_TICKS = 25
"""How long a takeover lasts: one and a half seconds."""

NEXT_TICK = """async last => {
  const shown = document.body.dataset;
  while (shown.phase === "playing" && shown.tick === last) await new Promise(requestAnimationFrame);
  return {phase: shown.phase, name: shown.tick, tick: status.tick, state: status.state,
          pressed: status.pressed, outcome: status.outcome};
}"""


class Hands:
    """Ten fingers on the keys of the page."""

    def __init__(self, page: Page):
        self._page = page
        self._down = np.zeros(len(KEYS), bool)

    def hold(self, buttons: np.ndarray) -> None:
        for key, was, down in zip(KEYS, self._down, buttons, strict=True):
            if was != down:
                (self._page.keyboard.down if down else self._page.keyboard.up)(key)
        self._down = np.array(buttons, bool)


@contextlib.contextmanager
def opened(module: str, *arguments: str) -> Iterator[Page]:
    """The page of a command, in a browser."""
    command = [sys.executable, "-m", module, "--env", ENV, "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if "http://" in line), None)
        if line is None:
            raise SystemExit(f"{module} ended with {process.wait()}")
        address = next(word for word in line.split() if word.startswith("http://"))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(bypass_csp=True)
            page.goto(address)
            page.wait_for_selector("[data-ask=start]")
            yield page
            browser.close()
        print(process.stdout.read())


def fight(page: Page, expert: Any, corrects: bool) -> str:
    """Plays or corrects one fight; its outcome."""
    page.keyboard.press("Enter")
    page.wait_for_function("document.body.dataset.phase === 'playing'")
    hands, last, left, idle = Hands(page), "", 0, np.zeros(len(KEYS), bool)
    expert.reset()
    while (status := page.evaluate(NEXT_TICK, last))["phase"] == "playing":
        last = status["name"]
        if status["tick"] is None or not status["state"]:
            continue
        wanted = np.asarray(expert.act(status["state"]), bool)
        if corrects:
            missed = wanted & ~np.array(status["pressed"], bool)
            left = CORRECTED_TICKS if missed[[DODGE, ATTACK]].any() else max(left - 1, 0)
        hands.hold(wanted if left or not corrects else idle)
    hands.hold(idle)
    page.wait_for_function("document.body.dataset.phase === 'over'")
    return str(page.evaluate("status.outcome"))


def play(command: str, out: Path, fights: int, arguments: Mapping[str, str]) -> None:
    """Has the fights of a dataset, one after another."""
    expert = gymnasium.make(ENV, render_frames=False).unwrapped.make_expert(0)  # type: ignore[attr-defined]
    options = [word for pair in arguments.items() for word in pair]
    with opened(command, "--out", str(out), *options) as page:
        for number in range(fights):
            outcome = fight(page, expert, command.endswith("correct"))
            print(f"{number + 1}/{fights}: {outcome}", flush=True)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=The session is over")


def record(out: Path, fights: int = 20, resolution: str = "64x36") -> None:
    """Records fights of the scripted person."""
    extra = {"--policy": "human", "--episodes": str(fights), "--resolution": resolution}
    play("gameplay_pipeline.record", out, fights, extra)


def correct(checkpoint: Path, out: Path, fights: int = 12) -> None:
    """Records corrections of a checkpoint by the scripted person."""
    extra = {"--checkpoint": str(checkpoint), "--fights": str(fights)}
    play("BC_training.correct", out, fights, extra)


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict({"record": record, "correct": correct})
