"""Bytes in folders, archives and behind URLs; zarr-python is the oracle of what is in them."""

import contextlib
import itertools
import os
import re
import shutil
import struct
import time
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from BC_training.common.episodes import Episodes
from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.plumbing.paths import expand, is_url
from gameplay_pipeline.store import remote, span
from gameplay_pipeline.store.span import Span
from gameplay_pipeline.store.storage import open_storage
from tests.support.made_data import make_dataset, zipped
from tests.support.web import Ranged, Whole

LAYOUTS = {
    "v2": {},
    "v2, 16 a chunk": {"chunk": 16},
    "v3": {"zarr_format": 3},
    "v3, shards": {"zarr_format": 3, "chunk": 1, "shard": 16},
    "v3, shards of chunks": {"zarr_format": 3, "chunk": 8, "shard": 16},
}


def consolidate(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3's specification does not have it yet
        zarr.consolidate_metadata(path)


def assert_holds(location, made) -> None:
    episodes = Episodes(location)
    assert len(episodes) == len(made.frames)
    for number, frames in enumerate(made.frames):
        assert np.array_equal(episodes.episodes[number].actions, made.actions[number])
        assert np.array_equal(episodes.episodes[number].state, made.state[number])
        picked = np.array([3, 0, 19, 3, 11])
        read = episodes.read_frames(number, picked)
        assert np.array_equal(read, np.moveaxis(frames[picked], 1, -1))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("where", ["folder", "zip", "zip with a top folder", "deflated zip"])
def test_every_layout_reads_from_a_folder_and_from_a_zip(tmp_path, layout, where):
    made = make_dataset(tmp_path / "made.zarr", **LAYOUTS[layout])
    location = made.path
    if where != "folder":
        method = zipfile.ZIP_DEFLATED if "deflated" in where else zipfile.ZIP_STORED
        location = zipped(made.path, "top" in where, method)
        shutil.rmtree(made.path)
    assert_holds(location, made)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("where", ["zip", "consolidated folder", "unlisted folder"])
def test_every_layout_reads_over_http(tmp_path, serve, layout, where):
    made = make_dataset(tmp_path / "made.zarr", **LAYOUTS[layout])
    if where == "zip":
        name = zipped(made.path).name
    else:
        name = made.path.name
        if where == "consolidated folder":
            consolidate(made.path)
    if where == "unlisted folder":
        with pytest.raises(UserError, match=r"lists no folders.*consolidate_metadata"):
            Episodes(f"{serve()}/{name}")
        return
    assert_holds(f"{serve()}/{name}", made)


def test_an_object_store_reads_as_a_folder(tmp_path):
    import fsspec

    made = make_dataset(tmp_path / "made.zarr", zarr_format=3, shard=16)
    (made.path / "episode_9").symlink_to(tmp_path / "gone")  # its dataset was moved
    assert Episodes(made.path).fingerprint()
    (made.path / "episode_9").unlink()
    memory = fsspec.filesystem("memory")
    memory.put(str(made.path), "/bucket/made.zarr", recursive=True)
    memory.put(str(zipped(made.path)), "/bucket/made.zip")
    try:
        assert_holds("memory://bucket/made.zarr", made)
        assert_holds("memory://bucket/made.zip", made)
        before = Episodes("memory://bucket/made.zip").fingerprint()
        memory.put(str(zipped(made.path, top=False)), "/bucket/made.zip")
        assert Episodes("memory://bucket/made.zip").fingerprint() != before
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.zip", "nowhere.zip: there is no such file"),
        ("nowhere", "no zarr group"),
        ("forbidden.zip", "403"),
        ("forbidden", "403"),
    ],
)
def test_what_a_server_refuses_is_one_message(tmp_path, serve, path, message):
    with pytest.raises(UserError, match=message):
        Episodes(f"{serve()}/{path}")


def test_a_server_that_is_not_there_is_one_message():
    for url in ("http://127.0.0.1:9/made.zip", "http://127.0.0.1:9/made.zarr"):
        with pytest.raises(UserError, match=re.escape(url)):
            Episodes(url)


def test_a_protocol_that_needs_an_extra_says_which():
    with pytest.raises(UserError, match=r"nonsense://x/y: .*uv run --extra cloud"):
        Episodes("nonsense://x/y")
    with pytest.raises(UserError, match="expected hf://datasets/ACCOUNT/NAME/PATH"):
        Episodes("hf://models/x")


