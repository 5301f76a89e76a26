"""The set-up of a fresh machine: what it chooses, what it refuses, and the whole of it."""

import hashlib
import netrc
import os
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.made_data import make_dataset, zipped
from tests.support.web import Ranged, Whole

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "BC_training" / "setup_pod.sh"
TOOLS = (
    "bash", "sh", "cat", "curl", "cut", "df", "dirname", "env", "git", "head", "id", "ln",
    "grep", "mkdir", "mktemp", "mv", "rm", "sha256sum", "sleep", "sort", "stat", "tail", "uname",
)  # fmt: skip
"""What a bare image has, besides Python; git is what the script would install."""
TRUST = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "PIP_CERT", "HTTPS_PROXY", "https_proxy")


pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="needs what a bare image has"
)


class Machine:
    """A bare one: an empty home, and nothing on PATH but what an image has."""

    def __init__(self, folder: Path):
        self.home, self.bin = folder / "home", folder / "bin"
        self.home.mkdir()
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(str(shutil.which(tool)))

    def put(self, tool: str, script: str) -> None:
        """A command that is a few lines of shell."""
        path = self.bin / tool
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, command: str, cwd: Path | None = None, **variables: str):
        environment = {name: os.environ[name] for name in TRUST if name in os.environ}
        environment |= {"HOME": str(self.home), "PATH": str(self.bin), **variables}
        return subprocess.run(
            [self.bin / "bash", "-c", command], cwd=cwd or self.home, env=environment,
            capture_output=True, text=True, timeout=900,
        )  # fmt: skip

    def call(self, function: str, cwd: Path | None = None, **variables: str):
        """One function of the script."""
        return self.run(f"source {SCRIPT}; WORK=$(mktemp -d); {function}", cwd, **variables)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def smi(version: str, capability: str = "9.0", label: str = "CUDA Version:") -> str:
    return (
        f'case "$*" in *compute_cap*) printf "{capability}\\n";; '
        f'*) echo "| NVIDIA-SMI 580.65   Driver Version: 580.65   {label} {version} |";; esac'
    )


def test_shellcheck_finds_nothing():
    done = subprocess.run(
        [Path(sys.executable).with_name("shellcheck"), SCRIPT], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("script", "extra"),
    [
        (smi("12.4"), "cuda12"),
        (smi("12.9", "8.9"), "cuda12"),
        (smi("13.0"), "cuda13"),
        (smi("13.1", "12.0"), "cuda13"),
        (smi("14.2"), "cuda13"),
        # A Volta beside an Ada, behind a driver for CUDA 13.
        (smi("13.0", "8.9\\n7.0"), "cuda12"),
        (smi("13.0", "7.5"), "cuda13"),
        (smi("13.0", label="CUDA UMD Version:"), "cuda13"),
        (None, "cpu"),
    ],
)
def test_the_packages_fit_the_driver(machine, tmp_path, script, extra):
    if script is not None:
        machine.put("nvidia-smi", script)
    done = machine.call(f"choose_extra {tmp_path}")
    assert (done.returncode, done.stdout) == (0, f"{extra}\n"), done.stderr


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (smi("11.8"), "the GPU's driver is for CUDA 11; JAX needs 12 or newer"),
        ("echo 'No devices were found'; exit 6", "does not reach the GPU: No devices were found"),
        ("echo hello", "does not say which CUDA version"),
        (None, "there is an NVIDIA GPU here, but no driver"),
    ],
)
def test_a_gpu_that_can_not_be_used_is_named(machine, tmp_path, script, words):
    if script is not None:
        machine.put("nvidia-smi", script)
    (tmp_path / "0000:3b:00.0").mkdir()
    (tmp_path / "0000:3b:00.0" / "vendor").write_text("0x10de\n")
    # As main does it: the choice is made in a subshell, whose failure must end the script.
    done = machine.call(f"EXTRA=$(choose_extra {tmp_path}); echo went on")
    assert done.returncode == 1
    assert words in done.stderr
    assert "EXTRA=c" in done.stderr
    assert "went on" not in done.stdout


