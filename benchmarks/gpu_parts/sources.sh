#!/usr/bin/env bash
# One line that changes with the sources of the extension: whether a built one is of this checkout.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
find csrc setup.py -type f ! -path 'csrc/fuzz/*' ! -name '*.md' | LC_ALL=C sort | xargs cksum | cksum
