"""From a layout to process groups, once; everything else receives the result."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from megatron_ettin.config.derived import model_ranks
from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.errors import ConfigError
from megatron_ettin.parallel.device import Device, prepare
from megatron_ettin.parallel.gloo import one_transport


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One way in which ranks share work."""

    group: dist.ProcessGroup
    """The ranks that share, this one among them."""
    size: int
    """Number of ranks in the group."""
    rank: int
    """Position of this rank in the group."""

    @property
    def is_first(self) -> bool:
        """This rank is the first of the group."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """This rank is the last of the group."""
        return self.rank == self.size - 1


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The process groups of a run, as seen from this rank."""

    device: Device
    """What this rank computes on."""
    world: Axis
    """All ranks."""
    tensor: Axis
    """Ranks that share each matrix."""
    pipeline: Axis
    """Ranks that share the layers."""
    context: Axis
    """Ranks that share each row."""
    data: Axis
    """Ranks that share each step's rows."""
    data_context: Axis
    """Ranks that hold the same weights: the gradients are reduced over these."""
    virtual_pipeline: int
    """Chunks of layers per pipeline rank."""
    collection: Any
    """The same groups as Megatron-Core's ProcessGroupCollection."""


def initialize(layout: LayoutConfig, device: Device | None = None, timeout_minutes: float = 30.0) -> Groups:
    """Create the process groups of a layout; a second call replaces the groups of the first, or keeps equal ones.

    Works under torchrun and, without it, as a world of one. Raises ConfigError when the layout does not divide the
    world.
    """
    if layout.tensor > 1:  # in one queue kernels start in order: messages overlap as Megatron-Core plans it
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    device = join(device, timeout_minutes)
    from megatron.core import parallel_state
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    _check_world(layout, dist.get_world_size())
    if not _has_groups_of(layout):
        if parallel_state.model_parallel_is_initialized():
            parallel_state.destroy_model_parallel()
        with one_transport():
            parallel_state.initialize_model_parallel(
                tensor_model_parallel_size=layout.tensor,
                pipeline_model_parallel_size=layout.pipeline,
                virtual_pipeline_model_parallel_size=layout.virtual_pipeline if layout.virtual_pipeline > 1 else None,
                context_parallel_size=layout.context,
                distributed_timeout_minutes=int(timeout_minutes),
                # A second set, which nothing uses beside NCCL's: threads and connections of every rank.
                create_gloo_process_groups=dist.get_backend() == "gloo",
            )
    # Its generator tracker insists on states; nothing of ours draws from them.
    model_parallel_cuda_manual_seed(1, force_reset_rng=True)
    collection = ProcessGroupCollection.use_mpu_process_groups()
    assert dist.group.WORLD is not None
    return Groups(
        device=device,
        world=_axis(dist.group.WORLD),
        tensor=_axis(collection.tp),
        pipeline=_axis(collection.pp),
        context=_axis(collection.cp),
        data=_axis(collection.dp),
        data_context=_axis(collection.dp_cp),
        virtual_pipeline=layout.virtual_pipeline,
        collection=collection,
    )


def _has_groups_of(layout: LayoutConfig) -> bool:
    """Whether Megatron-Core's groups are those of the layout already: every set of gloo groups costs dozens of threads
    that live as long as the process."""
    from megatron.core import parallel_state

    return parallel_state.model_parallel_is_initialized() and (
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_pipeline_model_parallel_world_size(),
        parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1,
        parallel_state.get_context_parallel_world_size(),
    ) == (layout.tensor, layout.pipeline, layout.virtual_pipeline, layout.context)


def finish() -> None:
    """Leave the process groups. Errors on other ranks do not keep this one waiting."""
    if dist.is_initialized():
        from megatron.core import parallel_state

        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _axis(group: dist.ProcessGroup) -> Axis:
    return Axis(group=group, size=group.size(), rank=group.rank())


def join(device: Device | None = None, timeout_minutes: float = 30.0) -> Device:
    """Meet the other ranks, once; before a layout is known they can wait for one another and exchange objects."""
    device = device or prepare()
    if dist.is_initialized():
        return device
    timeout = timedelta(minutes=timeout_minutes)
    device_id = device.torch_device if device.kind == "cuda" else None
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        with one_transport():
            dist.init_process_group(device.backend, timeout=timeout, device_id=device_id)
        return device
    store = torch._C._distributed_c10d.HashStore()
    dist.init_process_group(device.backend, store=store, rank=0, world_size=1, timeout=timeout, device_id=device_id)
    return device


def _check_world(layout: LayoutConfig, world: int) -> None:
    model = model_ranks(layout)
    if world % model:
        raise ConfigError(
            f"tensor={layout.tensor} x pipeline={layout.pipeline} x context={layout.context} needs a multiple of "
            f"{model} processes, but {world} were started; change the layout or torchrun's --nproc-per-node"
        )
    if layout.data and layout.data * model != world:
        raise ConfigError(
            f"layout.data={layout.data} x {model} (tensor x pipeline x context) is {layout.data * model} processes, "
            f"but {world} were started; leave layout.data=0 to take what is left"
        )
