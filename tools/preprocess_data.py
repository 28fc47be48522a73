#!/usr/bin/env python3
"""Text to a tokenized corpus; the same as ``ettin prepare``, under the name Megatron-LM's users know."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron_ettin.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
