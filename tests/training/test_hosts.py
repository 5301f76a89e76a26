"""The hosts of a run agree, compare, and end together; real ones are processes."""

import dataclasses
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zarr

from BC_training.common import config_file
from BC_training.common.config import SystemConfig
from BC_training.common.dataset import open_data
from BC_training.play import fights
from BC_training.play.fight import FightResult
from BC_training.training import hosts, same_run
from BC_training.training.host_place import Place, connect, find_place, listen
from BC_training.training.hosts import Together
from BC_training.training.shared_fights import share_fights
from gameplay_pipeline.plumbing.errors import UserError
from tests.support.commands import last, records
from tests.support.made_data import make_dataset
from tests.support.many_hosts import configured, ends, free_port, side_by_side, started


@pytest.fixture(autouse=True)
def _in_threads(monkeypatch):
    """What would end the process of a host must not end that of the tests."""
    monkeypatch.setattr(hosts._thread, "interrupt_main", lambda *_: None)
    monkeypatch.setattr(hosts, "leave_at_once", lambda status: None)


def test_values_are_gathered_by_rank_and_differences_are_named():
    def compare(host):
        assert host.gather(host.rank * 10) == [0, 10, 20]
        assert [host.is_first, host.count] == [host.rank == 0, 3]
        host.require_same({"a": 1, "b": [2]})
        host.require_same({"a": 1, "batch": 32 if host.rank < 2 else 16, "new": host.rank // 2})

    for outcome in side_by_side(compare, 3):
        text = str(outcome)
        assert text.startswith("host 2 ("), text
        assert "\n  batch: 16, on host 0 (" in text
        assert "\n  new: 1, on host 0 (" in text
        assert "\n  a" not in text


@pytest.mark.parametrize("seed", range(3))
def test_all_stop_at_the_same_call(seed):
    asked = random.Random(seed).randrange(40)

    def work(host):
        pauses = random.Random(f"{seed} {host.rank}")
        for call in range(100):
            time.sleep(pauses.random() / 500)
            if host.must_stop(host.rank == seed % 3 and call >= asked):
                return call
            # As a collective does: nobody goes ahead by more than one step.
            host.gather(None)
        return None

    stops = side_by_side(work, 3)
    assert len({*stops}) == 1, stops
    assert asked <= stops[0] <= asked + 2


def test_what_one_host_raises_all_raise():
    def work(host):
        return host.gather_results(lambda: 1 // (1 - host.rank))

    outcomes = side_by_side(work, 2)
    assert [type(outcome) for outcome in outcomes] == [UserError, UserError]
    assert all("host 1 (" in str(o) and "division" in str(o) for o in outcomes)


@pytest.mark.parametrize("how", ["killed", "error"])
def test_the_others_hear_of_the_end_of_one(how):
    def work(host):
        if host.rank == 1 and how == "killed":
            return host.close()
        if host.rank == 1:
            return host.explain(UserError("the disk is full"))
        host.gather(None)

    outcome = str(side_by_side(work, 3)[2])
    assert outcome.startswith("host 1 (")
    assert ("killed or can't be reached" if how == "killed" else "): the disk is full") in outcome


def test_waiting_for_hosts_has_an_end():
    place = Place(f"127.0.0.1:{free_port()}", 3, 0, patience_s=0.5)
    with pytest.raises(
        UserError, match=rf"host 0 can't be reached at {place.coordinator} .* 0.5 s"
    ):
        connect(Place(place.coordinator, 3, 1, patience_s=0.5))
    hub = hosts.Hub(listen(place), 3)
    host = Together(place, connect(place))
    with pytest.raises(UserError, match=r"host 1, host 2 did not come within 0.5 s .* of 3 hosts"):
        host.meet()
    with pytest.raises(UserError, match="can't be opened here"):
        listen(place)
    host.close()
    hub.wait_for_others(5.0)


def test_a_host_that_comes_late_hears_who_has_ended():
    place = Place(f"127.0.0.1:{free_port()}", 3, 0)
    hub = hosts.Hub(listen(place), 3)
    host = [Together(dataclasses.replace(place, rank=rank), connect(place)) for rank in range(3)]
    for early in host[:2]:
        early._send({"hello": early.rank, "name": "a"})
    host[1]._send({"end": 1, "message": "no disk"})
    with pytest.raises(UserError, match=r"host 1 \(a\): no disk"):
        host[0].gather(None)
    with pytest.raises(UserError, match=r"host 1 \(a\): no disk"):
        host[2].meet()
    for one in host:
        one.close()
    hub.wait_for_others(5.0)


@pytest.mark.parametrize(("status", "expected"), [("1", 1), ("None", -signal.SIGABRT)])
def test_an_abort_ends_with_the_status_of_the_host_that_ended(status, expected):
    text = (
        "import os; from BC_training.training.host_exit import replace_aborts\n"
        f"replace_aborts(lambda: {status}); os.abort()"
    )
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == expected


def test_a_second_process_of_one_place_is_refused():
    place = Place(f"127.0.0.1:{free_port()}", 2, 0)
    hub = hosts.Hub(listen(place), 2)
    pair = [Together(place, connect(place)) for _ in range(2)]
    pair[0]._send({"hello": 0, "name": "a"})
    pair[1]._send({"hello": 0, "name": "b"})
    for host in pair:  # the one that was refused is told why, too
        with pytest.raises(UserError, match="a second host 0 came, of 2"):
            host.gather(None)
    for host in pair:
        host.close()
    hub.wait_for_others(5.0)


SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[003-004]", "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip
OMPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "system", "place"),
    [
        ({}, {}, None),
        (SLURM, {}, Place("node003:61447", 2, 1)),
        (SLURM, {"process_count": 1}, None),
        ({**SLURM, "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, {}, None),
        (OMPI, {}, Place("10.96.0.1:62624", 2, 1)),
        (
            SLURM,
            {"coordinator": "a:1", "process_count": 4, "process_id": 3},
            Place("a:1", 4, 3),
        ),
    ],
)
def test_launchers_and_keys_say_where_a_process_stands(monkeypatch, environment, system, place):
    for name in (*SLURM, *OMPI):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_place(SystemConfig(**system)) == place


def test_a_launcher_that_says_half_of_it_is_refused(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"OMPI_COMM_WORLD_SIZE is 2, but .*system.coordinator"):
        find_place(SystemConfig())


@pytest.mark.parametrize(
    ("system", "message"),
    [
        ({"coordinator": "a:1"}, "coordinator, process_count and process_id belong together"),
        ({"process_count": 2}, "belong together"),
        ({"coordinator": "a:1", "process_count": 2, "process_id": 2}, r"must be below"),
        ({"coordinator": "a", "process_count": 2, "process_id": 0}, "must be HOST:PORT"),
    ],
)
def test_half_a_place_is_refused(system, message):
    raw = {"dataset": {"path": "d"}, "model": {"name": "pure_cnn"}, "system": system}
    with pytest.raises(UserError, match=message):
        config_file.validate(raw, "the test")


def test_folders_that_are_not_shared_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(same_run, "SHOWN_WITHIN_S", 0.5)

    def look(host):
        folder = tmp_path / str(host.rank // 2)
        folder.mkdir(exist_ok=True)
        if host.is_first:
            (folder / same_run.OWNER).write_text('{"host": "a"}')
        same_run.require_shared(folder, host)

    for outcome in side_by_side(look, 3):
        assert f"training.checkpoint_dir: {tmp_path}" in str(outcome)
        assert " on host 2 (" in str(outcome)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("rate", r"training.learning_rate: 0.2, on host 0 \(.*\) 0.1"),
        ("revision", r"code revision: 'b', on host 0 \(.*\) 'a'"),
        ("actions", r"dataset: "),
        ("frames", r"dataset, some of its frames: "),
    ],
)
def test_what_a_host_has_otherwise_is_named(tmp_path, monkeypatch, what, message):
    path = make_dataset(tmp_path / "0.zarr").path
    other = shutil.copytree(path, tmp_path / "1.zarr")
    for array in map(zarr.open_array, other.glob(f"episode_*/{what}")):
        array[:] = 1 - np.asarray(array[:])
    of_host = threading.local()
    monkeypatch.setattr(same_run, "revision", lambda: of_host.revision)

    def compare(host):
        of_host.revision = "ab"[host.rank if what == "revision" else 0]
        rate = 0.1 + (what == "rate") * 0.1 * host.rank
        raw = configured(tmp_path, path, "run", "pure_cnn", learning_rate=rate)
        config = config_file.validate(raw, "the test")
        same_run.require_same_program(config, host, resume=False)
        raw["dataset"]["path"] = str(tmp_path / f"{host.rank}.zarr")
        same_run.require_same_data(open_data(config_file.validate(raw, "the test")), host)

    for outcome in side_by_side(compare, 2):
        assert re.match(rf"host 1 \(.*\) differs from the first:\n  {message}", str(outcome))


def test_fights_are_shared_out_and_their_results_gathered(tmp_path, monkeypatch):
    tasks = fights.plan_fights(["policy", "noop"], 7, 3)
    had = {}

    def keep(share, setup, workers, file):
        had[file.name] = [task.seed for task in share]
        if workers == 2 and "host1" in file.name:
            raise UserError("no such game")
        file.write_text("{}")
        return [FightResult(t.player, t.seed, True, 0.5, 2.0, 1.0, 3.0, 0.0, {}, (1.0, 2.0))
                for t in share]  # fmt: skip

    monkeypatch.setattr(fights, "keep_fights", keep)
    setup = fights.FightSetup(tmp_path, "game")

    def share(workers):
        return lambda host: share_fights(host, tasks, setup, workers, tmp_path / "fights.json")

    outcomes = side_by_side(share(1), 4)
    assert sorted(map(sorted, had.values())) == [[7], [7, 8], [8, 9], [9]]
    for results in outcomes:
        assert [(r.player, r.seed) for r in results] == [(t.player, t.seed) for t in tasks]
        assert all(r.latencies_ms == (1.0, 2.0) for r in results)
    assert [file.name for file in tmp_path.iterdir()] == ["fights.json"]
    assert len(json.loads((tmp_path / "fights.json").read_text())["fights"]) == len(tasks)
    for outcome in side_by_side(share(2), 2):
        assert re.match(r"host 1 \(.*\): no such game", str(outcome))


def wait_for_step(folder, step, processes):
    file = folder / "metrics.jsonl"
    while not file.exists() or max([0, *(row["step"] for row in records(folder))]) < step:
        assert all(process.poll() is None for process in processes), ends(processes, 5)
        time.sleep(0.1)


@pytest.mark.slow
def test_a_signal_to_one_host_stops_all_at_one_step_and_a_killed_host_is_named(tmp_path):
    data = make_dataset(tmp_path / "made.zarr").path

    def job(epochs, resume=False):
        raw = configured(tmp_path, data, "run", "pure_cnn", num_epochs=epochs)
        raw["evaluation"]["eval_every_n_epochs"] = 1
        return raw, resume

    folder = tmp_path / "run" / "pure_cnn"

    with started([job(1000)], devices=2, hosts=2) as processes:
        wait_for_step(folder, 10, processes)
        processes[1].send_signal(signal.SIGTERM)
        stopped = ends(processes, 60)
    assert [end.status for end in stopped] == [130, 130], stopped
    assert re.search(r"host 1 \(.*\) was told to stop; all stop", stopped[0].err)
    saved = int(last(folder).name)
    assert f"stopped after step {saved}" in stopped[0].out
    with started([job(1000, True)], devices=2, hosts=2) as processes:
        wait_for_step(folder, saved + 10, processes)
        processes[1].kill()
        killed = ends(processes, 60)
    assert killed[0].status == 1
    assert "error: host 1 (" in killed[0].err
    assert "--resume goes on" in killed[0].err
