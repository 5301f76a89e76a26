#!/usr/bin/env bash
# From a bare machine to the first training run, without a question:
#
#   curl -sSL https://raw.githubusercontent.com/OWNER/project-ranni/main/BC_training/setup_pod.sh | bash
#
# Clones the project, installs uv and the packages that fit the GPU's driver, downloads a dataset,
# sets up Weights & Biases, trains for a moment, and prints the command to go on with. Run from a
# checkout (bash BC_training/setup_pod.sh), it sets that one up. Safe to repeat: what is there
# already stays, a download goes on where it broke off.
#
# Variables, all optional, such as `curl ... | DATASET_URL=https://... bash`:
#   REPO_URL        what to clone
#   REVISION        the branch, tag or commit of it
#   FOLDER          where to; ~/project-ranni
#   EXTRA           cuda12, cuda13, tpu or cpu instead of what fits the machine
#   DATASET_URL     a .zip to train on, by https://, http:// or file://; it is not unpacked
#   DATASET_SHA256  its checksum
#   WANDB_API_KEY   for Weights & Biases; without one, runs stay on this machine
#   UV_INSTALLER    where uv's installer is, if not at astral.sh
set -euo pipefail
# A machine that runs this while it starts may not have set it.
export HOME=${HOME:-$(cd ~ && pwd)}

ATTEMPTS=${ATTEMPTS:-5} # of a download, without getting any further

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '\nerror: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

# Ends with what is wrong unless a folder's disk has so much left: FOLDER MIB WHAT_FOR
need_space() {
    local free
    free=$(df -Pk "$1" | { read -r _; read -r _ _ _ free _; echo $((free >> 10)); })
    [ "$free" -ge "$2" ] || fail \
        "the disk of $1 has $free MiB left, too little for $3 ($2 MiB)." \
        "Free some space, rent a larger disk, or set FOLDER to a folder on another one."
}

# Prints the extra whose JAX the machine can run, or cpu: [FOLDER_OF_PCI_DEVICES]
choose_extra() {
    local smi version device oldest
    if ! command -v nvidia-smi >/dev/null; then
        for device in "${1:-/sys/bus/pci/devices}"/*; do
            # NVIDIA's number, and that of display controllers.
            if [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] &&
                [[ $(cat "$device/class" 2>/dev/null) == 0x03* ]]; then
                fail "there is an NVIDIA GPU here (${device##*/}), but no driver: nvidia-smi is missing." \
                    "Install the driver or take an image that has it; a container wants --gpus all." \
                    "To go on without the GPU: EXTRA=cpu"
            fi
        done
        echo cpu
        return
    fi
    smi=$(nvidia-smi 2>&1) || fail \
        "nvidia-smi does not reach the GPU: $(tail -n 1 <<<"$smi")" \
        "Restart the machine or rent another; a container wants --gpus all." \
        "To go on without the GPU: EXTRA=cpu"
    [[ $smi =~ CUDA[A-Za-z\ ]*Version:\ *([0-9]+) ]] || fail \
        "nvidia-smi does not say which CUDA version the driver has." \
        "Name the packages yourself: EXTRA=cuda12, EXTRA=cuda13 or EXTRA=cpu"
    version=${BASH_REMATCH[1]}
    if [ "$version" -lt 12 ]; then
        fail "the GPU's driver is for CUDA $version; JAX needs 12 or newer (driver 525 or newer)." \
            "Update the driver, rent a machine with a newer one, or go on without the GPU: EXTRA=cpu"
    fi
    oldest=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sort -n | head -n 1)
    # CUDA 13 has left out what is older than Turing (7.5), though its drivers still know it.
    if [ "$version" -ge 13 ] && [ "${oldest//[!0-9]/}" -ge 75 ]; then echo cuda13; else echo cuda12; fi
}

require_git() {
    command -v git >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing git"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq git && return
    fi
    fail "git is missing and could not be installed." "Install it, and run this again."
}

