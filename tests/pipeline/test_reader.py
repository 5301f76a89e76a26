"""The reader of arrays; zarr-python, which wrote them, is the oracle of what is in them."""

import json
import shutil
import subprocess
import tempfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gameplay_pipeline.plumbing.errors import DataError, UserError
from gameplay_pipeline.store import codecs
from gameplay_pipeline.store.checksums import verify_checksums, write_checksums
from gameplay_pipeline.store.layout import parse
from gameplay_pipeline.store.reader import Entry, Reader, read_frames
from gameplay_pipeline.store.writer import DatasetInfo, EpisodeWriter, open_dataset
from tests.support.made_data import zipped

PACKERS = {
    2: [
        None,
        numcodecs.Blosc("lz4"),
        numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE),
        numcodecs.Zstd(1),
        numcodecs.GZip(1),
        numcodecs.Zlib(1),
        numcodecs.BZ2(1),
        numcodecs.LZ4(),
        numcodecs.LZMA(preset=0),
    ],
    3: [
        (),
        zarr.codecs.BloscCodec(cname="zstd"),
        (zarr.codecs.BloscCodec(cname="lz4"), zarr.codecs.Crc32cCodec()),
        zarr.codecs.ZstdCodec(level=1),
        zarr.codecs.ZstdCodec(level=1, checksum=True),
        zarr.codecs.GzipCodec(level=1),
    ],
}

FILTERS = {
    2: [None, [numcodecs.Delta("<i2")], [numcodecs.FixedScaleOffset(0, 1, "<i2", "<f8")]],
    3: [None, [zarr.codecs.TransposeCodec(order=(3, 1, 2, 0))]],
}


class Case(NamedTuple):
    """How an array is written."""

    zarr_format: Any
    shape: tuple[int, ...]
    dtype: str
    options: dict[str, Any]
    is_zip: bool


@st.composite
def cases(draw) -> Case:
    zarr_format: Any = draw(st.sampled_from([2, 3]))
    length = draw(st.integers(1, 9))
    shape = (length, 3, draw(st.sampled_from([4, 6])), 5)
    chunk = (draw(st.integers(1, length + 2)), *shape[1:])
    if draw(st.booleans()):  # cut along other axes
        chunk = (
            chunk[0],
            draw(st.integers(1, 3)),
            draw(st.integers(1, 6)),
            draw(st.integers(1, 5)),
        )
    options: dict[str, Any] = {"chunks": chunk}
    filters = draw(st.sampled_from(FILTERS[zarr_format]))
    dtype = draw(st.sampled_from(["uint8", "float32", "bool", ">i2"]))
    if filters and zarr_format == 2:
        dtype = "<i2"
    options["compressors"] = draw(st.sampled_from(PACKERS[zarr_format]))
    if filters:
        options["filters"] = filters
    if zarr_format == 2:
        options["order"] = draw(st.sampled_from("CF"))
        options["chunk_key_encoding"] = {
            "name": "v2",
            "separator": draw(st.sampled_from("./")),
        }
    elif draw(st.booleans()):
        options["shards"] = tuple(size * draw(st.integers(1, 3)) for size in chunk)
    return Case(zarr_format, shape, dtype, options, draw(st.booleans()))


def write(folder: Path, case: Case) -> np.ndarray:
    """Writes a dataset of one episode whose frames are as the case says; gives them."""
    values = np.random.default_rng(len(str(case))).integers(0, 100, case.shape)
    root = zarr.create_group(folder, zarr_format=case.zarr_format)
    root.attrs["keys"] = ["a"]
    array = root.create_group("episode_0").create_array(
        "frames", shape=case.shape, dtype=case.dtype, config={"write_empty_chunks": True},
        **case.options,
    )  # fmt: skip
    array[:] = values.astype(case.dtype)
    return values.astype(case.dtype)


def frames_of(location: Path):
    (entry,) = Reader(location).entries(["episode_0"])
    if isinstance(entry, DataError):
        raise entry
    return entry.arrays["frames"]


@pytest.mark.filterwarnings("ignore")  # zarr says that some codecs are not in format 3 yet
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cases())
def test_any_layout_is_read_as_zarr_python_wrote_it(case):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "made.zarr"
        values = write(folder, case)
        array = frames_of(zipped(folder) if case.is_zip else folder)
        read = array.read()
        assert read.dtype.name == values.dtype.name
        assert np.array_equal(read, values)
        assert not array.missing()
        if case.dtype == "uint8":
            ticks = np.array([len(values) - 1, 0])
            assert np.array_equal(
                read_frames([array] * 2, ticks), np.moveaxis(values[ticks], 1, -1)
            )


