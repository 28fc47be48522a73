"""``python -m megatron_ettin VERB`` is ``ettin VERB``."""

from megatron_ettin.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
