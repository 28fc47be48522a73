# shellcheck shell=bash
# Sourced by examples/quickstart.sh and tests/run.sh: the Python environment that everything runs in.
#
#   ettin_environment [extra]   leaves ETTIN_PYTHON pointing at a Python with the package and its pinned dependencies
#
# Uses the virtual environment that is active, else .venv in the checkout. A torch that is installed already is kept.
# Without a GPU the CPU build of torch is taken: "+cpu" versions, and on macOS every build, are that build wherever they
# come from, so the package index that pip is set up with is asked first; PyTorch's own CPU index has nothing else.
# ETTIN_ENVIRONMENT=ready skips all of it, for containers and tests that bring a Python with everything in it.

ettin_say() { printf '== %s\n' "$*"; }

ettin_base_python() {
    local candidate
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))'; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: no Python from 3.11 to 3.13 found on PATH; install one and start again" >&2
    return 1
}

ettin_need_compiler() {
    command -v g++ >/dev/null || {
        echo "error: g++ not found; the C++ extension needs a C++17 compiler (Debian: apt-get install g++)" >&2
        return 1
    }
}

ettin_fingerprint() { # of what the installation depends on
    find csrc setup.py pyproject.toml constraints.txt tools/environment.sh -type f ! -path 'csrc/fuzz/*' ! -name '*.md' |
        LC_ALL=C sort | xargs cksum | cksum
    echo "$1"
}

ettin_installed() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; } # $1: stamp file, $2: fingerprint

ettin_make_venv() {
    local base
    base=$(ettin_base_python) || return 1
    local options=()
    # an image that brings its own torch (for its own CUDA) keeps it
    if "$base" -c 'import torch' 2>/dev/null; then options+=(--system-site-packages); fi
    ettin_say "making .venv with $base"
    "$base" -m venv "${options[@]}" .venv
}

ettin_install_torch() {
    if "$ETTIN_PYTHON" -c 'import torch' 2>/dev/null; then return; fi
    local version
    version=$(sed -n 's/^torch==//p' constraints.txt)
    if command -v nvidia-smi >/dev/null || [ "$(uname -s)" = Darwin ]; then
        "$ETTIN_PYTHON" -m pip install -q -c constraints.txt "torch==$version"
    else
        "$ETTIN_PYTHON" -m pip install -q "torch==$version+cpu" 2>/dev/null ||
            "$ETTIN_PYTHON" -m pip install -q "torch==$version+cpu" \
                --extra-index-url https://download.pytorch.org/whl/cpu || {
            echo "error: no CPU build of torch $version in the package index that pip is set up with, nor at" \
                "https://download.pytorch.org/whl/cpu; install torch $version yourself and start again" >&2
            return 1
        }
    fi
}

ettin_install_package() { # $1: an extra or nothing
    local pins target=. status=0
    [ -n "$1" ] && target=".[$1]"
    # torch is pinned by what is installed now, so that no dependency can replace it
    pins=$(mktemp)
    grep -v '^torch==' constraints.txt >"$pins"
    "$ETTIN_PYTHON" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >>"$pins"
    "$ETTIN_PYTHON" -m pip install -q -c "$pins" setuptools pybind11 wheel &&
        "$ETTIN_PYTHON" -m pip install -q -c "$pins" --no-build-isolation -e "$target" || status=1
    rm -f "$pins"
    return $status
}

ettin_environment() {
    local extra=${1:-} stamp wanted
    if [ "${ETTIN_ENVIRONMENT:-}" = ready ]; then
        ETTIN_PYTHON=$(command -v python)
        export ETTIN_PYTHON
        return
    fi
    ettin_need_compiler || return 1
    if [ -n "${VIRTUAL_ENV:-}" ]; then
        ETTIN_PYTHON=$VIRTUAL_ENV/bin/python
    else
        [ -x .venv/bin/python ] || ettin_make_venv || return 1
        ETTIN_PYTHON=$PWD/.venv/bin/python
    fi
    export ETTIN_PYTHON
    PATH=$(dirname "$ETTIN_PYTHON"):$PATH
    export PATH
    stamp=$(dirname "$ETTIN_PYTHON")/../.ettin-installed
    wanted=$(ettin_fingerprint "$PWD")
    if ettin_installed "$stamp-$extra" "$wanted"; then return; fi
    if [ -z "$extra" ] && ettin_installed "$stamp-dev" "$wanted"; then return; fi
    ettin_say "installing the package and its pinned dependencies (a few minutes the first time)"
    ettin_install_torch || return 1
    ettin_install_package "$extra" || return 1
    printf '%s' "$wanted" >"$stamp-$extra"
}