def test_too_small_a_disk_is_refused_before_anything_is_written(machine):
    machine.put("df", "echo Filesystem; echo '/dev/sda1 100000 1 2097152 1% /'")
    done = machine.call("EXTRA=cuda12; sync_packages")
    assert done.returncode == 1
    assert "has 2 GiB left, too little for the packages (10 GiB)" in done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"REPO_URL": "file:///nowhere"}, "file:///nowhere can't be cloned"),
        ({"REPO_URL": "http://127.0.0.1:1/x.git"}, "Check the network of this machine"),
        ({"EXTRA": "cuda11"}, "EXTRA is cuda11; it must be"),
        ({"DATASET_URL": "hf://datasets/a/b/c.zip"}, "must begin with https://"),
        ({"REVISION": "v99"}, "has no branch, tag or commit v99"),
    ],
)
def test_wrong_variables_are_named(machine, tmp_path, variables, words):
    variables = {"REPO_URL": repository(tmp_path, whole=False), **variables}
    machine.put("uv", "exit 0")
    done = machine.run(f"bash < {SCRIPT}", **variables)
    assert done.returncode == 1
    assert words in done.stderr


def test_a_folder_in_the_way_is_left_alone(machine, tmp_path):
    (machine.home / "project-ranni").mkdir()
    (machine.home / "project-ranni" / "mine").write_text("mine")
    done = machine.run(f"bash < {SCRIPT}", REPO_URL=repository(tmp_path, whole=False))
    assert done.returncode == 1
    assert "can't be cloned to" in done.stderr
    assert (machine.home / "project-ranni" / "mine").exists()


def test_a_clone_follows_its_origin_unless_somebody_works_in_it(machine, tmp_path):
    url = repository(tmp_path, whole=False)
    clone = machine.home / "project-ranni"
    update = "FOLDER=$HOME/project-ranni; get_project"
    assert machine.call(update, REPO_URL=url).returncode == 0
    source = Path(url.removeprefix("file://"))
    (source / "README.md").write_text("newer")
    git(source, "commit", "--quiet", "--all", "--message", "newer")
    assert machine.call(update, REPO_URL=url).returncode == 0
    assert (clone / "README.md").read_text() == "newer"
    (source / "README.md").write_text("newest")
    git(source, "commit", "--quiet", "--all", "--message", "newest")
    (clone / "README.md").write_text("my own")
    done = machine.call(update, REPO_URL=url)
    assert done.returncode == 0
    assert "changes that are not committed" in done.stdout
    assert (clone / "README.md").read_text() == "my own"
    git(clone, "checkout", "--quiet", ".")
    git(source, "tag", "v1", "HEAD~1")
    for revision, text in (("v1", "newer"), ("main", "newest")):
        done = machine.call(update, REPO_URL=url, REVISION=revision)
        assert (done.returncode, done.stderr) == (0, "")
        assert (clone / "README.md").read_text() == text
    source.rename(tmp_path / "unreachable")
    done = machine.call(update, REPO_URL=url)
    assert done.returncode == 1
    assert "can't be updated; git says why above" in done.stderr


class Breaking(Ranged):
    """Sends half of what is asked for, and hangs up; remembers what was asked for."""

    asked: list[str]
    left: int

    def do_GET(self) -> None:  # noqa: N802
        type(self).asked.append(self.headers.get("Range") or "all")
        super().do_GET()

    def _answer(self, status, data, headers=None):
        if self.command == "GET" and type(self).left > 0:
            type(self).left -= 1
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        super()._answer(status, data, headers)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(os.urandom(1 << 20))
    return path


def download(machine, url, **variables):
    return machine.call("DATASET=got.zip; download", DATASET_URL=url, **variables)


def test_a_download_that_breaks_off_goes_on(machine, data, serve):
    kind = type("Once", (Breaking,), {"asked": [], "left": 1})
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    done = download(machine, f"{serve(kind)}/data.zip?token=1", DATASET_SHA256=digest.upper())
    assert done.returncode == 0, done.stderr
    assert "broke off after 524288 bytes" in done.stdout
    assert kind.asked == ["all", "bytes=524288-"]
    assert (machine.home / "got.zip").read_bytes() == data.read_bytes()
    assert not (machine.home / "got.zip.partial").exists()