def test_the_hub_is_read_over_http_with_its_token(tmp_path, serve, monkeypatch):
    made = make_dataset(tmp_path / "made.zarr")
    folder = tmp_path / "datasets" / "someone" / "fights" / "resolve" / "v1"
    folder.mkdir(parents=True)
    shutil.move(zipped(made.path), folder / "made.zip")
    monkeypatch.setenv("HF_ENDPOINT", serve())
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert_holds("hf://datasets/someone/fights@v1/made.zip", made)
    with pytest.raises(UserError):
        Episodes("hf://datasets/someone/fights/made.zip")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_older_than_the_dataset_are_not_believed(
    tmp_path, serve, zarr_format
):
    import fsspec

    made = make_dataset(tmp_path / "grown.zarr", zarr_format=zarr_format)
    shutil.move(made.path / "episode_4", tmp_path / "later")
    consolidate(made.path)
    shutil.move(tmp_path / "later", made.path / "episode_4")
    assert_holds(f"{serve()}/{zipped(made.path).name}", made)
    memory = fsspec.filesystem("memory")
    memory.put(str(made.path), "/grown.zarr", recursive=True)
    try:
        assert_holds("memory://grown.zarr", made)
    finally:
        memory.rm("/grown.zarr", recursive=True)
    with pytest.raises(UserError, match=r"episode_4 is not as .* consolidated metadata say.*again"):
        Episodes(f"{serve()}/grown.zarr")  # which lists nothing
    consolidate(made.path)
    assert_holds(f"{serve()}/grown.zarr", made)
    array = "zarr.json" if zarr_format == 3 else ".zarray"
    (made.path / "episode_4" / "frames" / array).write_text("{}")
    with pytest.raises(UserError, match="episode_4 is not as"):
        Episodes(f"{serve()}/grown.zarr")


class Endless(Ranged):
    """A server that never stops sending."""

    def do_GET(self) -> None:  # noqa: N802
        self.send_response(206)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"10000\r\n" + bytes(2**16) + b"\r\n")
        self.close_connection = True


class Silent(Ranged):
    """A server that takes a connection and says nothing."""

    def do_GET(self) -> None:  # noqa: N802
        time.sleep(3)


def test_a_server_that_sends_without_end_is_cut_off(serve, monkeypatch):
    monkeypatch.setattr(remote, "MAX_WHOLE", 10**6)
    for name in ("made.zip", "made.zarr"):
        with pytest.raises(UserError, match=r"made\.z.*sends more than the \d+ bytes"):
            Episodes(f"{serve(Endless)}/{name}")


def test_a_server_that_answers_nothing_is_given_up_and_that_is_said(serve, monkeypatch, capsys):
    monkeypatch.setattr(remote, "ANSWER_S", 0.5)
    monkeypatch.setattr(remote, "SAID_AFTER_S", 0.2)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"made\.zip.*[Tt]imeout"):
        Episodes(f"{serve(Silent)}/made.zip")
    assert time.monotonic() - began < 2
    assert "made.zip: waiting for the server" in capsys.readouterr().err