LAYOUTS = {
    "one image a chunk": {"chunks": (1, 3, 4, 5)},
    "four images a chunk": {"chunks": (4, 3, 4, 5)},
    "chunks side by side": {"chunks": (4, 3, 2, 5)},
    "F order": {"chunks": (4, 3, 4, 5), "order": "F"},
    "shards": {"chunks": (1, 3, 4, 5), "shards": (4, 3, 4, 5)},
    "shards side by side": {"chunks": (1, 3, 2, 5), "shards": (4, 3, 2, 5)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_that_is_missing_or_damaged_is_named_by_its_ticks(tmp_path, layout):
    options = LAYOUTS[layout]
    zarr_format = 3 if "shards" in options else 2
    write(tmp_path / "made.zarr", Case(zarr_format, (10, 3, 4, 5), "uint8", options, False))
    array = frames_of(tmp_path / "made.zarr")
    per_file = options.get("shards", options["chunks"])[0]
    number = 5 // per_file
    first = number * per_file
    name = f"c/{number}/0/0/0" if zarr_format == 3 else f"{number}.0.0.0"
    file = tmp_path / "made.zarr" / "episode_0" / "frames" / name
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"episode_0/frames") as caught:
        array.read()
    if zarr_format == 2:
        assert caught.value.ticks == (first, first + per_file)
        assert "can't be decoded" in str(caught.value)
    file.unlink()
    array = frames_of(tmp_path / "made.zarr")
    assert array.missing() == [(first, min(first + per_file, 10))]
    with pytest.raises(DataError, match=r"episode_0/frames: ticks? \d.*is missing") as caught:
        array.read()
    assert caught.value.ticks is not None
    assert caught.value.ticks[0] == first


GOOD = {
    "zarr_format": 2, "shape": [10, 3], "chunks": [10, 3], "dtype": "|b1", "order": "C",
    "compressor": None, "filters": None,
}  # fmt: skip

BAD: dict[str, dict[str, Any]] = {
    "type '|O' is not allowed": {"dtype": "|O"},
    "type '<M8[s]' is not allowed": {"dtype": "<M8[s]"},
    "type '|S8' is not allowed": {"dtype": "|S8"},
    "is not allowed": {"dtype": [["a", "|b1"]]},
    "not known": {"dtype": "nonsense"},
    "no shape of whole numbers": {"shape": [-5, 3]},
    "whole numbers of at least 1": {"chunks": [0, 3]},
    "[1.0, 3]": {"chunks": [1.0, 3]},
    "[True, 3]": {"chunks": [True, 3]},
    "can't be meant": {"chunks": [10**13, 3]},
    "don't fit its shape": {"chunks": [10]},
    "single value": {"shape": [], "chunks": []},
    "its order": {"order": "A"},
    "its separator": {"dimension_separator": "/../"},
    "codec 'pickle' is not supported": {"filters": [{"id": "pickle"}]},
    "type '|O' is not": {"filters": [{"id": "delta", "dtype": "|O"}]},
    "in no order known": {"filters": [{"id": "zlib"}, {"id": "delta"}]},
    "damaged: KeyError": {"filters": [{}]},
    "damaged: TypeError": {"compressor": 3},
}


@pytest.mark.parametrize("message", BAD)
def test_metadata_outside_what_is_allowed_are_refused_by_name(message):
    assert parse("episode_0/actions", GOOD).shape == (10, 3)
    with pytest.raises(DataError, match=r"^episode_0/actions: ") as caught:
        parse("episode_0/actions", GOOD | BAD[message])
    assert message in str(caught.value)


def test_ticks_beyond_any_memory_cost_nothing(tmp_path):
    options = {"chunks": (4, 3, 4, 5)}
    write(tmp_path / "made.zarr", Case(2, (10, 3, 4, 5), "uint8", options, False))
    file = tmp_path / "made.zarr" / "episode_0" / "frames" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"shape": [10**12, 3, 4, 5]}))
    array = frames_of(tmp_path / "made.zarr")
    assert array.missing() == [(12, 10**12)]
    with pytest.raises(DataError, match=r"ticks 12 to 15: chunk 3\.0\.0\.0 is missing"):
        array.read()


PACKED = {
    "gzip": lambda data: zlib.compress(data, wbits=31),
    "zlib": zlib.compress,
    "zstd": lambda data: numcodecs.Zstd(1).encode(data),
    "blosc": lambda data: numcodecs.Blosc().encode(data),
    "lz4": lambda data: numcodecs.LZ4().encode(data),
    "bz2": lambda data: numcodecs.BZ2().encode(data),
    "lzma": lambda data: numcodecs.LZMA().encode(data),
}


