"""StableAdamW: AdamW whose update of a tensor is scaled down when its gradients outgrow their second moment.

Per tensor, with step index n: debiased betas b = (b - b^n) / (1 - b^n); m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
r = sqrt(mean(g^2 / max(v, epsilon^2))); a = lr / max(1, r); p = p (1 - decay a / peak) - a m / (sqrt(v) + epsilon).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import unwrap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from megatron_ettin import _native
from megatron_ettin.kernels.kind import KernelKind
from megatron_ettin.kernels.pointwise import one_kernel
from megatron_ettin.parallel.device import to_device

if TYPE_CHECKING:
    from megatron_ettin.kernels.triton.adam import TensorTable

LARGE = 1 << 20
"""Elements from which a tensor is worth compiled passes of its own: they move a quarter of the bytes that foreach
kernels do, and a launch costs more."""


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How the optimizer's local tensors are parts of whole ones.

    ``sum_over_ranks`` adds one vector, with an entry for each whole tensor, over exactly the ranks that share tensors.
    """

    slots: Tensor
    """For each local tensor the index of its whole tensor, shape [locals], int64."""
    counted: Tensor
    """1 where this rank adds its part, 0 where another rank holds the same numbers, shape [locals], float64."""
    sizes: Tensor
    """Elements of each whole tensor, padding excluded, shape [wholes], float64."""
    sum_over_ranks: Callable[[Tensor], None]
    """Adds its argument in place over the ranks."""

    @staticmethod
    def none(tensors: Sequence[Tensor]) -> Sharding:
        """Every tensor is whole and on this rank alone."""
        return Sharding(
            slots=torch.arange(len(tensors)),
            counted=torch.ones(len(tensors), dtype=torch.float64),
            sizes=torch.tensor([tensor.numel() for tensor in tensors], dtype=torch.float64),
            sum_over_ranks=lambda _: None,
        )

    def means(self, local_sums: Tensor) -> Tensor:
        """The mean over each whole tensor, repeated for each local one. One collective.

        ``local_sums`` and the result have shape [locals], float64.
        """
        totals = torch.zeros_like(self.sizes)
        totals.index_add_(0, self.slots, local_sums * self.counted)
        self.sum_over_ranks(totals)
        return (totals / self.sizes)[self.slots]


