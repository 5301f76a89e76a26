#!/usr/bin/env bash
# From a bare machine to the first training run, without a question:
#
#   curl -sSL https://raw.githubusercontent.com/dhmnr/ProjectRanni/main/BC_training/setup_pod.sh | bash
#
# Clones the project, installs uv and the packages that fit the GPU's driver, downloads a dataset,
# sets up Weights & Biases, trains for a moment, and prints the command to go on with. Run from a
# checkout (bash BC_training/setup_pod.sh), it sets that one up. Safe to repeat: what is there
# already stays, a download goes on where it broke off.
#
# Variables, all optional, such as `curl ... | DATASET_URL=https://... bash`:
#   REPO_URL        what to clone, such as a fork
#   REVISION        the branch, tag or commit of it
#   FOLDER          where to; ~/project-ranni
#   EXTRA           cuda12, cuda13, tpu or cpu instead of what fits the machine
#   DATASET_URL     a .zip to train on, by https://, http:// or file://; it is not unpacked
#   DATASET_SHA256  its checksum
#   WANDB_API_KEY   for Weights & Biases; without one, runs stay on this machine
set -euo pipefail
# A machine that runs this while it starts may not have set it.
export HOME=${HOME:-$(cd ~ && pwd)}

ATTEMPTS=${ATTEMPTS:-5} # of a download, without getting any further
# By version and checksum, as uv.lock names all that uv then installs.
UV="uv==0.13.9
    --hash=sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19
    --hash=sha256:5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe"

say() { printf '\n== %s\n' "$*"; }