def test_a_server_that_is_gone_leaves_a_part_that_the_next_run_goes_on_from(machine, data, serve):
    partial = machine.home / "got.zip.partial"
    partial.write_bytes(data.read_bytes()[:300_000])
    lost = download(machine, "http://127.0.0.1:1/data.zip", ATTEMPTS="1")
    assert lost.returncode == 1
    assert "can't be downloaded" in lost.stderr
    assert "run this again to go on from there" in lost.stderr
    assert partial.stat().st_size == 300_000
    kind = type("Watched", (Breaking,), {"asked": [], "left": 0})
    done = download(machine, f"{serve(kind)}/data.zip")
    assert done.returncode == 0, done.stderr
    assert kind.asked == ["bytes=300000-"]
    assert (machine.home / "got.zip").read_bytes() == data.read_bytes()


@pytest.mark.parametrize(
    ("kind", "there"),
    [("ranges", 1 << 20), ("ranges", 2 << 20), ("no ranges", 100_000), ("file", 100_000)],
)
def test_what_is_there_already_is_used_or_replaced(machine, data, serve, kind, there):
    whole = data.read_bytes()
    (machine.home / "got.zip.partial").write_bytes((whole * 2)[:there])
    host = f"file://{data.parent}" if kind == "file" else serve(Whole if "no" in kind else Ranged)
    done = download(machine, f"{host}/data.zip")
    assert done.returncode == 0, done.stderr
    assert (machine.home / "got.zip").read_bytes() == whole


def test_a_server_without_ranges_that_always_breaks_off_ends(machine, data, serve):
    kind = type("Always", (Breaking,), {"asked": [], "left": 99, "honours_ranges": False})
    machine.put("sleep", "exit 0")
    done = download(machine, f"{serve(kind)}/data.zip")
    assert done.returncode == 1
    assert "can't be downloaded" in done.stderr
    assert 2 <= len(kind.asked) <= 20


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("http://nowhere.invalid/data.zip", "resolve host"),
        ("gone.zip", "error: 404"),
        ("forbidden.zip", "error: 403"),
        ("data.zip", "curl: (23)"),
    ],
)
def test_what_no_second_try_mends_is_named_at_once(machine, data, serve, name, words):
    if name == "data.zip":  # a disk that is full
        (machine.home / "got.zip.partial").symlink_to("/dev/full")
    url = name if "://" in name else f"{serve()}/{name}"
    done = download(machine, url)
    assert done.returncode == 1
    assert f"error: {url} can't be downloaded" in done.stderr
    assert words in done.stderr
    assert "Check the network, the disk" in done.stderr
    assert "broke off" not in done.stdout
    assert not (machine.home / "got.zip").exists()


def test_a_wrong_checksum_is_refused_and_the_file_not_used(machine, data, serve):
    for _ in range(2):
        done = download(machine, f"{serve()}/data.zip", DATASET_SHA256="0" * 64)
        assert done.returncode == 1
        assert hashlib.sha256(data.read_bytes()).hexdigest() in done.stderr
        assert not (machine.home / "got.zip").exists()
    assert download(machine, f"{serve()}/data.zip").returncode == 0
    again = download(machine, f"{serve()}/data.zip", DATASET_SHA256="0" * 64)
    assert again.returncode == 1
    assert "not DATASET_SHA256" in again.stderr


def test_uv_comes_from_pip_by_its_checksum_and_nothing_reads_the_scripts_own_lines(
    machine, tmp_path
):
    asked = tmp_path / "asked"
    machine.put(
        "python3",
        f"""
        case "$*" in *--version) exit;; esac
        read -r answer && echo "was told $answer"
        while [ "$1" != --target ]; do shift; done
        mkdir -p "$2/bin" && ln -s "$(command -v cat)" "$2/bin/uv"
        echo "$@" > {asked} && cat "$5" >> {asked}
    """,
    )
    url = repository(tmp_path, whole=False)
    done = machine.run(f"cat {SCRIPT} | bash", EXTRA="cpu", REPO_URL=url)
    assert (machine.home / ".local" / "bin" / "uv").is_symlink()
    assert "was told" not in done.stdout
    assert re.search(
        r"--require-hashes (.*\n)+uv==[\d.]+ .*--hash=sha256:\w{64}", asked.read_text()
    )
    # `cat sync --locked` fails, which shows that it was this uv.
    assert done.returncode == 1
    assert "the packages can't be installed; uv says why above" in done.stderr