# Clones, or moves a clone to the newest state of REVISION unless somebody worked in it.
get_project() {
    local url=${REPO_URL:-https://github.com/OWNER/project-ranni.git} revision=${REVISION:-}
    export GIT_TERMINAL_PROMPT=0
    export GIT_SSH_COMMAND=${GIT_SSH_COMMAND:-ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new}
    if [[ $url == */OWNER/* ]]; then
        fail "REPO_URL is not set." "Set it to the address of the project or of your fork of it."
    fi
    require_git
    if [ -e "$FOLDER" ] && [ ! -e "$FOLDER/.git" ]; then
        fail "$FOLDER is in the way: it is no clone of the project." \
            "Move it away, or set FOLDER to another place."
    fi
    if [ ! -e "$FOLDER" ]; then
        say "cloning $url"
        mkdir -p "$(dirname "$FOLDER")"
        rm -rf "$FOLDER.partial"
        git clone --quiet "$url" "$FOLDER.partial" || fail \
            "$url can't be cloned; git says why above." \
            "Check the network of this machine, and REPO_URL (a private one needs a token in it)."
        mv "$FOLDER.partial" "$FOLDER"
    elif [ -n "$(git -C "$FOLDER" status --porcelain)" ]; then
        say "$FOLDER has changes that are not committed: left as it is"
        return
    else
        say "updating $FOLDER"
        git -C "$FOLDER" fetch --quiet --tags origin || fail \
            "$FOLDER can't be updated; git says why above." "Check the network of this machine."
    fi
    [ -z "$revision" ] || git -C "$FOLDER" checkout --quiet "$revision" || fail \
        "$url has no branch, tag or commit $revision." "Correct REVISION."
    if git -C "$FOLDER" rev-parse --quiet --verify '@{upstream}' >/dev/null 2>&1; then
        git -C "$FOLDER" merge --quiet --ff-only '@{upstream}' || fail \
            "$FOLDER has commits that $url lacks." \
            "Push or rebase them, or set FOLDER to another place."
    fi
}

install_uv() {
    PATH="$HOME/.local/bin:$PATH"
    command -v uv >/dev/null && return
    local installer=${UV_INSTALLER:-https://astral.sh/uv/install.sh} own=$HOME/.local/share/uv-by-pip
    say "installing uv"
    # Two ways, for many a machine reaches only one of the two hosts.
    if curl -fsSL --retry 3 "$installer" -o "$WORK/uv.sh" &&
        UV_INSTALL_DIR=$HOME/.local/bin sh "$WORK/uv.sh"; then
        return
    elif python3 -m pip install --quiet --disable-pip-version-check --target "$own" --upgrade uv; then
        mkdir -p "$HOME/.local/bin"
        ln -sf "$own/bin/uv" "$HOME/.local/bin/uv"
    else
        fail "uv can't be installed, neither by $installer nor by pip; both say why above." \
            "Check the network of this machine, or install uv yourself, and run this again."
    fi
}

sync_packages() {
    local gib=3 extras=()
    # 1.4 GiB without an accelerator; CUDA's wheels are 3 GiB packed.
    case $EXTRA in
        cpu) ;;
        cuda12 | cuda13 | tpu)
            gib=10
            extras=(--extra "$EXTRA")
            ;;
        *) fail "EXTRA is $EXTRA; it must be cuda12, cuda13, tpu or cpu." ;;
    esac
    [ -d .venv ] || need_space . $((gib << 10)) "the packages"
    say "installing the packages ($EXTRA)"
    UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300} uv sync --locked --quiet ${extras[@]+"${extras[@]}"} || fail \
        "the packages can't be installed; uv says why above." \
        "Check the network and the disk of this machine, and run this again: it goes on from here."
}

# The size of what a URL leads to, or nothing where the server does not say.
remote_size() {
    local headers line size=
    headers=$(curl -fsIL --connect-timeout 30 "$1" 2>/dev/null) || return 0
    while read -r line; do
        case ${line,,} in
            http/*) size= ;; # what came before was a redirection
            content-length:*) size=${line##*[!0-9]} ;;
        esac
    done <<<"${headers//$'\r'/}"
    echo "$size"
}

# Downloads DATASET_URL to $DATASET; a part that is there already is gone on from.
download() {
    local partial=$DATASET.partial size have most attempt status=1 words ticker
    if [ -e "$DATASET" ]; then
        say "the dataset is there: $DATASET"
        check_sum "$DATASET"
        return
    fi
    size=$(remote_size "$DATASET_URL")
    have=$(size_of "$partial")
    # More than there is: a part of something else.
    if [ -n "$size" ] && [ "$have" -gt "$size" ]; then rm "$partial" && have=0; fi
    most=$have
    [ -z "$size" ] || need_space "$(dirname "$partial")" $((size > have ? (size - have) >> 20 : 0)) "the dataset"
    say "downloading $DATASET_URL${size:+ ($((size >> 20)) MiB, $((have >> 20)) of them are there)}"
    while sleep 30 >/dev/null 2>&1 && kill -0 $$; do echo "$(($(size_of "$partial") >> 20)) MiB"; done &
    ticker=$!
    for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
        if [ -n "$size" ] && [ "$(size_of "$partial")" = "$size" ]; then
            status=0
            break
        fi
        status=0
        words=$(curl -fsSL --connect-timeout 30 --speed-limit 1024 --speed-time 60 \
            --continue-at - --output "$partial" "$DATASET_URL" 2>&1) || status=$?
        case "$status $words" in
            # What is there is no part of what the URL leads to, or the server can't go on from it.
            33* | 36* | 22*416) rm -f "$partial" ;;
            # The network or the server may be back in a moment.
            7\ * | 18* | 28* | 35* | 52* | 55* | 56* | 92* | 22*429 | 22*5[0-9][0-9])
                have=$(size_of "$partial")
                echo "broke off after $have bytes: $words"
                # Where it gets further each time, it gets there.
                if [ "$have" -gt "$most" ]; then most=$have attempt=0; fi
                sleep $((attempt + 1))
                ;;
            *) break ;;
        esac
    done
    kill "$ticker" 2>/dev/null || true
    [ "$status" -eq 0 ] || fail \
        "$DATASET_URL can't be downloaded: ${words:-curl: ($status)}" \
        "Check the network, the disk and DATASET_URL. What has arrived is kept in" \
        "$partial; run this again to go on from there."
    check_sum "$partial"
    mv "$partial" "$DATASET"
}

size_of() { if [ -e "$1" ]; then stat -c %s "$1"; else echo 0; fi; }

check_sum() {
    [ -n "${DATASET_SHA256:-}" ] || return 0
    local found
    found=$(sha256sum "$1" | cut -d ' ' -f 1)
    [ "$found" = "${DATASET_SHA256,,}" ] || fail \
        "$1 has the checksum $found," \
        "but DATASET_SHA256 is $DATASET_SHA256." \
        "If DATASET_SHA256 is right, delete the file and run this again; otherwise correct it."
    echo "its checksum is right"
}

# Leaves the key where wandb looks for it, so that later shells need no variable.
set_up_wandb() {
    if [ -z "${WANDB_API_KEY:-}" ]; then
        say "Weights & Biases: no WANDB_API_KEY, so its runs stay on this machine (wandb sync uploads them)"
        return
    fi
    say "Weights & Biases: keeping WANDB_API_KEY"
    # Not wandb.login: without a network that waits for minutes.
    python_in_project -c '
import os
from wandb.sdk.lib import wbauth
host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
key = wbauth.AuthApiKey(host=host, api_key=os.environ["WANDB_API_KEY"]).api_key
wbauth.write_netrc_auth(host=host, api_key=key)
' >"$WORK/log" 2>&1 || fail "WANDB_API_KEY is refused: $(tail -n 1 "$WORK/log")" \
        "Copy it again from the settings of your account, or leave it out."
}

python_in_project() { uv run --no-sync python "$@"; }

# JAX must see the device that the packages are for, and train on it.
check() {
    # Named, a device that does not work is an error instead of a reason to take the CPU.
    local platform=${EXTRA%1[0-9]}
    say "checking that JAX sees the device, and trains"
    JAX_PLATFORMS=$platform python_in_project -c 'import jax; print("JAX", jax.__version__, "on", jax.devices()[0].device_kind)' \
        2>"$WORK/log" || fail "JAX does not see the device: $(tail -n 1 "$WORK/log")" \
        "Is LD_LIBRARY_PATH set? Then unset it. Is another process using the device? (nvidia-smi)" \
        "To go on without it: EXTRA=cpu"
    train_a_little >"$WORK/log" 2>&1 || {
        tail -n 20 "$WORK/log" >&2
        [ -z "$DATASET" ] || fail "the trial run failed; its last words are above." \
            "What is wrong with the dataset: uv run -m BC_training.analyze_dataset --dataset $DATASET"
        fail "the trial run failed; its last words are above."
    }
    echo "the trial run is through"
}

# A few steps on a few ticks of two episodes of the dataset, or of two fights in the arena.
train_a_little() {
    local run=(
        --training.num_epochs 1 --training.checkpoint_dir "$WORK/run"
        --evaluation.rollout_episodes 0 --dataset.residency stream
    )
    if [ -z "$DATASET" ]; then
        python_in_project -m BC_training --config configs/demo.yaml "${run[@]}" \
            --dataset.path "$WORK/data.zarr" --dataset.record_episodes 2 \
            --dataset.record_resolution 64x36 --training.batch_size 256
        return
    fi
    local episodes
    # Joined by &&, for where a function's failure is handled, bash goes on after each command's.
    episodes=$(python_in_project -c '
import sys
from gameplay_pipeline.store.reader import Reader
try:
    names = Reader(sys.argv[1]).names()[:2]
except Exception as error:
    sys.exit(f"error: {error}")
print(",".join(name.removeprefix("episode_") for name in names))
' "$DATASET") &&
        python_in_project -m gameplay_pipeline.repack "$DATASET" "$WORK/data.zarr" \
            --episodes "$episodes" --every 16 &&
        python_in_project -m BC_training --config configs/pure_cnn.yaml "${run[@]}" \
            --dataset.path "$WORK/data.zarr" --training.batch_size 1 \
            --model.conv_features "[8, 16]" --model.conv_depth 0 --model.dense_features "[16]"
}

print_next() {
    local with='' on='--config configs/demo.yaml' path=''
    [ "$EXTRA" = cpu ] || with=" --extra $EXTRA"
    [ -z "$DATASET" ] || on="--config configs/pure_cnn.yaml --dataset.path $(printf %q "$DATASET")"
    [ -z "${WANDB_API_KEY:-}" ] || on+=" --logging.use_wandb true"
    # shellcheck disable=SC2016 # it is to be expanded where it is pasted
    [ "$UV_WAS_THERE" = yes ] || path='export PATH="$HOME/.local/bin:$PATH" && '
    say "ready. Next:"
    echo
    echo "    ${path}cd $(printf %q "$FOLDER") && uv run$with -m BC_training $on"
    echo
}

main() {
    local script=${BASH_SOURCE[0]:-} tool name
    for tool in curl df stat sha256sum; do
        command -v "$tool" >/dev/null || fail "$tool is missing." "Install it, and run this again."
    done
    WORK=$(mktemp -d)
    trap 'rm -rf "$WORK"' EXIT
    if command -v uv >/dev/null; then UV_WAS_THERE=yes; else UV_WAS_THERE=no; fi
    EXTRA=${EXTRA:-$(choose_extra)}
    if [ -f "$script" ] && [ -f "$(dirname "$script")/../pyproject.toml" ]; then
        FOLDER=$(cd "$(dirname "$script")/.." && pwd)
    else
        FOLDER=${FOLDER:-$HOME/project-ranni}
        get_project
    fi
    cd "$FOLDER"
    install_uv
    sync_packages
    DATASET=
    if [ -n "${DATASET_URL:-}" ]; then
        [[ $DATASET_URL =~ ^(https?|file):// ]] || fail \
            "DATASET_URL is $DATASET_URL; it must begin with https://, http:// or file://." \
            "hf://datasets/OWNER/NAME/PATH is https://huggingface.co/datasets/OWNER/NAME/resolve/main/PATH."
        name=${DATASET_URL%%[?#]*}
        name=${name##*/}
        DATASET=dataset/${name%.zip}.zip
        mkdir -p dataset
        download
    fi
    set_up_wandb
    check
    print_next
}

# Only now, when all of it has arrived; and not where a test reads the functions. What runs in it gets
# no input: that may be this script.
if ! (return 0 2>/dev/null); then main </dev/null; fi
