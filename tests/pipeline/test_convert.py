"""Converting recordings: zarr-python reads what came out, the truth and a slow reference say what
should have."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import zarr

from gameplay_pipeline.convert.alignment import nearest, pressed_in
from gameplay_pipeline.convert.keybinds import Keybinds, read_keybinds
from gameplay_pipeline.convert.session_tables import Event
from gameplay_pipeline.convert_to_zarr import Conversion, convert
from gameplay_pipeline.plumbing import optional
from gameplay_pipeline.plumbing.errors import UserError
from gameplay_pipeline.plumbing.video import LOSSLESS, LOSSY, VideoWriter
from tests.support.made_recording import (
    START_US,
    make_session,
    read_table,
    write_keybinds,
    write_table,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three sessions, one of them without metadata, and what was played in them."""
    folder = tmp_path_factory.mktemp("made")
    return folder, [
        make_session(folder / f"session_{n}", n, ticks=40, metadata=n != 9) for n in (2, 9, 10)
    ]


@pytest.fixture
def recordings(made, tmp_path):
    """A copy of `made` that a test may damage."""
    shutil.copytree(made[0], tmp_path / "recordings")
    return tmp_path / "recordings"


def run(recordings, out=None, resolution="96x64", workers=1, **options) -> int:
    binds = options.pop("keybinds", None) or write_keybinds(recordings.parent / "keybinds.json")
    out = out or recordings.parent / "out.zarr"
    return convert(
        Conversion(recordings, out, binds, resolution=resolution, workers=workers, **options)
    )


def read(path, number):
    group = zarr.open_group(path, mode="r")[f"episode_{number}"]
    return {name: array[:] for name, array in group.arrays()}, dict(group.attrs)


def sessions(path):
    groups = zarr.open_group(path, mode="r").groups()
    return {name: group.attrs["source_episode"] for name, group in groups}


@pytest.mark.parametrize(("workers", "zarr_format"), [(1, 3), (2, 2)])
def test_what_was_played_comes_out(made, tmp_path, capsys, workers, zarr_format):
    folder, truths = made
    binds = write_keybinds(tmp_path / "keybinds.json")
    out = tmp_path / "out.zarr"
    options = {"keybinds": binds, "workers": workers, "zarr_format": zarr_format}
    assert run(folder, out, **options) == 0
    root = zarr.open_group(out, mode="r")
    assert root.metadata.zarr_format == zarr_format
    assert root.attrs["color_order"] == "RGB"
    assert root.attrs["keys"][4] == "attack"
    assert root.attrs["attributes"][0] == "HeroHp"
    assert sessions(out) == {
        "episode_0": "session_2", "episode_1": "session_9", "episode_2": "session_10",
    }  # fmt: skip
    for number, truth in enumerate(truths):
        found, attributes = read(out, number)
        assert truth.actions.any()
        assert np.array_equal(found["actions"], truth.actions)
        assert np.array_equal(found["state"], truth.state.astype(np.float32))
        assert np.array_equal(np.moveaxis(found["frames"], 1, -1), truth.frames)
        assert np.allclose(found["timestamps"], (truth.times - START_US) / 1e6, atol=1e-9)
        assert attributes["start_timestamp_us"] == START_US
        assert attributes["fps"] == pytest.approx(17, rel=0.02)
    text = capsys.readouterr().out
    assert "start_timestamp_us in metadata.json: 2" in text
    assert "the first sample in memory_data.csv: 1" in text
    assert "HeroAnimId is rounded" in text
    assert "left out:" not in text


def test_the_trainer_takes_what_comes_out(recordings):
    from BC_training.common.episodes import Episodes

    assert run(recordings) == 0
    episodes = Episodes(recordings.parent / "out.zarr", validate=False)
    assert len(episodes) == 3
    assert episodes.fps() == pytest.approx(17, rel=0.02)


