"""Which layers lie on which pipeline stage: balanced by cost, the head counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations, pairwise, permutations
from math import comb

from megatron_ettin.config.derived import last_layer_can_narrow
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import is_global
from megatron_ettin.config.sharing import sharing_at
from megatron_ettin.cost.count import (
    FLOPS_PER_MULTIPLY,
    attention_pairs,
    head_flops,
    label_share,
    layer_matrix_flops,
    pair_flops,
    row_shares,
)
from megatron_ettin.cost.simulator import Timeline, simulate

BACKWARD_COST = 2.0
"""A backward pass costs two forward passes; with recomputation three."""
MOST_PLACEMENTS_TRIED = 3_000
"""So many simulations take half a second."""
SAVING = 1e-9
"""A smaller relative saving is rounding."""
MICRO_BATCHES_CAP = 32
"""More micro-batches change the placement no more, only the time it takes to find it."""


def layer_costs(config: RunConfig) -> list[float]:
    """Forward FLOPs per token of each layer, for full pieces; of an encoder's last one what labels need."""
    model, length = config.model, config.data.piece_length
    whole = windowed = 0.0
    for kind, share, _ in row_shares(OBJECTIVES[config.objective], config.data):
        window = model.causal_window if kind.causal else model.window
        whole += share * attention_pairs(length, kind.causal) / length * pair_flops(model)
        windowed += share * attention_pairs(length, kind.causal, window) / length * pair_flops(model)
    matrices = layer_matrix_flops(model)
    costs = [matrices + (whole if is_global(model, layer) else windowed) for layer in range(model.layers)]
    if last_layer_can_narrow(config):
        share = label_share(OBJECTIVES[config.objective], config.data)
        qkv = FLOPS_PER_MULTIPLY * 3 * model.hidden**2  # keys and values of every token are needed
        costs[-1] = qkv + share * (costs[-1] - qkv)
    return costs


def head_cost(config: RunConfig) -> float:
    """Forward FLOPs per token of the head."""
    return label_share(OBJECTIVES[config.objective], config.data) * head_flops(config.model)


def stage_costs(layers: Sequence[float], head: float, placement: tuple[int, ...]) -> list[float]:
    """Cost of each stage: the sum of its consecutive layers, and the head on the last."""
    costs, first = [], 0
    for count in placement:
        costs.append(sum(layers[first : first + count]))
        first += count
    costs[-1] += head
    return costs


def micro_batch_count(config: RunConfig) -> int:
    """Micro-batches of a full step on the busiest data rank."""
    return sharing_at(config, config.batch.rows).most


def own_layers(config: RunConfig, device: int) -> list[int]:
    """The layers on one pipeline rank."""
    layers: list[int] = []
    first = 0
    for stage, count in enumerate(layer_placement(config)):
        if stage % config.layout.pipeline == device:
            layers += range(first, first + count)
        first += count
    return layers


def layer_placement(config: RunConfig) -> tuple[int, ...]:
    """Layers of each (virtual) stage in model order: as given in the layout, or balanced.

    It does not depend on the number of data ranks, so that a pair of equal layouts is placed alike everywhere.
    """
    layout = config.layout
    if layout.pipeline_layers:
        return layout.pipeline_layers
    if layout.pipeline == 1:
        return (config.model.layers,)
    backward = BACKWARD_COST + (1.0 if layout.recompute == "full" else 0.0)
    return balanced(tuple(layer_costs(config)), head_cost(config), layout.pipeline, layout.virtual_pipeline, backward)


@cache
def balanced(layers: tuple[float, ...], head: float, devices: int, chunks: int, backward: float) -> tuple[int, ...]:
    """The placement of least simulated time: of all where they are few, else by moving one layer at a time.

    Of equally good ones the most even is taken. Every stage has at least one layer. Costs up to four seconds for 28
    layers. With 1F1B ``least_maximum`` alone is within 1 % of it, but with chunks it loses 8 % on average and up to
    27 %: a chunk that is cheap on its own may hold up those before it.
    """
    micro_batches = devices * max(1, MICRO_BATCHES_CAP // devices)

    def cost(placement: tuple[int, ...]) -> float:
        forward = stage_costs(layers, head, placement)
        return simulate(forward, [backward * item for item in forward], devices, micro_batches).total

    stages = devices * chunks
    if comb(len(layers) - 1, stages - 1) <= MOST_PLACEMENTS_TRIED:
        scale = sum(layers) * micro_batches
        every = (
            tuple(after - before for before, after in pairwise((0, *cuts, len(layers))))
            for cuts in combinations(range(1, len(layers)), stages - 1)
        )
        return min(every, key=lambda item: (round(cost(item) / scale, 9), sum(count * count for count in item)))
    even = tuple(len(layers) // stages + (stage < len(layers) % stages) for stage in range(stages))
    return min((improved(start, cost) for start in (least_maximum(layers, head, stages), even)), key=cost)


def improved(placement: tuple[int, ...], cost: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """Move one layer at a time from a stage to another as long as that saves time."""
    best, best_cost = placement, cost(placement)
    moved = True
    while moved:
        moved = False
        around = best
        for giver, taker in permutations(range(len(around)), 2):
            if around[giver] == 1:
                continue
            candidate = tuple(
                count - (stage == giver) + (stage == taker) for stage, count in enumerate(around)
            )
            candidate_cost = cost(candidate)
            if candidate_cost < best_cost * (1 - SAVING):
                best, best_cost, moved = candidate, candidate_cost, True
    return best


def least_maximum(layers: tuple[float, ...], head: float, stages: int) -> tuple[int, ...]:
    """The partition into consecutive, non-empty groups whose most expensive group, head included, is cheapest."""
    total = len(layers)
    sums = [0.0]
    for cost in layers:
        sums.append(sums[-1] + cost)
    # best[k][n]: (cost, layers of the last group) of the first n layers in k groups
    best = {(0, 0): (0.0, 0)}
    for group in range(1, stages + 1):
        extra = head if group == stages else 0.0
        for end in range(group, total - (stages - group) + 1):
            best[group, end] = min(
                (max(best[group - 1, begin][0], sums[end] - sums[begin] + extra), end - begin)
                for begin in range(group - 1, end)
                if (group - 1, begin) in best
            )
    placement, end = [], total
    for group in range(stages, 0, -1):
        placement.append(best[group, end][1])
        end -= placement[-1]
    return tuple(reversed(placement))


def timeline(config: RunConfig) -> Timeline:
    """The simulated step of the run's pipeline; messages between its ranks take no time."""
    forward = stage_costs(layer_costs(config), head_cost(config), layer_placement(config))
    backward = BACKWARD_COST + (1.0 if config.layout.recompute == "full" else 0.0)
    return simulate(
        forward, [backward * item for item in forward], config.layout.pipeline, micro_batch_count(config)
    )
