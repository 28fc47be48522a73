"""StableAdamW inside Megatron-Core's distributed optimizer: each data rank owns a part of every bucket."""

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from torch import Tensor
from torch.nn import Parameter

from megatron_ettin import _native
from megatron_ettin.config.overlapping import overlaps
from megatron_ettin.config.run import RunConfig
from megatron_ettin.cost.cuts import storing_rank
from megatron_ettin.kernels.kind import kernel_kind
from megatron_ettin.parallel.groups import Groups
from megatron_ettin.train.stable_adamw import Sharding, StableAdamW
from megatron_ettin.train.whole_states import parts_in, put_together


class ShardedOptimizer(DistributedOptimizer):  # type: ignore[misc]
    """Megatron-Core's distributed optimizer around StableAdamW, with the step split so that a guard fits in between.

    ``step()`` of the base class is not used: call ``gather_gradients``, look at ``square_norm``, then ``apply``.
    """

    optimizer: StableAdamW

    def gather_gradients(self) -> None:
        """Point each local tensor at its part of the reduced gradients. No copy where they are float32."""
        self.prepare_grads()

    def square_norm(self) -> Tensor:
        """This rank's part of the squared norm of the gradient; parts of all ranks add up. Shape [], float64."""
        sharding = self.optimizer.sharding
        if sharding is None:
            raise RuntimeError("attach() must be called before the first step")
        gradients = [tensor.grad for tensor in self.optimizer.tensors() if tensor.grad is not None]
        if not gradients:
            return torch.zeros((), dtype=torch.float64, device=sharding.counted.device)
        if gradients[0].device.type == "cpu":
            addresses, sizes = [g.data_ptr() for g in gradients], [g.numel() for g in gradients]
            sums = torch.tensor(_native.square_sums(addresses, sizes, torch.get_num_threads()), dtype=torch.float64)
        else:
            sums = torch.stack(torch._foreach_norm(gradients)).double().square()
        return (sums * sharding.counted * self._once).sum()

    def apply(self, rate: float) -> None:
        """Update this rank's parts at learning rate ``rate``, and send the new weights to the other data ranks."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.step_with_ready_grads()

    def take_main_weight(self, parameter: Parameter, local: Tensor) -> None:
        """Set what this data rank holds of a parameter's main weight, from this tensor rank's part of it in float32."""
        if parameter in self.model_param_group_index_map:
            group, place = self.model_param_group_index_map[parameter]
            held = self._get_model_param_range_map(parameter)["param"]
            self.optimizer.param_groups[group]["params"][place].data.copy_(local.view(-1)[held.start : held.end])

    def _set_main_param_and_optimizer_states(self, model_param: Parameter, tensors: dict[str, Tensor]) -> None:
        """Take over a parameter's main weight and moments as loaded; what is frozen has no moments."""
        if model_param.requires_grad:
            super()._set_main_param_and_optimizer_states(model_param, tensors)
            return
        group, place = self.model_param_group_index_map[model_param]
        self.optimizer.param_groups[group]["params"][place].copy_(tensors["param"])

    @property
    def updates(self) -> int:
        """Updates applied so far: the step index of the debiased betas."""
        return int(self.optimizer.param_groups[0]["step"])

    @updates.setter
    def updates(self, value: int) -> None:
        for group in self.optimizer.param_groups:
            group["step"] = value

    def state_dict(self) -> dict[str, Any]:
        """Nothing but tensors is kept by the checkpoint of the optimizer, and those are listed elsewhere."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the loaded tensors of ``sharded_state_dict``; without any, only make room for them."""
        self.optimizer.prepare_state()
        if "param_state" in state_dict:
            with torch.no_grad():
                self.load_parameter_state_from_fully_reshardable(state_dict["param_state"])

    def sharded_state_dict(
        self, model_sharded_state_dict: dict[str, Any], is_loading: bool = False, **options: Any
    ) -> dict[str, Any]:
        """Main weights and moments, described as the parameters are, each tensor on the data rank that stores it.

        To be read, on every rank that holds a part of it, with room for all of it. All data ranks call this.
        """
        self.optimizer.prepare_state()
        shards = {id(shard.data): shard for shard in nested_values(model_sharded_state_dict)}
        group = self.data_parallel_group
        rank, states = group.rank(), {}
        placed = ((buffer, parameter) for buffer in self.buffers for parameter in buffer.param_index_map)
        for number, (buffer, parameter) in enumerate(placed):
            parts = parts_in(buffer, parameter, group.size())
            mine = rank in [part.rank for part in parts]
            found = self._states_of(parameter) if mine else None
            if is_loading and found is not None and len(parts) > 1:
                found = {name: torch.empty(parameter.numel(), dtype=part.dtype) for name, part in found.items()}
            elif is_loading and found is not None and not parameter.requires_grad:  # its moments are a single zero
                found = {n: part if n == "param" else torch.empty(part.shape) for n, part in found.items()}
            elif not is_loading:
                found = put_together(found, parts, parameter.numel(), group)
            if found is not None:
                replica = 0 if rank == storing_rank(parts) else 1 + rank
                states[number] = described_as(shards[id(parameter)], found, parameter.shape, replica)
        return {"param_state": states, "param_state_sharding_type": options["metadata"]["distrib_optim_sharding_type"]}

    def _states_of(self, parameter: Parameter) -> dict[str, Tensor]:
        """This rank's part of the main weight and of the moments of a parameter, flat."""
        held = self._get_main_param_and_optimizer_states(parameter)
        return {name: tensor.detach().view(-1) for name, tensor in held.items()}

    def attach(self, sizes: Sequence[int], groups: Groups) -> None:
        """Learn which whole tensor each local one is a part of, how large that is, and what is frozen. Called once."""
        wholes = [parameter for chunk in self.model_chunks for parameter in chunk.parameters()]
        slot_of = {id(parameter): slot for slot, parameter in enumerate(wholes)}
        owners: list[Parameter] = []  # the model parameter behind each local tensor, in the optimizer's order
        for floats, halves in zip(self.model_fp32_groups, self.model_float16_groups, strict=True):
            if floats and halves:
                raise RuntimeError("parameters of one optimizer group must share a dtype")
            owners += floats + halves
        device = wholes[0].device
        self.optimizer.leave(not owner.requires_grad for owner in owners)
        owners = [owner for owner in owners if owner.requires_grad]

        def sum_over_ranks(vector: Tensor) -> None:
            group = groups.collection.tp_dp_cp
            if group.size() > 1:
                torch.distributed.all_reduce(vector, group=group)

        self.optimizer.sharding = Sharding(
            slots=torch.tensor([slot_of[id(owner)] for owner in owners], dtype=torch.int64, device=device),
            counted=torch.tensor(
                [float(groups.tensor.is_first or getattr(owner, "tensor_model_parallel", False)) for owner in owners],
                dtype=torch.float64,
                device=device,
            ),
            sizes=torch.tensor(sizes, dtype=torch.float64, device=device),
            sum_over_ranks=sum_over_ranks,
        )
        self._once = torch.tensor(
            [0.0 if getattr(owner, "shared", False) else 1.0 for owner in owners], dtype=torch.float64, device=device
        )