def test_lossy_frames_are_close(tmp_path):
    truth = make_session(tmp_path / "recordings" / "a", size=(192, 128), ticks=20, video=LOSSY)
    assert run(tmp_path / "recordings", resolution="96x64") == 0
    found = np.moveaxis(read(tmp_path / "out.zarr", 0)[0]["frames"], 1, -1)
    expected = [cv2.resize(f, (96, 64), interpolation=cv2.INTER_AREA) for f in truth.frames]
    error = np.mean((found.astype(float) - expected) ** 2)
    assert 10 * np.log10(255**2 / error) > 30


def reference_pressed(times, events, binds):
    """Frame by frame, with the set of what is held."""
    firsts = {}
    for event in events:
        firsts.setdefault(event.button, event.is_down)
    held = {button for button, is_down in firsts.items() if not is_down}
    rows, left = [], list(events)
    ends = [*times[1:], times[-1] + (times[-1] - times[-2])]
    for begin, end in zip(times, ends, strict=True):
        touched = set()
        while left and left[0].time < end:
            event = left.pop(0)
            if event.time > begin and event.button in held:
                touched.add(event.button)  # it was held for a while after the frame began
            if event.is_down:
                if event.time >= begin and event.button not in held:
                    touched.add(event.button)
                held.add(event.button)
            else:
                held.discard(event.button)
        pressed = touched | held
        rows.append(
            [any(c in binds.columns.get(b, ()) for b in pressed) for c in range(len(binds.actions))]
        )
    return np.array(rows)


@pytest.mark.parametrize("seed", range(60))
def test_presses_equal_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    columns = {("key", "a"): [0], ("mouse", "a"): [0, 2], ("key", "b"): [1], ("key", "c"): [2]}
    binds = Keybinds(("x", "y", "z"), columns)
    buttons = [*columns, ("key", "unbound")]
    times = np.cumsum(rng.integers(1, 6, rng.integers(2, 30))) + 10
    events = sorted(
        [
            Event(int(rng.integers(0, times[-1] + 15)), bool(rng.random() < 0.55), buttons[pick])
            for pick in rng.integers(0, 5, rng.integers(0, 40))
        ],
        key=lambda event: event.time,
    )
    expected = reference_pressed(times.tolist(), events, binds)
    pressed, notes = pressed_in(times, events, binds)
    assert np.array_equal(pressed, expected)
    assert all("never goes up" in note for note in notes)


def rows(times, *events, columns=None):
    binds = Keybinds(("x",), columns or {("key", "a"): [0], ("key", "b"): [0]})
    made = [Event(t, kind == "down", ("key", name)) for t, kind, name in events]
    return pressed_in(np.array(times), made, binds)[0][:, 0].tolist()


def test_a_press_shorter_than_a_frame_is_not_lost():
    assert rows([0, 10, 20, 30], (13, "down", "a"), (16, "up", "a")) == [0, 1, 0, 0]
    assert rows([0, 10, 20, 30], (13, "down", "a"), (13, "up", "a")) == [0, 1, 0, 0]
    assert rows([0, 10, 20, 30], (38, "down", "a"), (39, "up", "a")) == [0, 0, 0, 1]
    assert rows([0, 10, 20, 30], (40, "down", "a"), (41, "up", "a")) == [0, 0, 0, 0]
    assert rows([0, 10, 20, 30], (-4, "down", "a"), (-2, "up", "a")) == [0, 0, 0, 0]


def test_a_press_is_over_when_the_frame_at_its_end_begins():
    assert rows([0, 10, 20, 30], (0, "down", "a"), (20, "up", "a")) == [1, 1, 0, 0]
    assert rows([0, 10, 20, 30], (0, "down", "a"), (21, "up", "a")) == [1, 1, 1, 0]


def test_two_keys_of_one_action_are_released_when_both_are_up():
    both = (1, "down", "a"), (11, "down", "b"), (12, "up", "a"), (31, "up", "b")
    assert rows([0, 10, 20, 30, 40], *both) == [1, 1, 1, 1, 0]