fail() {
    printf '\nerror: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

# Prints the extra whose JAX the machine can run, or cpu: [FOLDER_OF_PCI_DEVICES]
choose_extra() {
    local smi version oldest anyway="To go on without the GPU: EXTRA=cpu"
    if ! command -v nvidia-smi >/dev/null; then
        if grep -qs 0x10de "${1:-/sys/bus/pci/devices}"/*/vendor; then
            fail "there is an NVIDIA GPU here, but no driver: nvidia-smi is missing." \
                "Install the driver or take an image that has it; a container wants --gpus all." "$anyway"
        fi
        echo cpu
        return
    fi
    smi=$(nvidia-smi 2>&1) || fail "nvidia-smi does not reach the GPU: $(tail -n 1 <<<"$smi")" \
        "Restart the machine or rent another; a container wants --gpus all." "$anyway"
    [[ $smi =~ CUDA[A-Za-z\ ]*Version:\ *([0-9]+) ]] || fail \
        "nvidia-smi does not say which CUDA version the driver has." \
        "Name the packages yourself: EXTRA=cuda12, EXTRA=cuda13 or EXTRA=cpu"
    version=${BASH_REMATCH[1]}
    [ "$version" -ge 12 ] || fail \
        "the GPU's driver is for CUDA $version; JAX needs 12 or newer (driver 525 or newer)." \
        "Update the driver, or rent a machine with a newer one." "$anyway"
    oldest=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sort -n | head -n 1)
    # CUDA 13 has left out what is older than Turing (7.5), though its drivers still know it.
    if [ "$version" -ge 13 ] && [ "${oldest//[!0-9]/}" -ge 75 ]; then echo cuda13; else echo cuda12; fi
}

# Installs Debian's package of a command that is missing, where apt can: COMMAND PACKAGE
require() {
    eval "$1" >/dev/null 2>&1 && return
    say "installing $2"
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2"; }; then
        fail "$2 is missing and could not be installed." "Install it, and run this again."
    fi
}

# Clones, or moves a clone to the newest state of REVISION unless somebody worked in it.
get_project() {
    local url=${REPO_URL:-https://github.com/dhmnr/ProjectRanni.git}
    export GIT_TERMINAL_PROMPT=0
    export GIT_SSH_COMMAND=${GIT_SSH_COMMAND:-ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new}
    require "git --version" git
    if [ ! -e "$FOLDER/.git" ]; then
        say "cloning $url"
        git clone --quiet "$url" "$FOLDER" || fail "$url can't be cloned to $FOLDER; git says why above." \
            "Check the network of this machine, FOLDER, and REPO_URL (a private one needs a token in it)."
    elif [ -n "$(git -C "$FOLDER" status --porcelain)" ]; then
        say "$FOLDER has changes that are not committed: left as it is"
        return
    else
        [ -z "${REPO_URL:-}" ] || [ "$(git -C "$FOLDER" remote get-url origin)" = "$url" ] || fail \
            "$FOLDER is a clone of another repository than $url." "Set FOLDER to another place."
        say "updating $FOLDER"
        git -C "$FOLDER" fetch --quiet --tags origin || fail \
            "$FOLDER can't be updated; git says why above." "Check the network of this machine."
    fi
    git -C "$FOLDER" checkout --quiet "${REVISION:-HEAD}" || fail \
        "$url has no branch, tag or commit ${REVISION:-}." "Correct REVISION."
    if git -C "$FOLDER" rev-parse --quiet --verify '@{upstream}' >/dev/null 2>&1; then
        git -C "$FOLDER" merge --quiet --ff-only '@{upstream}' || fail \
            "$FOLDER has commits that $url lacks." \
            "Push or rebase them, or set FOLDER to another place."
    fi
}

install_uv() {
    local packages=$HOME/.local/share/uv-by-pip
    PATH="$HOME/.local/bin:$PATH"
    command -v uv >/dev/null && return
    require "python3 -m pip --version" python3-pip
    say "installing uv"
    printf '%s\n' "${UV//$'\n'/ }" >"$WORK/uv.txt"
    python3 -m pip install --quiet --disable-pip-version-check --only-binary :all: --upgrade \
        --target "$packages" --require-hashes --requirement "$WORK/uv.txt" || fail \
        "uv can't be installed by pip, which says why above." \
        "Check the network of this machine, or install uv yourself, and run this again."
    mkdir -p "$HOME/.local/bin"
    ln -sf "$packages/bin/uv" "$HOME/.local/bin/uv"
}

sync_packages() {
    local gib=3 free extras=() # 1.4 GiB without an accelerator; CUDA's wheels are 3 GiB packed
    case $EXTRA in
        cpu) ;;
        cuda12 | cuda13 | tpu) gib=10 extras=(--extra "$EXTRA") ;;
        *) fail "EXTRA is $EXTRA; it must be cuda12, cuda13, tpu or cpu." ;;
    esac
    free=$(df -Pk . | { read -r _; read -r _ _ _ free _; echo $((free >> 20)); })
    [ -d .venv ] || [ "$free" -ge $gib ] || fail \
        "the disk of $PWD has $free GiB left, too little for the packages ($gib GiB)." \
        "Free some space, rent a larger disk, or set FOLDER to a folder on another one."
    say "installing the packages ($EXTRA)"
    UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300} uv sync --locked --quiet ${extras[@]+"${extras[@]}"} || fail \
        "the packages can't be installed; uv says why above." \
        "Check the network and the disk of this machine, and run this again: it goes on from here."
}

size_of() { if [ -e "$1" ]; then stat -c %s "$1"; else echo 0; fi; }

# Downloads DATASET_URL to $DATASET; a part that is there already is gone on from.
download() {
    local partial=$DATASET.partial file=$DATASET most=0 attempt status http
    if [ -e "$DATASET" ]; then
        say "the dataset is there: $DATASET"
    else
        say "downloading $DATASET_URL"
        file=$partial
        for ((attempt = 1; attempt <= ATTEMPTS; attempt++)); do
            status=0
            http=$(curl -fL --no-progress-meter --connect-timeout 30 --speed-limit 1024 --speed-time 60 \
                --write-out '%{http_code}' --continue-at - --output "$partial" "$DATASET_URL") || status=$?
            case $status-$http in
                # What is there is no part of what the URL leads to, or the server can't go on from it.
                33-* | 36-* | 22-416) rm -f "$partial" ;;
                # The network or the server may be back in a moment.
                7-* | 18-* | 28-* | 35-* | 52-* | 55-* | 56-* | 92-* | 22-429 | 22-5*)
                    echo "broke off after $(size_of "$partial") bytes"
                    # Where it gets further each time, it gets there.
                    if [ "$(size_of "$partial")" -gt "$most" ]; then most=$(size_of "$partial") attempt=0; fi
                    sleep $((attempt + 1))
                    ;;
                *) break ;;
            esac
        done
        [ "$status" -eq 0 ] || fail "$DATASET_URL can't be downloaded; curl says why above." \
            "Check the network, the disk and DATASET_URL. What has arrived is kept in" \
            "$partial; run this again to go on from there."
    fi
    [ -z "${DATASET_SHA256:-}" ] || sha256sum --check --quiet <<<"${DATASET_SHA256,,}  $file" || fail \
        "the checksum of $file is $(sha256sum "$file" | cut -d ' ' -f 1), not DATASET_SHA256." \
        "If DATASET_SHA256 is right, delete the file and run this again; otherwise correct it."
    [ "$file" = "$DATASET" ] || mv "$partial" "$DATASET"
}

python_in_project() { uv run --no-sync python "$@"; }

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
' 2>"$WORK/log" >&2 || fail "WANDB_API_KEY is refused: $(tail -n 1 "$WORK/log")" \
        "Copy it again from the settings of your account, or leave it out."
}

# JAX must see the device that the packages are for, and train on it; the dataset must open.
check() {
    say "checking that JAX sees the device, and trains"
    # Named, a device that does not work is an error instead of a reason to take the CPU.
    JAX_PLATFORMS=${EXTRA%1[0-9]} python_in_project -c \
        'import jax; print("JAX", jax.__version__, "on", jax.devices()[0].device_kind)' \
        2>"$WORK/log" || fail "JAX does not see the device: $(tail -n 1 "$WORK/log")" \
        "Is LD_LIBRARY_PATH set? Then unset it. Is another process using the device? (nvidia-smi)" \
        "To go on without it: EXTRA=cpu"
    python_in_project -m BC_training --config configs/demo.yaml --training.num_epochs 1 \
        --training.checkpoint_dir "$WORK/run" --training.batch_size 256 \
        --evaluation.rollout_episodes 0 --dataset.residency stream --dataset.path "$WORK/data.zarr" \
        --record.episodes 2 --record.resolution 64x36 >"$WORK/log" 2>&1 || {
        tail -n 20 "$WORK/log" >&2
        fail "the trial run failed; its last words are above."
    }
    echo "the trial run is through"
    [ -z "$DATASET" ] || python_in_project -m BC_training.analyze_dataset --dataset "$DATASET" || fail \
        "the dataset can't be used; what is wrong with it is above." "Correct DATASET_URL."
}

print_next() {
    local with='' on='--config configs/demo.yaml' path=''
    [ "$EXTRA" = cpu ] || with=" --extra $EXTRA"
    [ -z "$DATASET" ] || on="--config configs/temporal_cnn.yaml --dataset.path $(printf %q "$DATASET")"
    [ -z "${WANDB_API_KEY:-}" ] || on+=" --logging.use_wandb true"
    # shellcheck disable=SC2016 # it is to be expanded where it is pasted
    [ "$UV_WAS_THERE" = yes ] || path='export PATH="$HOME/.local/bin:$PATH" && '
    say "ready. Next:"
    printf '\n    %s\n\n' "${path}cd $(printf %q "$FOLDER") && uv run$with -m BC_training $on"
}

main() {
    local script=${BASH_SOURCE[0]:-} name
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
            "hf://datasets/ACCOUNT/NAME/PATH is https://huggingface.co/datasets/ACCOUNT/NAME/resolve/main/PATH."
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