def test_a_machine_that_has_set_no_home_has_one(machine):
    done = machine.run(f"unset HOME; source {SCRIPT}; echo $HOME")
    assert done.stdout.strip() == pwd.getpwuid(os.getuid()).pw_dir


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_a_device_that_jax_does_not_see_is_named(machine):
    (machine.bin / "uv").symlink_to(os.environ.get("UV") or str(shutil.which("uv")))
    done = machine.call("check", cwd=ROOT, EXTRA="cuda12", DATASET="")
    assert done.returncode == 1
    assert "JAX does not see the device: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("echo 'No matching distribution'; exit 1", "python3-pip is missing and could not be"),
        ('case "$*" in *--version) exit;; esac; exit 1', "uv can't be installed by pip"),
    ],
)
def test_no_way_to_install_uv_is_said(machine, python, words):
    machine.put("python3", python)
    machine.put("apt-get", "exit 100")
    done = machine.call("install_uv")
    assert done.returncode == 1
    assert words in done.stderr


def test_the_next_command_is_for_this_machine(machine):
    machine.put("uv", "exit 0")
    shown = machine.call("FOLDER='/a b' EXTRA=cuda12 DATASET= UV_WAS_THERE=no; print_next").stdout
    assert "cd /a\\ b && uv run --extra cuda12 -m BC_training --config configs/demo.yaml" in shown
    assert 'export PATH="$HOME/.local/bin:$PATH"' in shown


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True)


def repository(folder: Path, whole: bool = True) -> str:
    """The project as it is now, as a repository that can be cloned."""
    copy = folder / "source"
    copy.mkdir()
    names = ["pyproject.toml", "uv.lock", "README.md", "LICENSE"]
    if whole:
        names += ["BC_training", "boss_arena", "gameplay_pipeline", "ranni_player", "vizdoom_games"]
    for name in names:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, copy / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, copy / name)
    (copy / ".gitignore").write_text("/dataset/\n.venv/\n__pycache__/\n")
    git(copy, "init", "--quiet", "--initial-branch", "main")
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "as it is")
    return f"file://{copy}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv, for its cache")
def test_a_bare_machine_trains(machine, tmp_path, serve):
    """All of it, over HTTP that breaks off, in an empty home; then again, up to a key refused."""
    archive = zipped(make_dataset(tmp_path / "made.zarr").path)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    kind = type("Once", (Breaking,), {"asked": [], "left": 1})
    cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True)
    (machine.bin / "python3").symlink_to(Path(sys.executable).resolve())
    compiled = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("JAX_", "PYTHONPYCACHE"))
    }
    variables = {
        "REPO_URL": repository(tmp_path),
        # The packages need not come over the network again.
        "UV_CACHE_DIR": cache.stdout.strip(),
        "UV_PYTHON": str(Path(sys.executable).resolve()),
        "XLA_FLAGS": os.environ["XLA_FLAGS"],
        **compiled,
        "EXTRA": "cpu",
        "DATASET_URL": f"{serve(kind)}/{archive.name}",
        "DATASET_SHA256": digest,
    }
    first = machine.run(f"cat {SCRIPT} | bash", **variables, WANDB_API_KEY="k" * 40)
    assert first.returncode == 0, first.stdout + first.stderr
    folder = machine.home / "project-ranni"
    for words in ("installing uv", "broke off", "on cpu", "through", "5 episodes"):
        assert words in first.stdout
    assert kind.asked == ["all", f"bytes={archive.stat().st_size // 2}-"]
    assert (folder / "dataset" / archive.name).read_bytes() == archive.read_bytes()
    key = netrc.netrc(machine.home / ".netrc").authenticators("api.wandb.ai")
    assert key is not None
    assert key[2] == "k" * 40
    assert "k" * 40 not in first.stdout + first.stderr
    assert not [path for path in folder.iterdir() if path.name in ("checkpoints", "wandb")]
    command = first.stdout.rsplit("ready. Next:", 1)[1].strip()
    assert f"--config configs/temporal_cnn.yaml --dataset.path dataset/{archive.name}" in command
    shown = machine.run(f"{command} --help", **variables)
    assert "--training.num_epochs" in shown.stdout, shown.stderr

    again = machine.run(f"bash {folder}/BC_training/setup_pod.sh", **variables, WANDB_API_KEY="k")
    assert again.returncode == 1
    assert "WANDB_API_KEY is refused: wandb.errors" in again.stderr
    for words in ("installing uv", "cloning", "downloading"):
        assert words not in again.stdout
    assert "the dataset is there" in again.stdout
    assert len(kind.asked) == 2