def test_a_key_that_repeats_itself_is_released_once():
    held = (1, "down", "a"), (11, "down", "a"), (15, "down", "a"), (21, "up", "a")
    assert rows([0, 10, 20, 30], *held) == [1, 1, 1, 0]


SECOND = 1_000_000


def held(key, first, last, every=33_000):
    """A key that goes down and repeats itself."""
    return [Event(time, True, ("key", key)) for time in range(first, last, every)]


def with_lost_releases(events):
    """The events with the releases that pressed_in infers before another press, key by key."""
    repeats, lost = [], []
    for button in {event.button for event in events}:
        signs = []
        for event in (each for each in events if each.button == button):
            silent = signs and event.time - signs[-1] > (1_200_000 if len(signs) == 1 else 600_000)
            if event.is_down and silent:
                lost.append((signs[-1], button))
                signs = []
            elif event.is_down and len(signs) > 1:
                repeats.append(event.time - signs[-1])
            signs = [*signs, event.time] if event.is_down else []
    repeat = round(float(np.median(repeats))) if repeats else 0
    inferred = [Event(time + repeat, False, button) for time, button in lost]
    return sorted([*events, *inferred], key=lambda event: event.time)


def pressed_ticks(events):
    """Ticks, ten a second for ten seconds, with W pressed; and the notes."""
    events = sorted(events, key=lambda event: event.time)
    binds = Keybinds(("go",), {("key", "w"): [0]})
    pressed, notes = pressed_in(np.arange(100) * 100_000, events, binds)
    return np.flatnonzero(pressed[:, 0]).tolist(), notes


