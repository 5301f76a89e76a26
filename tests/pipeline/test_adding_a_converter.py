"""The page on adding a converter is followed word for word."""

import numpy as np
import zarr

from tests.support.following import run_commands, write_files
from tests.support.made_data import make_dataset

PAGE = "adding_a_converter.md"


def test_a_converter_can_be_added_by_following_the_page(tmp_path):
    assert len(write_files(PAGE, tmp_path)) == 1
    made = make_dataset(tmp_path / "made.zarr", (40, 30, 35))
    (tmp_path / "recordings").mkdir()
    for number, frames in enumerate(made.frames):
        np.savez(
            tmp_path / "recordings" / f"{number}.npz", screen=np.moveaxis(frames, 1, -1),
            buttons=made.actions[number], seconds=np.arange(len(frames)) / 17,
        )  # fmt: skip
    done = run_commands(PAGE, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine.zarr: 3 of 3 episodes are there already, none left" in done.stdout
    root = zarr.open_group(tmp_path / "dataset" / "mine.zarr", mode="r")
    assert root.attrs["keys"] == ["left", "right", "hit"]
    for number, frames in enumerate(made.frames):
        assert np.array_equal(root[f"episode_{number}/frames"][:], frames)
        assert np.array_equal(root[f"episode_{number}/actions"][:], made.actions[number])


def test_its_converter_leaves_out_what_is_damaged(tmp_path):
    write_files(PAGE, tmp_path)
    (tmp_path / "recordings").mkdir()
    frames = np.zeros((10, 24, 32, 3), np.uint8)
    for number, width in enumerate((3, 2)):
        np.savez(
            tmp_path / "recordings" / f"{number}.npz", screen=frames + number,
            buttons=np.ones((10, width)), seconds=np.arange(10) / 17,
        )  # fmt: skip
    (tmp_path / "recordings" / "2.npz").write_bytes(b"PK\x03\x04 and no more")
    done = run_commands(PAGE, tmp_path)
    assert done.returncode == 1
    assert "left out: 1.npz: 10 frames, but buttons of shape (10, 2)" in done.stdout
    assert "left out: 2.npz: " in done.stdout
    assert "Traceback" not in done.stderr
