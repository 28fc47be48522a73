#!/usr/bin/env bash
# Sets up the environment, then runs every static check and the whole default test suite.
#   bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/environment.sh
source tools/environment.sh
ettin_environment dev

export OMP_NUM_THREADS=1
failed=0
check() {
    ettin_say "$*"
    "$@" || { failed=1; echo "failed: $*" >&2; }
}
check "$ETTIN_PYTHON" -m ruff check .
check "$ETTIN_PYTHON" -m mypy
check lint-imports --no-logo
check find csrc \( -name '*.cpp' -o -name '*.h' \) -exec clang-format --dry-run --Werror {} +
check shellcheck -x examples/*.sh benchmarks/*.sh benchmarks/gpu_parts/*.sh tests/run.sh tools/environment.sh .ci/run
check "$ETTIN_PYTHON" -m pytest -n 2 --max-worker-restart 0 --dist loadscope --no-loadscope-reorder --durations=15 "$@"
exit $failed
