"""lm-eval's own command with our models: ``python -m megatron_ettin.evaluate.harness run --model ettin_encoder ...``.

All of its flags stay. ``--model_args pretrained=MODEL`` takes a run, an export, a hub name or any transformers folder;
``ettin_encoder`` knows ``mntp=True`` too.
"""

from __future__ import annotations

import sys

from megatron_ettin.errors import EttinError
from megatron_ettin.evaluate.suites.optional import library

MODELS = {
    "ettin_encoder": "megatron_ettin.evaluate.generative.encoder_lm:EncoderLM",
    "ettin_decoder": "megatron_ettin.evaluate.generative.decoder_lm:DecoderLM",
}
"""Name in ``--model`` -> class."""


def main() -> int:
    """Make our models known to lm-eval and run its command."""
    try:
        library("lm_eval.models", "eval-lm")  # first: a model that is registered before lm-eval's own hides them
        registry = library("lm_eval.api.registry", "eval-lm").model_registry
        for name, target in MODELS.items():
            if name not in registry:
                registry.register(name, target=target)
        library("lm_eval.__main__", "eval-lm").cli_evaluate()
    except EttinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
