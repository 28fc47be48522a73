#!/usr/bin/env bash
# On a machine with a network: prepare what gpu_once.sh needs on one without.
#
#   bash benchmarks/gpu_bundle.sh [FOLDER]                             FOLDER: .gpu in the checkout
#   ETTIN_PYTHON=/path/to/python3.13 bash benchmarks/gpu_bundle.sh     for another Python than 3.12
#
# Puts into FOLDER the wheels of megatron-core and psutil and the extension, built for that Python on x86-64 Linux: some
# five megabytes. Carry the checkout with FOLDER to the machine with the GPU. The extension takes two minutes of a core.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-.gpu}
python=${ETTIN_PYTHON:-python3.12}
if ! version=$("$python" -c 'import sys; print(f"{sys.version_info.major}.{sys.version_info.minor}")' 2>/dev/null); then
    echo "error: $python does not start; name the Python of the GPU machine's version by ETTIN_PYTHON" >&2
    exit 2
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip)
"${pip[@]}" install -q "setuptools>=77" "pybind11>=3.0"
pinned=$(sed -n 's/.*"\(megatron-core==[0-9.]*\)".*/\1/p' pyproject.toml)
platforms=()
for glibc in 2_28 2_27 2_24 2_17 2_12; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
"${pip[@]}" download -q --no-deps --only-binary=:all: --python-version "$version" --implementation cp --abi \
    "cp${version/./}" --abi abi3 --abi none "${platforms[@]}" --platform manylinux2014_x86_64 --platform any \
    -d "$work/bundle" "$pinned" psutil
"$work/venv/bin/python" setup.py -q build_ext --build-lib "$work/lib" --build-temp "$work/build"
strip -o "$work/bundle/$(basename "$work"/lib/megatron_ettin/_native*.so)" "$work"/lib/megatron_ettin/_native*.so
bash benchmarks/gpu_parts/sources.sh > "$work/bundle/sources"

mkdir -p "$folder"
rm -f "$folder"/*.whl "$folder"/_native*.so
mv "$work"/bundle/* "$folder"/
du -ch "$folder"/*
