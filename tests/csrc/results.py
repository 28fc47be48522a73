"""Prints, as JSON, what the extension computes from fixed inputs and what its dispatchers chose."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

THREADS = 3


def exact_results(native: Any) -> dict[str, Any]:  # noqa: ANN401 - a module of the extension
    """Of everything that must not depend on the instruction set."""
    draw = np.random.default_rng(7)
    ids = draw.integers(0, 50_000, 70_001).astype(np.uint16)
    text = ("plain text, Привет, 日本語, " * 60).encode()
    line = json.dumps({"text": 'tabs\t, quotes ", \\ and \u0416\n ' * 40}).encode()
    rule = native.MaskRule(
        mask_below=1 << 29,
        random_below=1 << 30,
        chosen_below=1 << 31,
        mask_id=3,
        vocabulary=50_000,
        protected_ids=[1, 2],
    )
    rows = draw.integers(0, 50_000, (7, 333)).astype(np.int32)
    order = native.Permutation(99_991, [11, 22, 33, 44, 55, 66, 77, 88])
    positions = np.arange(5000)
    best = native.instruction_sets()[-1] if hasattr(native, "instruction_sets") else native.simd_level()
    return {
        "crc32c": native.crc32c(ids.tobytes()),
        "scan": [int(number) for number in native.scan_ids(ids.tobytes(), 2)],
        "utf8": [native.utf8_valid_prefix(text), native.utf8_valid_prefix(text + b"\xff" + text)],
        "json": repr(native.parse_json_line(line, ["text"])),
        "masks": [part.tolist() for part in native.mask_rows(rows, rule, (1, 2), (3, 4), 5, 6, best)],
        "draws": native.row_draws((1, 2), 5, 0, 100, best).tolist(),
        "order": order.at(positions).tolist() + order.position_of(positions).tolist(),
    }


def float_results(native: Any, bfloat16: bool) -> dict[str, np.ndarray]:  # noqa: ANN401 - a module of the extension
    """Of the kernels, which round differently on other instruction sets; bfloat16 comes as its 16 bits."""
    draw = np.random.default_rng(8)

    def tensor(*shape: int) -> np.ndarray:
        numbers = draw.standard_normal(shape).astype(np.float32)
        return (numbers.view(np.uint32) >> 16).astype(np.uint16) if bfloat16 else numbers

    def floats(*shape: int) -> np.ndarray:
        return draw.standard_normal(shape).astype(np.float32)

    def address(array: np.ndarray) -> int:
        return int(array.ctypes.data)

    tokens, heads, size, width = 150, 3, 40, 1300
    projection, cosine, sine = tensor(tokens, heads, 3, size), floats(tokens, size // 2), floats(tokens, size // 2)
    native.rotate(address(projection), bfloat16, tokens, heads, size, address(cosine), address(sine), THREADS)
    results = {"rotate": projection}

    gated, upstream = tensor(9, 2 * width), tensor(9, width)
    results["gelu"], results["gelu_gradient"] = tensor(9, width), tensor(9, 2 * width)
    native.gated_gelu(address(gated), bfloat16, 9, width, address(results["gelu"]), THREADS)
    native.gated_gelu_backward(
        address(gated), bfloat16, 9, width, address(upstream), address(results["gelu_gradient"]), THREADS
    )

    places, residual, x, results["drop"] = np.arange(9) + 2**33, tensor(9, width), tensor(9, width), tensor(9, width)
    native.drop(
        2**63 + 5, 7, 3, 1 << 29, 8 / 7, address(places), 9, width, bfloat16, address(residual), address(x),
        address(results["drop"]), THREADS,
    )  # fmt: skip

    query, key, value, output_gradient = (tensor(tokens, heads, size) for _ in range(4))
    attention = native.Attention(
        inputs=[address(query), address(key), address(value)],
        strides=[heads * size, size, heads * size, size],
        bfloat16=bfloat16,
        segments=[[0, 100, 0, 100, 0], [100, 50, 100, 50, 0]],
        tokens=tokens,
        heads=heads,
        head_size=size,
        left=-1,
        right=7,
        threads=THREADS,
    )
    output, sums = np.zeros_like(query), np.zeros((heads, tokens), np.float32)
    gradients = [np.zeros_like(query) for _ in range(3)]
    attention.forward(address(output), address(sums))
    attention.backward(address(output), address(output_gradient), address(sums), [address(part) for part in gradients])
    results |= {"attention": output, "attention_sums": sums, "attention_gradients": np.stack(gradients)}

    logits, bias, labels = tensor(11, 5003), floats(5003), draw.integers(0, 5003, 11)
    rows = native.LogitRows(address(logits), bfloat16, 11, 5003, address(bias), address(labels), 0, THREADS)
    statistics, bias_gradient = np.zeros((3, 11), np.float32), np.zeros(5003, np.float32)
    rows.statistics(*(address(part) for part in statistics))
    log_sum = (statistics[0] + np.log(statistics[1])).astype(np.float32)
    rows.gradients(address(log_sum), address(bias_gradient))
    results |= {"loss_statistics": statistics, "logit_gradients": logits, "bias_gradient": bias_gradient}

    parameter, gradient, first, second = floats(70_001), floats(70_001), floats(70_001), np.abs(floats(70_001))
    step = native.AdamStep(*([address(part)] for part in (parameter, gradient, first, second)), [70_001], THREADS)
    moments = step.second_moments(0.95, 1e-8)
    step.apply(0.9, 1e-8, [0.01], [0.99])
    squares = native.square_sums([address(gradient)], [70_001], THREADS)
    results |= {"adam": np.stack([parameter, first, second]), "adam_sums": np.array([*moments, *squares])}
    return results


if __name__ == "__main__":
    from megatron_ettin import _native

    choices = {name: int(chosen) for name, chosen in _native.instruction_choices().items()}
    numbers = {name: array.ravel()[::7].tolist() for name, array in float_results(_native, False).items()}
    sys.stdout.write(json.dumps({"choices": choices, "exact": exact_results(_native), "floats": numbers}))
