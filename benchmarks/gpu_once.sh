#!/usr/bin/env bash
# Measure training on one GPU: on a machine with a CUDA build of torch, in a checkout, without a network.
#
#   bash benchmarks/gpu_once.sh OUT_FOLDER [--seconds 540] [--only TEXT] [--dry-run]
#
# What torch does not bring along comes from .gpu in the checkout (ETTIN_GPU_BUNDLE), made by gpu_bundle.sh. OUT_FOLDER
# gets results.jsonl, a line a row as soon as it is measured, then table.txt and traces of profiled steps. The same
# command goes on with what is missing; copy results.jsonl into OUT_FOLDER first where that is another folder.
#
#   --seconds   ends within so much time
#   --only      rows by their key
#   --dry-run   the same way without a GPU: tiny models on a CPU, stand-ins for the kernels
set -euo pipefail

usage() { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
fail() { echo "error: $*" >&2; exit 2; }

budget=540 out='' options=()
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) [ $# -gt 1 ] || usage; budget=$2; shift ;;
        --only) [ $# -gt 1 ] || usage; options+=(--only "$2"); shift ;;
        --dry-run) options+=(--dry-run); export CUDA_VISIBLE_DEVICES= ;;
        -*) usage ;;
        *) [ -z "$out" ] || usage; out=$1 ;;
    esac
    shift
done
[ -n "$out" ] || usage
[[ $budget =~ ^[0-9]+$ ]] || fail "--seconds takes a whole number, not $budget"
mkdir -p "$out" || fail "$out cannot be made: give a folder that can be written to"
out=$(cd "$out" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${ETTIN_PYTHON:-python3}
bundle=${ETTIN_GPU_BUNDLE:-.gpu}
tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)') ||
    fail "$python does not start; name the Python that holds torch by ETTIN_PYTHON"
kept=${ETTIN_GPU_CACHE:-${TMPDIR:-/tmp}/ettin-gpu-$(id -u)-$tag}
mkdir -p "$kept/site"
export PYTHONPATH=$kept/site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export PYTORCH_ALLOC_CONF=${PYTORCH_ALLOC_CONF:-expandable_segments:True}
export TORCHINDUCTOR_CACHE_DIR=$kept/inductor TRITON_CACHE_DIR=$kept/triton

needed=$("$python" - <<'END'
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

pinned = re.search(r'"megatron-core==([0-9.]+)"', Path("pyproject.toml").read_text())[1]
for name, wanted in (("megatron-core", pinned), ("psutil", "")):
    try:
        there = version(name)
    except PackageNotFoundError:
        there = None
    if there is None or wanted not in ("", there):
        print(name.replace("-", "_"))
END
)
for package in $needed; do
    compgen -G "$bundle/$package-*.whl" >/dev/null ||
        fail "$package, in the version of pyproject.toml, is neither installed nor in $bundle: run" \
            "benchmarks/gpu_bundle.sh where there is a network, and bring its folder"
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$kept/site" \
        "$bundle/$package"-*.whl || fail "$bundle/$package-*.whl is not for this Python; see benchmarks/gpu_bundle.sh"
done

loads() { "$python" -c 'from megatron_ettin import _native' 2>/dev/null; }
sources=$(bash benchmarks/gpu_parts/sources.sh)
if ! loads && [ "$(cat "$bundle/sources" 2>/dev/null)" = "$sources" ]; then
    cp "$bundle"/_native*.so megatron_ettin/
fi
loads || {
    echo "building the extension: $bundle holds none of these sources that loads here"
    "$python" setup.py -q build_ext --inplace > "$out/build.log" 2>&1 ||
        fail "the extension cannot be built here, see $out/build.log; bring one made by benchmarks/gpu_bundle.sh"
}

exec "$python" benchmarks/gpu.py --resume "$out/results.jsonl" --budget-seconds $((budget - SECONDS)) \
    "${options[@]}"