def test_an_entry_of_a_zip_unpacks_to_no_more_than_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(".zgroup", "{}")
        archive.writestr("data", bytes(10**7))
    opened = open_storage(path)
    assert [len(part or b"") for part in opened.fetch([Span("data", 0, 1000)])] == [1000]
    tracemalloc.start()
    list(opened.fetch([Span("data", 0, 1000)]))
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    monkeypatch.setattr(span, "MAX_WHOLE", 10**6)
    with pytest.raises(DataError, match="data is too large to be meant"):
        list(opened.fetch([Span("data")]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_no_file_of_a_dataset(made):
    chunk = made.path / "episode_1" / "actions" / "0.0"
    chunk.unlink()
    os.mkfifo(chunk)
    (problem,) = Episodes(made.path).skipped
    assert "it is no regular file" in problem.what
    frame = made.path / "episode_2" / "frames" / "7.0.0.0"
    frame.unlink()
    os.mkfifo(frame)
    with pytest.raises(DataError, match=r"tick 7: .*it is no regular file") as error:
        Episodes(made.path).read_frames(1, slice(None))
    assert error.value.ticks == (7, 8)
    os.mkfifo(made.path.with_name("pipe.zip"))
    with pytest.raises(UserError, match="neither a folder nor a file"):
        Episodes(made.path.with_name("pipe.zip"))


def test_attributes_nested_without_end_cost_their_episode_only(made):
    (made.path / "episode_1" / ".zattrs").write_text("[" * 200_000 + "]" * 200_000)
    (problem,) = Episodes(made.path).skipped
    assert problem.episode == "episode_1"
    assert "metadata can't be read" in problem.what


def test_a_server_without_ranges_is_refused(tmp_path, serve):
    made = make_dataset(tmp_path / "made.zarr", zarr_format=3, shard=16)
    consolidate(made.path)
    address = serve(Whole)
    (problem, *_) = itertools.chain(_skipped(f"{address}/made.zarr"))
    assert "whole files when asked for parts" in problem
    zipped(made.path)
    with pytest.raises(UserError, match=r"whole files when asked for parts"):
        Episodes(f"{address}/made.zarr.zip")


def _skipped(url):
    try:
        return [problem.what for problem in Episodes(url).skipped]
    except UserError as error:
        return [str(error)]


def test_a_truncated_zip_says_so(made):
    path = zipped(made.path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"neither a folder nor a whole \.zip.*download it again"):
        Episodes(path)
    # Its directory is whole, but bytes before it are gone.
    path.write_bytes(whole[:100] + whole[5000:])
    with pytest.raises(UserError, match=r"made\.zarr\.zip: "):
        Episodes(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_bit_in_a_zip_costs_its_episode_only(made, compression):
    path = zipped(made.path, compression=compression)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: info for info in archive.infolist()}
    for name in ("actions/0.0", "actions/.zarray", "frames/3.0.0.0"):
        info = entries[f"made.zarr/episode_1/{name}"]
        at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        episodes = Episodes(path)
        if name.startswith("frames"):
            with pytest.raises(DataError, match=r"tick 3: chunk .* (checksum|unpacked)"):
                episodes.read_frames(1, slice(None))
        else:
            assert [problem.episode for problem in episodes.skipped] == ["episode_1"]


def test_a_zip_whose_entries_point_outside_it_is_refused(made, tmp_path):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../outside/.zgroup", "{}")
    with pytest.raises(DataError, match=r"'\.\./outside/\.zgroup' points outside"):
        open_storage(path)
    path = zipped(made.path)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 20 : at + 24] = struct.pack("<I", 2**31)  # the stored size of the first entry
    path.write_bytes(data)
    with pytest.raises(DataError, match="lies outside the file"):
        open_storage(path)


def test_a_zip_without_a_group_or_packed_otherwise_is_refused(tmp_path):
    for compression, message in ((0, "no zarr group"), (zipfile.ZIP_BZIP2, "other than stored")):
        path = tmp_path / f"{compression}.zip"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("notes.txt" if compression == 0 else ".zgroup", "{}")
        with pytest.raises(DataError, match=message):
            open_storage(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("where", ["folder", "zip", "http", "http zip"])
def test_spans_are_the_bytes_they_name(tmp_path, serve, where, compression):
    folder = tmp_path / "x.zarr"
    folder.mkdir()
    (folder / ".zgroup").write_text("{}")
    data = bytes(range(200))
    (folder / "data").write_bytes(data)
    location: str | Path = folder
    if "zip" in where:
        location = zipped(folder, compression=compression)
    if "http" in where:
        location = f"{serve()}/{location.name}"
    opened = open_storage(location)
    spans = [
        Span("data"),
        Span("data", 10, 5),
        Span("data", -20),
        Span("nothing"),
        Span("data", 0, 3),
    ]
    expected = [data, data[10:15], data[-20:], None, data[:3]]
    for _ in range(2):
        found = [None if part is None else bytes(part) for part in opened.fetch(spans)]
        assert found == expected
    assert isinstance(opened.fingerprint(), str)


def test_is_url():
    assert is_url("s3://bucket/x")
    assert not is_url(Path("dataset/x.zarr"))


def test_a_path_may_name_the_home_folder_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FIGHTS", "data")
    assert expand("~/$FIGHTS/x.zarr") == f"{tmp_path}/data/x.zarr"
    assert expand(Path("${FIGHTS}/x.zarr")) == Path("data/x.zarr")
    assert expand("s3://$FIGHTS/x.zip") == "s3://data/x.zip"
    with pytest.raises(UserError, match="the environment variable NOWHERE is not set"):
        expand("$NOWHERE/x.zarr")
    with pytest.raises(UserError, match="no home folder ~nobody-of-that-name"):
        expand("~nobody-of-that-name/x.zarr")
    (tmp_path / "$NOWHERE").touch()
    assert expand(tmp_path / "$NOWHERE").exists()
    make_dataset(tmp_path / "data" / "x.zarr")
    assert "episode_0" in (open_storage("~/data/x.zarr").children("") or ())
