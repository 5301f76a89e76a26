"""The description of a dataset against what was put into it."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import zarr

from BC_training import analyze_dataset
from BC_training.analysis.dataset import advice, page, reaction, statistics
from BC_training.common import config_file
from BC_training.common.episodes import Episodes
from tests.support.commands import SAMPLE, run
from tests.support.made_data import ACTIONS, make_dataset, zipped


def test_the_figures_are_those_of_the_data(made):
    summary = statistics.summarize(Episodes(made.path), [])
    actions = np.concatenate(made.actions)
    assert summary["episodes"] == 5
    assert summary["frames"] == len(actions) == 175
    assert summary["frame_shape"] == [3, 24, 32]
    lengths = {"episode_0": 40, "episode_1": 30, "episode_2": 50, "episode_3": 20, "episode_4": 35}
    assert summary["lengths"] == {"min": 20, "median": 35, "max": 50, "all": lengths}
    for column, name in enumerate(ACTIONS):
        row = summary["actions"][name]
        assert row["frequency"] == pytest.approx(actions[:, column].mean())
        starts = sum(
            int(pressed[0, column]) + int((pressed[1:, column] & ~pressed[:-1, column]).sum())
            for pressed in made.actions
        )
        assert row["presses"] == starts
    both = {tuple(pair["actions"]): pair["frequency"] for pair in summary["co_pressed"]}
    assert both["left", "right"] == pytest.approx((actions[:, 0] & actions[:, 1]).mean())
    hp = np.concatenate(made.state)[:, 0]
    assert summary["state"]["hp"]["min"] == pytest.approx(hp.min())
    assert summary["state"]["hp"]["distinct"] == len(np.unique(hp))
    json.dumps(summary, allow_nan=False)


@pytest.mark.parametrize(
    ("pressed", "lengths"),
    [([], []), ([0, 0], []), ([1], [1]), ([1, 1, 0, 1], [2, 1]), ([0, 1, 1, 1], [3])],
)
def test_press_lengths(pressed, lengths):
    assert statistics.press_lengths(np.array(pressed, bool)) == lengths


def test_the_command_names_invalid_episodes_and_writes_json(made, tmp_path):
    group = zarr.open_group(made.path)["episode_3"]
    state, short = group["state"][:], group["actions"][:7]
    state[3, 0] = np.nan
    zarr.open_group(made.path)["episode_0/state"][3, 0] = np.nan
    del group["actions"]
    group.create_array("actions", data=short)
    file = tmp_path / "figures.json"
    done = run(analyze_dataset.main, "--dataset", made.path, "--json", file)
    assert done.status == 0, done.err
    assert "error: episode_3: 20 frames but 7 actions" in done.out
    assert "error: episode_0, tick 3: its state hp is nan" in done.out
    assert "verdict: 2 episodes can't be trained on, 0 warnings" in done.out
    summary = json.loads(file.read_text())
    assert [problem["episode"] for problem in summary["problems"]] == ["episode_0", "episode_3"]
    assert run(analyze_dataset.main, "--dataset", made.path, "--strict").status == 1


def test_names_are_printed_as_they_are_and_never_as_markup(made):
    names = ["jump [space]", "menu [/esc]", "use [bold] :smile:"]
    zarr.open_group(made.path).attrs.update(keys=names, attributes=["hp [/]", "hint"])
    done = run(analyze_dataset.main, "--dataset", made.path)
    assert done.status == 0, done.err
    for name in (*names, "hp [/]"):
        assert name in done.out


def test_animation_ids_are_listed_as_a_vocabulary(made):
    root = zarr.open_group(made.path)
    root.attrs["attributes"] = ["NpcAnimId", "hint"]
    for name in root.group_keys():
        state = root[f"{name}/state"]
        state[:, 0] = 3000.0
        state[0, 0] = 3001.0
    row = statistics.summarize(Episodes(made.path), [])["state"]["NpcAnimId"]
    assert row["vocabulary"] == {"3000": 170, "3001": 5}


def test_a_dataset_without_checksums_is_unverifiable_until_they_are_written(made):
    def analyzed(*arguments):
        done = run(analyze_dataset.main, "--dataset", made.path, "--strict", *arguments)
        line = next((li for li in done.out.splitlines() if li.startswith("checksums: ")), done.err)
        return done.status, line

    hint = "unverifiable: it has none (--checksums writes some beside it)"
    assert analyzed() == (0, f"checksums: {hint}")
    files = len([file for file in made.path.rglob("*") if file.is_file()])
    assert analyzed("--checksums") == (0, f"checksums: made.zarr.sha256: written for {files} files")
    assert analyzed() == (0, "checksums: made.zarr.sha256: all files are as they were")
    chunk, other = (made.path / "episode_1" / "frames" / f"{t}.0.0.0" for t in (3, 4))
    chunk.write_bytes(other.read_bytes())  # a frame as good as any, but not the one that was there
    # Nor are they written anew, which would call the damage sound.
    assert analyzed("--checksums") == (1, "checksums: made.zarr.sha256: files that differ: 1")
    done = run(analyze_dataset.main, "--dataset", made.path)
    assert "episode_1: made.zarr/episode_1/frames/3.0.0.0 is not what it was" in done.out
    chunk.with_name("3.0.0.0").unlink()
    done = run(analyze_dataset.main, "--dataset", zipped(made.path))
    assert "checksums: in every chunk, each compared when it is read" in done.out


def test_bad_input_is_one_message(tmp_path):
    none = run(analyze_dataset.main, "--dataset", tmp_path, "--threads", "0")
    assert none.err == "error: --threads: 0 is not at least 1\n"
    done = run(analyze_dataset.main, "--dataset", tmp_path / "nowhere")
    assert done.status == 1
    assert "nowhere: no such dataset. Name another (dataset.path or --dataset)" in done.err


def test_more_figures_are_those_of_a_slow_count(made):
    summary = statistics.summarize(Episodes(made.path), [])
    actions = np.concatenate(made.actions)
    both = (actions[:, 0] & actions[:, 1]).sum()
    assert summary["pressed_given"][0][1] == pytest.approx(both / actions[:, 0].sum())
    presses = [length for a in made.actions for length in statistics.press_lengths(a[:, 2])]
    counted = summary["actions"]["hit"]["press_ticks"]
    assert counted == {str(n): presses.count(n) for n in sorted(set(presses))}
    parts = [[] for _ in range(20)]
    for pressed in made.actions:
        own = [[] for _ in range(20)]
        for tick in range(len(pressed)):
            own[tick * 20 // len(pressed)].append(pressed[tick, 0])
        for part, values in zip(parts, own, strict=True):
            part += [np.mean(values)] if values else []
    expected = [np.mean(part) for part in parts]
    assert summary["rate_over_the_fight"]["left"] == pytest.approx(expected)


def test_a_large_constant_has_no_histogram(made):
    root = zarr.open_group(made.path)
    for name in root.group_keys():
        root[f"{name}/state"][:, 0] = 1e30
    row = statistics.summarize(Episodes(made.path), [])["state"]["hp"]
    assert (row["distinct"], row["histogram"]) == (1, None)


def test_dodges_are_counted_by_animation_and_time(made):
    root = zarr.open_group(made.path)
    root.attrs.update({"keys": ["left", "right", "dodge_roll"], "attributes": ["NpcAnimId", "x"]})
    for name in root.group_keys():
        ids = np.zeros(root[f"{name}/state"].shape[0])
        pressed = np.zeros((len(ids), 3), bool)
        ids[5:12] = 3000
        pressed[9:11, 2] = True  # four ticks after it began
        root[f"{name}/state"][:, 0] = ids
        root[f"{name}/actions"][:] = pressed
    dodges = statistics.summarize(Episodes(made.path), [])["dodges"]
    assert dodges["animations"]["3000"] == {
        "times": 5, "ticks": 35, "dodged": 5, "delays": [4] * 5,
    }  # fmt: skip
    assert dodges["animations"]["0"]["dodged"] == 0


def flashes(path, delay: int | None, episodes: int = 8) -> Episodes:
    """A screen that flashes now and then; a button follows, or is pressed at random."""
    rng = np.random.default_rng(1)
    root = zarr.open_group(path, mode="w")
    root.attrs.update({"keys": ["follow", "never"], "fps": 10.0})
    for number in range(episodes):
        frames = rng.integers(90, 110, (300, 3, 24, 40)).astype(np.uint8)
        pressed = np.zeros((300, 2), bool)
        for tick in np.cumsum(rng.integers(12, 40, 10)):
            if tick + 30 < 300:
                frames[tick, :, 4:12, 8:20] = 250
                start = tick + delay if delay is not None else rng.integers(1, 290)
                pressed[start : start + 3, 0] = True
        group = root.create_group(f"episode_{number}")
        group.create_array("frames", data=frames, chunks=(100, 3, 24, 40))
        group.create_array("actions", data=pressed)
    return Episodes(path)


@pytest.mark.parametrize("delay", [0, 4, 11])
def test_the_delay_of_a_button_that_follows_the_screen_is_found(tmp_path, delay):
    rows = reaction.estimate(flashes(tmp_path / "made.zarr", delay))
    follow = rows["follow"]
    assert follow["ticks"] == delay
    assert follow["low"] <= delay <= follow["high"] <= delay + 1
    assert f"about {100 * delay} ms" in reaction.in_words(follow, 10.0)
    assert rows["never"]["ticks"] is None


def test_no_delay_is_made_up(tmp_path):
    rows = reaction.estimate(flashes(tmp_path / "random.zarr", None))
    assert rows["follow"]["ticks"] is None
    assert "no lag predicts presses better than chance" in rows["follow"]["reason"]
    few = reaction.estimate(flashes(tmp_path / "few.zarr", 3, episodes=2))
    assert "fewer than 4 episodes" in reaction.in_words(few["follow"], None)


def echoes(path, combo: bool) -> Episodes:
    """A screen that only shows what is pressed: one button in a rhythm, or another always after a
    first one."""
    rng = np.random.default_rng(2)
    root = zarr.open_group(path, mode="w")
    root.attrs.update({"keys": ["first", "second"], "fps": 10.0})
    for number in range(8):
        frames = rng.integers(90, 110, (300, 3, 24, 40)).astype(np.uint8)
        pressed = np.zeros((300, 2), bool)
        gap = (20, 40) if combo else (9, 12)
        for tick in np.cumsum(rng.integers(*gap, 40)):
            if tick + 12 < 300:
                pressed[tick : tick + 3, 0] = True
                frames[tick + 1, :, 4:12, 8:20] = 250
                pressed[tick + 8 : tick + 10, 1] = combo
        group = root.create_group(f"episode_{number}")
        group.create_array("frames", data=frames, chunks=(100, 3, 24, 40))
        group.create_array("actions", data=pressed, config={"write_empty_chunks": True})
    return Episodes(path)


@pytest.mark.parametrize("combo", [False, True])
def test_what_buttons_do_to_the_screen_is_no_reaction(tmp_path, combo):
    rows = reaction.estimate(echoes(tmp_path / "echoes.zarr", combo))
    assert [row["ticks"] for row in rows.values()] == [None, None]


class Page(html.parser.HTMLParser):
    """Counts tags, and keeps the addresses that a page would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href")]