class StableAdamW(torch.optim.AdamW):
    """The update above on float32 tensors. State of a tensor: exactly exp_avg and exp_avg_sq; ``step`` is in the group.

    It derives from torch's AdamW because Megatron-Core's distributed optimizer accepts nothing else; only the state's
    names are shared. On a CPU the work is done by two fused passes of the extension; elsewhere by those of own kernels,
    by foreach kernels, or by two compiled passes for each large tensor, as ``kernels`` says.
    """

    # torch shields these from its compiler, and loads all of it to do so: half a second of every start.
    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        epsilon: float,
        peak_rate: float,
        kernels: KernelKind = "plain",
    ) -> None:
        defaults = {"lr": peak_rate, "weight_decay": 0.0, "betas": betas, "eps": epsilon, "step": 0}
        torch.optim.Optimizer.__init__(self, groups, defaults)
        self.peak_rate, self.kernels = peak_rate, kernels
        self.sharding: Sharding | None = None
        self._frozen: set[int] = set()
        self._table: TensorTable | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)

    def tensors(self) -> list[Tensor]:
        """The local tensors that learn, in the order of the groups; ``sharding`` speaks of the same order."""
        return [tensor for _, tensor in self._learning()]

    def leave(self, frozen: Iterable[bool]) -> None:
        """Leave some local tensors and their state as they are from here on: a mark for each, in the same order."""
        tensors = [tensor for group in self.param_groups for tensor in group["params"]]
        self._frozen = {id(tensor) for tensor, stays in zip(tensors, frozen, strict=True) if stays}

    def _learning(self) -> list[tuple[dict[str, Any], Tensor]]:
        """Each tensor that learns with its group."""
        pairs = [(group, tensor) for group in self.param_groups for tensor in group["params"]]
        return [(group, tensor) for group, tensor in pairs if id(tensor) not in self._frozen]

    def prepare_state(self) -> None:
        """Give every tensor its zero moments; tensors that have them keep them.

        Those of a frozen one are a single zero in the tensor's shape: they are stored as all others and take no memory.
        """
        for tensor in (tensor for group in self.param_groups for tensor in group["params"]):
            if not self.state[tensor] and id(tensor) in self._frozen:
                zero = tensor.new_zeros(()).expand(tensor.shape)
                self.state[tensor] = {"exp_avg": zero, "exp_avg_sq": zero}
            elif not self.state[tensor]:
                self.state[tensor] = {"exp_avg": torch.zeros_like(tensor), "exp_avg_sq": torch.zeros_like(tensor)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every tensor from its gradient, which every tensor must have."""
        if closure is not None:
            raise ValueError("StableAdamW takes no closure")
        self.prepare_state()
        for group in self.param_groups:
            group["step"] += 1
        group = self.param_groups[0]
        powers = [beta ** group["step"] for beta in group["betas"]]  # debiased: 0 at step 1, then towards beta
        beta1, beta2 = ((beta - power) / (1.0 - power) for beta, power in zip(group["betas"], powers, strict=True))
        self.sharding = self.sharding or Sharding.none(self.tensors())
        kernel = self._kernel(group["eps"], self.sharding.sizes.device)
        means = self.sharding.means(kernel.second_moments(beta2))
        asked = [float(group["lr"]) for group, _ in self._learning()]
        decays = [group["weight_decay"] / self.peak_rate for group, _ in self._learning()]
        rates = to_device(torch.tensor(asked, dtype=torch.float64), means.device) / means.sqrt().clamp_(min=1)
        lost = to_device(torch.tensor(decays, dtype=torch.float64), rates.device) * rates
        kernel.apply(beta1, rates, 1.0 - lost)

    def _kernel(self, epsilon: float, device: torch.device) -> _Kernel:
        tensors = self.tensors()
        gradients = [tensor.grad for tensor in tensors]
        firsts = [self.state[tensor]["exp_avg"] for tensor in tensors]
        seconds = [self.state[tensor]["exp_avg_sq"] for tensor in tensors]
        if device.type == "cpu":
            return _FusedKernel(tensors, gradients, firsts, seconds, epsilon)
        if self.kernels != "own":
            return KERNELS[self.kernels](tensors, gradients, firsts, seconds, epsilon, device)
        kernel = _OwnKernel(tensors, gradients, firsts, seconds, epsilon, device, self._table)
        self._table = kernel.table
        return kernel


class _FusedKernel:
    """The extension's two passes over memory. Tensors are contiguous float32 on the CPU."""

    def __init__(
        self, tensors: list[Tensor], gradients: list[Tensor | None], firsts: list[Tensor], seconds: list[Tensor],
        epsilon: float,
    ) -> None:  # fmt: skip
        self._held = [_floats(kind) for kind in (tensors, gradients, firsts, seconds)]
        addresses = [[tensor.data_ptr() for tensor in kind] for kind in self._held]
        sizes = [tensor.numel() for tensor in tensors]
        self._epsilon = epsilon
        self._step = _native.AdamStep(*addresses, sizes, torch.get_num_threads())

    def second_moments(self, beta2: float) -> Tensor:
        """Moves the second moments; the sum of g^2 / max(v, epsilon^2) of each local tensor, [locals], float64."""
        return torch.tensor(self._step.second_moments(beta2, self._epsilon), dtype=torch.float64)

    def apply(self, beta1: float, rates: Tensor, keeps: Tensor) -> None:
        """Moves the first moments and the tensors, by a rate and a share to keep for each, [locals], float64."""
        self._step.apply(beta1, self._epsilon, rates.tolist(), keeps.tolist())


def _floats(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """The tensors, after a check that raw float pointers into them are right."""
    for tensor in tensors:
        if tensor is None or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise RuntimeError("StableAdamW needs a contiguous float32 tensor and gradient for every parameter")
    return [tensor for tensor in tensors if tensor is not None]


class _ForeachKernel:
    """The same passes as multi-tensor operations; no step waits for the device."""

    def __init__(
        self, tensors: list[Tensor], gradients: list[Tensor | None], firsts: list[Tensor], seconds: list[Tensor],
        epsilon: float, device: torch.device,
    ) -> None:  # fmt: skip
        self._tensors, self._gradients = tensors, _floats(gradients)
        self._firsts, self._seconds = firsts, seconds
        self._epsilon, self._device = epsilon, device

    def second_moments(self, beta2: float) -> Tensor:
        """As those of the fused kernel."""
        if not self._tensors:
            return torch.zeros(0, dtype=torch.float64, device=self._device)
        torch._foreach_mul_(self._seconds, beta2)
        torch._foreach_addcmul_(self._seconds, self._gradients, self._gradients, value=1.0 - beta2)
        scaled = torch._foreach_clamp_min(self._seconds, self._epsilon**2)
        torch._foreach_sqrt_(scaled)
        torch._foreach_reciprocal_(scaled)
        torch._foreach_mul_(scaled, self._gradients)
        return torch.stack(torch._foreach_norm(scaled)).double().square()

    def apply(self, beta1: float, rates: Tensor, keeps: Tensor) -> None:
        """As that of the fused kernel."""
        if not self._tensors:
            return
        torch._foreach_lerp_(self._firsts, self._gradients, 1.0 - beta1)
        updates = torch._foreach_sqrt(self._seconds)
        torch._foreach_add_(updates, self._epsilon)
        torch._foreach_reciprocal_(updates)
        torch._foreach_mul_(updates, self._firsts)
        torch._foreach_mul_(updates, list(rates.float().unbind()))
        torch._foreach_mul_(self._tensors, list(keeps.float().unbind()))
        torch._foreach_sub_(self._tensors, updates)


class _CompiledKernel:
    """The same with one kernel a pass for each large tensor; the small ones share foreach kernels."""

    def __init__(
        self, tensors: list[Tensor], gradients: list[Tensor | None], firsts: list[Tensor], seconds: list[Tensor],
        epsilon: float, device: torch.device,
    ) -> None:  # fmt: skip
        kinds = (tensors, _floats(gradients), firsts, seconds)
        self._large = [index for index, tensor in enumerate(tensors) if tensor.numel() >= LARGE]
        self._small = [index for index, tensor in enumerate(tensors) if tensor.numel() < LARGE]
        self._flat = [[kind[index].view(-1) for kind in kinds] for index in self._large]
        small = [[kind[index] for index in self._small] for kind in kinds]
        self._rest = _ForeachKernel(small[0], [*small[1]], small[2], small[3], epsilon, device)
        self._epsilon, self._device = epsilon, device
        for x in (x for flat in self._flat for x in flat):
            torch._dynamo.maybe_mark_dynamic(x, 0)  # one compilation serves all sizes

    def second_moments(self, beta2: float) -> Tensor:
        """As those of the fused kernel."""
        # A number that changes from step to step must be a tensor: it would be compiled into the kernel.
        beta = to_device(torch.tensor([beta2, 1.0 - beta2]), self._device)
        run = one_kernel(second_moment_)
        sums: dict[int, Tensor] = {
            index: run(second, gradient, beta, self._epsilon).double()
            for index, (_, gradient, _, second) in zip(self._large, self._flat, strict=True)
        }
        sums |= zip(self._small, self._rest.second_moments(beta2).unbind(), strict=True)
        if not sums:
            return torch.zeros(0, dtype=torch.float64, device=self._device)
        return torch.stack([sums[index] for index in range(len(sums))])

    def apply(self, beta1: float, rates: Tensor, keeps: Tensor) -> None:
        """As that of the fused kernel."""
        beta = to_device(torch.tensor([beta1, 1.0 - beta1]), self._device)
        run = one_kernel(update_)
        # Each row begins at a multiple of 16 bytes: compiled code would copy any other.
        scales = torch.stack([rates, keeps, rates, keeps], dim=1).float()
        for index, flat in zip(self._large, self._flat, strict=True):
            run(*flat, beta, self._epsilon, scales[index])
        if self._small:
            self._rest.apply(beta1, *(torch.stack([x[index] for index in self._small]) for x in (rates, keeps)))


class _OwnKernel:
    """The same in three launches for any number of tensors. ``table``: of the step before, kept while it holds."""

    def __init__(
        self, tensors: list[Tensor], gradients: list[Tensor | None], firsts: list[Tensor], seconds: list[Tensor],
        epsilon: float, device: torch.device, table: TensorTable | None = None,
    ) -> None:  # fmt: skip
        from megatron_ettin.kernels.triton import adam

        self._held = [_floats(kind) for kind in (tensors, gradients, firsts, seconds)]
        if table is None or table.places != adam.places_of(self._held):
            table = adam.TensorTable(self._held, lambda host: to_device(host, device))
        self.table, self._adam, self._epsilon = table, adam, epsilon

    def second_moments(self, beta2: float) -> Tensor:
        """As those of the fused kernel."""
        return self._adam.second_moments(self.table, beta2, self._epsilon)

    def apply(self, beta1: float, rates: Tensor, keeps: Tensor) -> None:
        """As that of the fused kernel."""
        self._adam.update(self.table, beta1, self._epsilon, rates, keeps)


_Kernel = _FusedKernel | _ForeachKernel | _CompiledKernel | _OwnKernel
KERNELS: dict[KernelKind, type[_ForeachKernel | _CompiledKernel]] = {
    "plain": _ForeachKernel, "compiled": _CompiledKernel,
}  # fmt: skip


def second_moment_(second: Tensor, gradient: Tensor, beta: Tensor, epsilon: float) -> Tensor:
    """Move the second moment by [beta, 1 - beta]; returns the sum of squares of the gradient in its units."""
    square = gradient * gradient
    second.mul_(beta[0]).add_(square * beta[1])
    return (square / second.clamp(min=epsilon**2)).sum()


def update_(
    tensor: Tensor, gradient: Tensor, first: Tensor, second: Tensor, beta: Tensor, epsilon: float, scales: Tensor
) -> None:
    """Move the first moment by [beta, 1 - beta], and the tensor against it, by scales [rate, share to keep, ...]."""
    first.mul_(beta[0]).add_(gradient * beta[1])
    tensor.mul_(scales[1]).sub_(scales[0] * first / (second.sqrt() + epsilon))