@pytest.mark.parametrize("codec", PACKED)
def test_no_codec_unpacks_more_than_is_allowed(codec):
    data = bytes(100_000)
    packed, decode = PACKED[codec](data), codecs.DECODERS[codec]
    assert bytes(decode(packed, len(data), None)) == data
    with pytest.raises(ValueError, match="unpack to"):
        decode(packed, len(data) // 2, None)
    with pytest.raises(Exception, match=r".*"):  # each its own, but never silently
        decode(packed[: len(packed) // 2], len(data), None)


def test_a_zstandard_frame_without_its_size_is_bounded_by_its_blocks():
    # Of RFC 8878: a window descriptor, then a raw block of 3 bytes, then a last one of 5 zeros.
    frame = b"\x28\xb5\x2f\xfd\x00\x58" + b"\x18\x00\x00abc" + b"\x2b\x00\x00\x00"
    assert codecs.zstd_size(frame) == 8
    assert bytes(codecs.DECODERS["zstd"](frame, 8, None)) == b"abc" + bytes(5)
    with pytest.raises(ValueError, match="cut off"):
        codecs.zstd_size(frame[:-1])
    for size in (0, 1, 255, 256, 65_791, 65_792, 300_000):
        packed = numcodecs.Zstd(1).encode(bytes(size))
        assert codecs.zstd_size(packed) == size
        with pytest.raises(ValueError, match="more follows"):  # which would be unpacked too
            codecs.zstd_size(bytes(packed) + bytes(packed))


def write_with_our_writer(path: Path) -> Path:
    info = DatasetInfo(("a",), (), 8, 16, 10.0, "RGB", "none", {})
    open_dataset(path, info, 3)
    with EpisodeWriter(path, 0, info, 3) as writer:
        for frame in np.random.default_rng(0).integers(0, 50, (20, 8, 16, 3), np.uint8):
            writer.append(frame, frame[0, 0, :1] > 20, np.empty(0, np.float32))
        writer.finish({})
    return path


def test_every_bit_flipped_in_what_we_write_is_noticed(tmp_path):
    data = write_with_our_writer(tmp_path / "d.zarr")
    (entry,) = Reader(data).entries(["episode_0"])
    assert isinstance(entry, Entry)
    assert entry.is_checksummed
    chunks = [f for f in data.rglob("*") if f.is_file() and f.suffix != ".json"]
    right = {name: array.read() for name, array in entry.arrays.items()}
    rng = np.random.default_rng(1)
    sizes = np.array([file.stat().st_size for file in chunks])
    noticed = 0
    for _ in range(200):
        file = chunks[rng.choice(len(chunks), p=sizes / sizes.sum())]
        raw = bytearray(whole := file.read_bytes())
        raw[rng.integers(len(raw))] ^= 1 << rng.integers(8)
        file.write_bytes(raw)
        (entry,) = Reader(data).entries(["episode_0"])
        try:
            assert isinstance(entry, Entry)
            for name, array in entry.arrays.items():
                assert np.array_equal(array.read(), right[name])
        except DataError:
            noticed += 1
        file.write_bytes(whole)
    assert noticed == 200


def test_arrays_without_checksums_are_told_from_those_with(tmp_path):
    for zarr_format, packer in ((2, None), (3, ()), (3, zarr.codecs.BloscCodec())):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.zarr"
        options = {"chunks": (1, 3, 4, 5), "compressors": packer}
        write(path, Case(zarr_format, (3, 3, 4, 5), "uint8", options, False))
        (entry,) = Reader(path).entries(["episode_0"])
        assert isinstance(entry, Entry)
        assert not entry.is_checksummed


def test_checksums_beside_a_dataset_name_what_changed(tmp_path):
    data = write_with_our_writer(tmp_path / "d.zarr")
    assert write_checksums(data) == len([f for f in data.rglob("*") if f.is_file()])
    assert verify_checksums(data) == []
    if shutil.which("sha256sum"):
        command = ["sha256sum", "--check", "--quiet", "d.zarr.sha256"]
        subprocess.run(command, cwd=tmp_path, check=True)
    (data / "new").touch()
    attributes = data / "episode_0" / "zarr.json"
    attributes.write_text(attributes.read_text().replace("20", "21"))
    (data / "episode_0" / "actions" / "c" / "0" / "0").unlink()
    assert [tuple(difference) for difference in verify_checksums(data)] == [
        ("d.zarr/episode_0/actions/c/0/0", "is missing"),
        ("d.zarr/episode_0/zarr.json", "is not what it was: its checksum differs"),
        ("d.zarr/new", "is not among the checksums"),
    ]
    archive = zipped(data)
    write_checksums(archive)
    archive.write_bytes(archive.read_bytes()[:-1])
    assert [difference.file for difference in verify_checksums(archive)] == ["d.zarr.zip"]
    with pytest.raises(UserError, match=r"nothing\.zarr\.sha256 can't be read"):
        verify_checksums(tmp_path / "nothing.zarr")