def described_as(
    shard: ShardedTensor | ShardedTensorFactory, flat: dict[str, Tensor], shape: torch.Size, replica: int
) -> dict[str, Any]:
    """Main weight and moments of a parameter, described as the parameter is; of ``replica`` 0 they are stored."""
    found = {}
    for name, tensor in flat.items():
        whole = tensor.view(shape)
        kind = {} if isinstance(shard, ShardedTensorFactory) else {"dtype": whole.dtype}
        key, place = f"optimizer.state.{name}.{shard.key}", (*shard.replica_id[:-1], replica)
        found[name] = replace(shard, key=key, data=whole, replica_id=place, **kind)
    return found


def build_optimizer(
    chunks: Sequence[DistributedDataParallel], sizes: Sequence[int], config: RunConfig, groups: Groups,
    frozen: Sequence[Parameter] = (),
) -> ShardedOptimizer:
    """The optimizer of this rank's model chunks. State is allocated at the first step or load.

    Weight decay is for tensors of two and more dimensions, none for the others. The parameters ``frozen`` never move.
    They have a place in the buffers as the others, so that checkpoints are alike and a change at one can free them, and
    no moments.
    ``sizes``: for each parameter of the chunks, in order, the elements of its whole tensor without padding.
    """
    parameters = [parameter for chunk in chunks for parameter in chunk.parameters()]
    decayed = [parameter for parameter in parameters if parameter.dim() > 1]
    others = [parameter for parameter in parameters if parameter.dim() < 2]
    inner = StableAdamW(
        [{"params": decayed, "weight_decay": config.optimizer.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(config.optimizer.beta1, config.optimizer.beta2),
        epsilon=config.optimizer.epsilon,
        peak_rate=config.schedule.peak_rate,
        kernels=kernel_kind(config.compute, groups.device.kind),
    )
    optimizer = ShardedOptimizer(
        inner,
        MegatronOptimizerConfig(
            optimizer="adam", lr=config.schedule.peak_rate, clip_grad=0.0, use_distributed_optimizer=True,
            bf16=config.compute.precision != "fp32", overlap_param_gather=overlaps(config, groups.device.kind),
        ),
        None,
        None,
        model_chunks=list(chunks),
        per_model_buffers={index: chunk.buffers for index, chunk in enumerate(chunks)},
        data_parallel_group=groups.collection.dp_cp,
        data_parallel_group_gloo=None,
        data_parallel_group_idx=0,
        distributed_optimizer_instance_id=0,
    )  # fmt: skip
    optimizer.tp_group = groups.collection.tp
    optimizer.grad_stats_parallel_group = groups.world.group
    for parameter in frozen:  # not before: Megatron-Core gives buffers and state only to what has a gradient
        parameter.requires_grad_(False)
    optimizer.attach(sizes, groups)
    return optimizer
