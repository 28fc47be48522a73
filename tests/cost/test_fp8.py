"""Where fp8 pays: at 1B, not at the small sizes, and the estimate says so."""

from __future__ import annotations

import pytest

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.recipes import recipe
from megatron_ettin.cost.fit import fitted
from megatron_ettin.cost.fp8 import fp8_line, fp8_saves
from megatron_ettin.cost.hardware import GIBI, H100_CLUSTER, Cluster


@pytest.mark.parametrize("size", ["17m", "32m", "68m", "150m", "1b"])
def test_fp8_is_off_and_pays_at_the_largest_size(size: str) -> None:
    run = fitted(recipe(size, "mlm", "pretrain"), 80 * GIBI)
    assert run.compute.precision == "bf16"
    assert (fp8_saves(run, H100_CLUSTER) > 0.1) == (size == "1b")
    assert ("saves" if size == "1b" else "costs") in fp8_line(run, H100_CLUSTER)


def test_without_memory_traffic_half_the_products_are_saved() -> None:
    """In the layers between the ends, of which 1B has 26."""
    free = Cluster(memory=1e30, launch=0.0, attention=(1e30, 1e30))
    run = with_fields(recipe("1b", "mlm", "pretrain"), {"layout.micro_batch_rows": 8})
    everywhere = with_fields(run, {"compute.fp8_ends_in_bf16": False})
    assert fp8_saves(run, free) / fp8_saves(everywhere, free) == pytest.approx(26 / 28)
    assert 0.4 < fp8_saves(everywhere, free) < 0.5, "the head is in bf16"