def analyzed(path, tmp_path):
    file = tmp_path / "page.html"
    done = run(analyze_dataset.main, "--dataset", path, "--html", file)
    assert done.status == 0, done.err
    return file


def test_the_page_needs_nothing_else_and_escapes_names(tmp_path):
    made = make_dataset(tmp_path / "made.zarr")
    root = zarr.open_group(made.path)
    root.attrs["keys"] = ["<script>alert(1)</script>", "$x_2$ & <b>", "打\n" + 80 * "x"]
    root.attrs["attributes"] = ["<i>hp</i>", "NpcAnimId"]
    text = analyzed(made.path, tmp_path).read_text()
    assert "<script" not in text
    assert "<i>hp" not in text
    found = Page(text)
    assert found.tags.count("svg") == 7
    assert found.tags.count("img") >= 3 * 3
    assert all(address.startswith(("data:image/", "#")) for address in found.addresses)


@pytest.mark.parametrize("lengths", [(1,), (3,) * 70])
def test_small_odd_datasets_have_a_page_too(tmp_path, lengths):
    root = zarr.open_group(tmp_path / "odd.zarr", mode="w")
    root.attrs["keys"] = ["only"]
    rng = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        group = root.create_group(f"episode_{number}")
        frames = rng.integers(0, 255, (length, 3, 8, 8)).astype(np.uint8)
        group.create_array("frames", data=frames, config={"write_empty_chunks": True})
        pressed = np.zeros((length, 1), bool)
        group.create_array("actions", data=pressed, config={"write_empty_chunks": True})
    text = analyzed(tmp_path / "odd.zarr", tmp_path).read_text()
    assert "is never pressed" in text
    assert "The dataset holds no game state." in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_shows_the_page(made, tmp_path):
    file = analyzed(made.path, tmp_path)
    policy = """default-src 'none'; """
    assert policy in file.read_text()
    file.write_text(file.read_text().replace(policy, ""))
    probe = """<script>window.onload = () => { document.title = JSON.stringify({
      images: [...document.images].map(i => i.naturalWidth),
      plots: [...document.querySelectorAll("figure svg")].map(s => s.getBoundingClientRect().width),
      wide: document.documentElement.scrollWidth, headings: document.querySelectorAll("h2").length
    }) }</script></body>"""
    file.write_text(file.read_text().replace("</body>", probe))
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    shown = subprocess.run(
        ["chromium", *flags.split(), "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900", "--dump-dom",
         "--virtual-time-budget=5000", file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    seen = json.loads(re.search(r"<title>(.*?)</title>", shown.stdout)[1])
    assert len(seen["images"]) >= 9
    assert all(width > 0 for width in seen["images"])
    assert len(seen["plots"]) == 7
    assert all(300 < width <= 1060 for width in seen["plots"])
    assert seen["wide"] <= 1200
    assert seen["headings"] == 8


def test_the_suggested_configuration_loads(made, tmp_path):
    summary = statistics.summarize(Episodes(made.path), [])
    suggested = advice.advise(summary)
    file = tmp_path / "config.yaml"
    file.write_text(advice.as_yaml(suggested) + "model: {name: pure_cnn}\n")
    config = config_file.load(str(file))
    assert config.dataset.path == str(made.path)
    assert config.training.batch_size == 8
    assert all(item.reason for item in suggested)


def test_sample_frames_are_those_around_a_press_in_their_own_colours(made):
    presses = page.sample_presses(Episodes(made.path))
    assert [press.action for press in presses] == list(ACTIONS)
    for press in presses:
        column = ACTIONS.index(press.action)
        actions = made.actions[int(press.episode.removeprefix("episode_"))][:, column]
        assert actions[press.tick]
        assert press.tick == 0 or not actions[press.tick - 1]
        assert [offset for offset, _ in press.frames] == [
            offset for offset in page.OFFSETS if 0 <= press.tick + offset < len(actions)
        ]


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of human play is not here")
def test_human_play_is_described():
    done = run(analyze_dataset.main, "--dataset", SAMPLE)
    assert done.status == 0, done.err
    assert "6 episodes, 2,400 frames of 100x160x3" in done.out
    assert max(map(len, done.out.splitlines())) <= 100