def test_a_press_whose_release_was_lost_ends_with_the_keyboards_repeats():
    press = held("w", SECOND // 2, SECOND)
    tab = [Event(SECOND, True, ("key", "alt"))]
    again = [Event(8 * SECOND, True, ("key", "w")), Event(8_300_000, False, ("key", "w"))]
    ticks, notes = pressed_ticks(press + tab + again)
    assert ticks == [5, 6, 7, 8, 9, 10, 80, 81, 82]
    (note,) = notes
    assert "key W: the release of 1 of its presses was not recorded" in note
    assert "33 ms (one repeat of the keyboard)" in note
    assert "(1028000 us)" in note
    # A release that was recorded counts, however long the key was silent after another went down.
    assert pressed_ticks([*press, *tab, again[1]]) == (list(range(5, 83)), [])


def test_a_recorder_without_repeats_leaves_a_lost_release_where_the_press_began():
    downs = [Event(time, True, ("key", "w")) for time in (SECOND // 2, 8 * SECOND)]
    ticks, notes = pressed_ticks([*downs, Event(8_300_000, False, ("key", "w"))])
    assert ticks == [5, 80, 81, 82]
    assert "keys do not repeat in this recording" in notes[0]


def test_a_key_that_falls_silent_and_never_goes_up_was_released():
    ticks, notes = pressed_ticks(held("w", SECOND // 2, SECOND))
    assert ticks == [5, 6, 7, 8, 9, 10]
    assert "the release of 1 of its presses" in notes[0]
    # Another key ends the repeating of the first, which may be held on.
    ticks, notes = pressed_ticks(held("w", SECOND // 2, SECOND) + held("d", SECOND, 9 * SECOND))
    assert ticks == list(range(5, 100))
    assert notes == ["key W never goes up at last; it is taken to be held to the end"]
    # And one that repeats itself to the end is held to the end.
    assert pressed_ticks(held("w", SECOND // 2, 10 * SECOND))[0] == list(range(5, 100))


def test_keys_held_at_the_edges_of_the_recording():
    assert rows([0, 10, 20, 30], (15, "up", "a")) == [1, 1, 0, 0]
    assert rows([0, 10, 20, 30], (0, "up", "a")) == [0, 0, 0, 0]
    assert rows([0, 10, 20, 30], (15, "down", "a")) == [0, 1, 1, 1]
    assert rows([0, 10, 20, 30], (5, "up", "a"), (25, "up", "a")) == [1, 0, 0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_sample_equals_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    samples = np.sort(rng.integers(0, 40, rng.integers(1, 30)))
    times = np.sort(rng.integers(-10, 50, 25))
    expected = []
    for moment in times.tolist():
        best = 0
        for at, sample in enumerate(samples.tolist()):
            away, least = abs(sample - moment), abs(int(samples[best]) - moment)
            if away < least or sample == samples[best]:
                best = at
        expected.append(best)
    assert np.array_equal(nearest(times, samples), expected)


def write_wild_session(folder, seed):
    """Frames at irregular times, state at others, any keys at any time; nothing in order."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    start = int(rng.integers(10**6, 10**9))
    stamps = np.cumsum(rng.integers(5_000, 90_000, 50))
    with VideoWriter(folder / "video.mp4", (64, 48), 17, LOSSLESS) as writer:
        for stamp in stamps:
            writer.append(rng.integers(0, 256, (48, 64, 3), np.uint8), int(stamp - stamps[0]))
    (folder / "metadata.json").write_text(json.dumps({"start_timestamp_us": start, "fps": 1}))
    span = int(stamps[-1] - stamps[0])
    moments = start + rng.integers(-200_000, span + 200_000, 120)
    samples = [[t, i, float(rng.normal())] for i, t in enumerate(moments.tolist())]
    write_table(folder / "memory_data.csv", ["timestamp_us", "HeroHp", "NpcHp"], samples)
    names = [("KEY", "W"), ("KEY", "up"), ("KEY", "D"), ("MOUSE", "LEFT"), ("KEY", "ESC")]
    events = []
    for t in (start + rng.integers(-100_000, span + 100_000, 90)).tolist():
        kind, name = names[rng.integers(5)]
        events.append([t, f"{kind}_{'DOWN' if rng.random() < 0.5 else 'UP'}", name])
    write_table(folder / "inputs.csv", ["timestamp_us", "event_type", "key_or_button"], events)


def reference_episode(folder, binds: Keybinds, size):
    """The whole conversion in the plainest way."""
    with av.open(str(folder / "video.mp4")) as container:
        decoded = [(f.pts * f.time_base, f.to_ndarray(format="rgb24"))
                   for f in container.decode(video=0)]  # fmt: skip
    start = json.loads((folder / "metadata.json").read_text())["start_timestamp_us"]
    times = [start + round((t - decoded[0][0]) * Fraction(10**6)) for t, _ in decoded]
    frames = [cv2.resize(f, size, interpolation=cv2.INTER_AREA) for _, f in decoded]
    samples = list(csv.DictReader((folder / "memory_data.csv").open()))
    samples.sort(key=lambda row: int(row["timestamp_us"]))
    state = []
    for moment in times:
        best = min(samples, key=lambda row: abs(int(row["timestamp_us"]) - moment))
        same = [row for row in samples if row["timestamp_us"] == best["timestamp_us"]]
        state.append([np.float32(same[-1][name]) for name in ("HeroHp", "NpcHp")])
    inputs = list(csv.DictReader((folder / "inputs.csv").open()))
    inputs.sort(key=lambda row: int(row["timestamp_us"]))
    events = []
    for row in inputs:
        kind, _, what = row["event_type"].partition("_")
        button = (kind.lower(), row["key_or_button"].lower())
        events.append(Event(int(row["timestamp_us"]), what == "DOWN", button))
    pressed = reference_pressed(times, with_lost_releases(events), binds)
    return frames, np.array(state), pressed, times, start


@pytest.mark.parametrize("seed", range(4))
def test_a_wild_recording_equals_the_slow_reference(tmp_path, seed, capsys):
    write_wild_session(tmp_path / "recordings" / "wild", seed)
    assert run(tmp_path / "recordings", resolution="32x24") == 0
    binds = read_keybinds(tmp_path / "keybinds.json")
    frames, state, pressed, times, start = reference_episode(
        tmp_path / "recordings" / "wild", binds, (32, 24)
    )
    found, attributes = read(tmp_path / "out.zarr", 0)
    assert np.array_equal(np.moveaxis(found["frames"], 1, -1), frames)
    assert np.array_equal(found["state"], state)
    assert 0.1 < pressed[:, [3, 4, 6]].mean() < 0.95
    assert np.array_equal(found["actions"], pressed)
    assert np.allclose(found["timestamps"], (np.array(times) - start) / 1e6, atol=1e-9)
    assert attributes["start_timestamp_us"] == start
    text = capsys.readouterr().out
    assert "memory_data.csv: " in text
    assert "times are before the one above them; sorted" in text
    assert "presses of key ESC, which no binding names: " in text


def rewrite(session, change, encoding="utf-8"):
    """Writes a session's tables as another program would."""
    for name in ("memory_data.csv", "inputs.csv"):
        text = (session / name).read_text(errors="replace")
        (session / name).write_bytes(change(text).encode(encoding))


def german(text):
    return text.replace(".", "%").replace(",", ";").replace("%", ",")


def as_floats(text):
    """Times as pandas writes them once a row had none."""
    head, *lines = text.splitlines()
    return "\n".join([head, *(line.replace(",", ".0,", 1) for line in lines)])


def with_index(text):
    head, *lines = text.splitlines()
    return "\n".join(["," + head, *(f"{row},{line}" for row, line in enumerate(lines))])


TABLES = {
    "semicolons, decimal commas": (german, "utf-8"),
    "tabs": (lambda text: text.replace(",", "\t"), "utf-8"),
    "UTF-16": (str, "utf-16"),
    "UTF-16 without a mark": (str, "utf-16-le"),
    "UTF-16, big end first": (str, "utf-16-be"),
    "a mark": (str, "utf-8-sig"),
    "whole numbers as floats": (as_floats, "utf-8"),
    "an index of pandas": (with_index, "utf-8"),
    "an index of pandas, read and written again": (
        lambda text: with_index(with_index(text)).replace(",,", ",Unnamed: 0,", 1),
        "utf-8",
    ),
}


@pytest.mark.parametrize("how", TABLES)
def test_tables_of_other_programs_are_read(made, tmp_path, how, capsys):
    recordings = tmp_path / "recordings"
    shutil.copytree(made[0] / "session_2", recordings / "session_2")
    rewrite(recordings / "session_2", *TABLES[how])
    assert run(recordings) == 0
    found, _ = read(tmp_path / "out.zarr", 0)
    assert np.array_equal(found["actions"], made[1][0].actions)
    assert np.array_equal(found["state"], made[1][0].state.astype(np.float32))
    names = zarr.open_group(tmp_path / "out.zarr").attrs["attributes"]
    assert names[0] == "HeroHp"
    assert "" not in names
    said = "memory_data.csv: not carried over: a column without a name" in capsys.readouterr().out
    assert said == ("pandas" in how)


def test_a_table_that_cannot_be_read_is_not_said_to_be_absent(made, tmp_path):
    recordings = tmp_path / "recordings"
    shutil.copytree(made[0] / "session_2", recordings / "session_2")
    rewrite(recordings / "session_2", lambda text: text.replace("HeroHp", "Müdigkeit"), "cp1252")
    with pytest.raises(UserError, match=r"memory_data\.csv is not UTF-8 or UTF-16; save it"):
        run(recordings)
    rewrite(recordings / "session_2", lambda _: "time,HeroHp\n1,2\n")
    with pytest.raises(UserError, match="no column timestamp_us; its columns are time, HeroHp"):
        run(recordings)


def cut(file):
    os.truncate(file, file.stat().st_size * 2 // 3)


def remux(file, change=lambda packets: packets, **options):
    """Writes the frames of a video, or what is made of them, to a new one in its place."""
    with av.open(str(file)) as old:
        moved = file.with_suffix(".moved.mp4")
        with av.open(str(moved), "w", options=options) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            packets = [packet for packet in old.demux(video=0) if packet.dts is not None]
            for packet in change(packets):
                packet.stream = stream
                new.mux(packet)
    moved.replace(file)


def cut_behind_its_index(file):
    """So that the part that is left can be opened."""
    remux(file, movflags="faststart")
    cut(file)


def show_two_at_once(file):
    def change(packets):
        packets[6].pts = packets[7].pts
        return packets

    remux(file, change)


def edit(change):
    def damage(file):
        header, table = read_table(file)
        change(header, table)
        write_table(file, header, table)

    return damage


def drop_hp(header, table):
    place = header.index("HeroHp")
    for row in (header, *table):
        del row[place]


def repeat_column(header, table):
    header[2] = "HeroHp"


def set_at(line, column, value):
    def change(header, table):
        table[line - 2][column] = value

    return edit(change)


def shift(by):
    def change(header, table):
        for row in table:
            row[0] = int(row[0]) + by

    return edit(change)


DAMAGE = {
    "no video": ("video.mp4", Path.unlink, "it has no video.mp4"),
    "no inputs": ("inputs.csv", Path.unlink, "it has no inputs.csv"),
    "no memory": ("memory_data.csv", Path.unlink, "it has no memory_data.csv"),
    "cut off": ("video.mp4", cut, "video.mp4 can't be read as a video"),
    "cut off, index first": (
        "video.mp4",
        cut_behind_its_index,
        "video.mp4 is cut off or damaged after",
    ),
    "two frames at once": (
        "video.mp4",
        show_two_at_once,
        "frame 7 is at the time of the one before it",
    ),
    "one frame": ("video.mp4", lambda f: remux(f, lambda p: p[:1]), "1 frames, which is too few"),
    "no film": ("video.mp4", lambda f: f.write_text("x"), "video.mp4 can't be read as a video"),
    "an attribute missing": ("memory_data.csv", edit(drop_hp), "has no column HeroHp"),
    "a column twice": ("memory_data.csv", edit(repeat_column), "more than one column 'HeroHp'"),
    "no number": ("memory_data.csv", set_at(5, 3, "dead"), "line 5: HeroSp is 'dead'"),
    "not finite": ("memory_data.csv", set_at(6, 3, "nan"), "line 6: HeroSp is 'nan'"),
    "no time": ("inputs.csv", set_at(2, 0, "1.5"), "line 2: timestamp_us is '1.5'"),
    "no possible time": ("inputs.csv", set_at(2, 0, str(2**70)), "line 2: timestamp_us is"),
    "half a line": ("memory_data.csv", lambda f: os.truncate(f, f.stat().st_size - 20), "values"),
    "not text": (
        "inputs.csv",
        lambda f: f.write_bytes(b"\xff\xfe\x00"),
        "is not UTF-8 or UTF-16",
    ),
    "no columns": ("inputs.csv", lambda f: f.write_text(""), "no column timestamp_us, event_type"),
    "no samples": ("memory_data.csv", edit(lambda _, t: t.clear()), "contains no sample"),
    "another clock": ("memory_data.csv", shift(10**9), "does start_timestamp_us in metadata.json"),
    "another clock of keys": ("inputs.csv", shift(10**9), "do they share a clock"),
    "wrong start": ("metadata.json", lambda f: f.write_text('{"start_timestamp_us": "0"}'), "'0'"),
    "no JSON": ("metadata.json", lambda f: f.write_text("{"), "metadata.json can't be read"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_bad_session_is_left_out_and_named(recordings, damage, capsys):
    name, change, reason = DAMAGE[damage]
    change(recordings / "session_10" / name)
    assert run(recordings) == 1
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("left out:")]
    assert line.startswith("left out: session_10: ")
    assert reason in line
    assert sessions(recordings.parent / "out.zarr") == {
        "episode_0": "session_2", "episode_1": "session_9",
    }  # fmt: skip


def test_a_bad_session_is_a_matter_of_the_exit_status(recordings):
    (recordings / "session_2" / "video.mp4").unlink()
    command = [sys.executable, "-m", "gameplay_pipeline.convert_to_zarr", recordings,
               recordings.parent / "out.zarr", "--keybinds",
               write_keybinds(recordings.parent / "k.json"), "--resolution", "48x32"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "left out: session_2: it has no video.mp4" in done.stdout
    assert done.stderr == ""


def test_a_mended_session_takes_its_own_place(recordings):
    hidden = recordings / "session_9" / "hidden"
    (recordings / "session_9" / "video.mp4").rename(hidden)
    assert run(recordings) == 1
    out = recordings.parent / "out.zarr"
    assert sessions(out) == {"episode_0": "session_2", "episode_2": "session_10"}
    hidden.rename(recordings / "session_9" / "video.mp4")
    shutil.copytree(recordings / "session_2", recordings / "session_1")
    assert run(recordings) == 0
    assert sorted(sessions(out).items()) == [
        ("episode_0", "session_2"), ("episode_1", "session_1"), ("episode_2", "session_10"),
        ("episode_3", "session_9"),
    ]  # fmt: skip


def test_what_is_odd_but_harmless_is_said(recordings, capsys):
    header, table = read_table(recordings / "session_2" / "memory_data.csv")
    for row in (header, *table):
        row.append("Extra" if row is header else "text")
    table.append(table[-1])
    table[0], table[2] = table[2], table[0]
    write_table(recordings / "session_2" / "memory_data.csv", header, table)
    header, table = read_table(recordings / "session_2" / "inputs.csv")
    table += [[START_US, "KEY_DOWN", "F9"], [START_US, "MOUSE_MOVE", "3"]] * 2
    number = len(table) - 2  # a movement of the mouse is no event of a button
    write_table(recordings / "session_2" / "inputs.csv", header, table)
    header, table = read_table(recordings / "session_9" / "memory_data.csv")
    write_table(recordings / "session_9" / "memory_data.csv", header, table[:40])
    edit(lambda _, table: table.clear())(recordings / "session_10" / "inputs.csv")
    assert run(recordings, resolution="200x64") == 0
    text = capsys.readouterr().out
    for line in (
        "presses of key F9, which no binding names: 2",
        "events that concern no button, MOUSE_MOVE: 2",
        f"session_2: inputs.csv: 1 of {number} times are before the one above them; sorted",
        "session_2: memory_data.csv: not carried over: Extra",
        "session_2: memory_data.csv: 1 of 81 times are there twice; the last counts",
        "frames are more than 0.5 s from the nearest sample in memory_data.csv",
        "session_10: no action is ever pressed in it (0 events in inputs.csv)",
        "session_2, session_9, session_10: its video of 96x64 is smaller than --resolution",
        "its video of 96x64 has other proportions: stretched",
    ):
        assert line in text
    assert "memory_data.csv: 2 of 81 times are before" in text


def keybinds(**actions):
    return json.dumps({"version": "2.0", "actions": actions})


BAD_KEYBINDS = {
    '{"version": 1, "keys": ["w"]}': r'its version is 1, but must be "2.0"',
    '["w"]': "its version is None",
    "{": "can't be read as key bindings",
    '{"version": "2.0", "actions": {}}': "at least one action",
    keybinds(a={"index": 0, "key": "w"}, b={"index": 2, "key": "s"}): "but have 0, 2",
    keybinds(a={"index": 1, "key": "w"}): "but have 1",
    keybinds(a={"index": -1, "key": "w"}, b={"index": 0, "key": "s"}): "but have -1, 0",
    keybinds(a={"index": 0, "key": "w"}, b={"index": 0, "key": "s"}): "b and a both have index 0",
    keybinds(a={"index": "0", "key": "w"}): "a: its index is '0'",
    keybinds(a={"index": 0, "key": None, "mouse": None}): "neither a key nor a mouse button",
    keybinds(a={"index": 0, "key": 3}): "a: its key is 3",
    keybinds(a="w"): "a: its index is None",
}


@pytest.mark.parametrize("text", BAD_KEYBINDS)
def test_bad_keybinds_are_refused(recordings, tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(UserError, match=BAD_KEYBINDS[text]):
        run(recordings, keybinds=tmp_path / "bad.json")
    assert not (tmp_path / "out.zarr").exists()


def test_bad_arguments_are_refused(recordings, tmp_path):
    with pytest.raises(UserError, match="no such folder of recordings"):
        run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--resolution: '96' must be"):
        run(recordings, resolution="96")
    with pytest.raises(UserError, match="--workers is 0"):
        run(recordings, workers=0)
    with pytest.raises(UserError, match="OUT must not be inside"):
        run(recordings, recordings / "out.zarr")
    with pytest.raises(UserError, match="OUT must name a folder"):
        run(recordings, tmp_path / "out.zip")
    with pytest.raises(UserError, match="is a session"):
        run(recordings / "session_2", tmp_path / "out.zarr")
    with pytest.raises(UserError, match="can't be read as key bindings"):
        run(recordings, keybinds=tmp_path / "absent.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="contains no folders of sessions"):
        run(tmp_path / "empty")
    (tmp_path / "empty" / "a").mkdir()
    with pytest.raises(UserError, match=r"can be read; a has no memory_data\.csv"):
        run(tmp_path / "empty")


def test_another_dataset_at_out_is_refused(recordings):
    assert run(recordings, resolution="48x32") == 0
    with pytest.raises(UserError, match="written with other settings"):
        run(recordings, resolution="24x16")


def test_without_the_group_it_says_which(monkeypatch, recordings):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    with pytest.raises(UserError, match="uv run --group convert"):
        run(recordings)


def test_a_full_disk_stops_it_and_what_is_complete_stays(recordings):
    shutil.rmtree(recordings / "session_9")
    make_session(recordings / "session_9", 9, ticks=120, size=(192, 128))
    limited = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (2_500_000, 2_500_000)); "
    module = "gameplay_pipeline.convert_to_zarr"
    run_it = f"import runpy; runpy.run_module({module!r}, run_name='__main__')"
    out = recordings.parent / "out.zarr"
    arguments = [recordings, out, "--keybinds", write_keybinds(recordings.parent / "k.json"),
                 "--workers", "1", "--resolution", "192x128"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", limited + run_it, *arguments],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "make room and run the same command to continue" in done.stderr
    assert "Traceback" not in done.stderr
    assert sessions(out) == {"episode_0": "session_2"}
    assert not (recordings.parent / "out.zarr.partial").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_goes_on_to_the_same_dataset(made, tmp_path, workers):
    recordings, out = tmp_path / "recordings", tmp_path / "out.zarr"
    for number in range(6):
        shutil.copytree(made[0] / f"session_{(2, 9, 10)[number % 3]}", recordings / f"s{number}")
    binds = write_keybinds(tmp_path / "k.json")
    command = [sys.executable, "-m", "gameplay_pipeline.convert_to_zarr", recordings, out,
               "--keybinds", binds, "--workers", str(workers), "--resolution", "96x64"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(out.glob("episode_*")) and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "run the same command to continue" in said
    assert "Traceback" not in said
    before = set(sessions(out))
    assert 0 < len(before) < 6
    assert run(recordings, out, keybinds=binds) == 0
    assert run(recordings, tmp_path / "whole.zarr", keybinds=binds) == 0
    assert sessions(out) == sessions(tmp_path / "whole.zarr")
    for number in range(6):
        (found, attributes), (whole, others) = (
            read(out, number),
            read(tmp_path / "whole.zarr", number),
        )
        assert attributes == others
        assert all(np.array_equal(found[name], whole[name]) for name in whole)
