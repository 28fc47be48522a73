"""What known accelerators can do at most, by the name that their driver reports. Unknown names have no figures."""

from __future__ import annotations

from dataclasses import dataclass

TERA = 1e12
GIBI = 2**30


@dataclass(frozen=True)
class Accelerator:
    """Datasheet ceilings of one device, without sparsity."""

    name: str
    """Part of the driver's device name; the first match in the table counts."""
    bf16: float
    """FLOP/s in bf16 with fp32 accumulation."""
    fp8: float | None
    """FLOP/s in fp8, where the device has it."""
    fp32: float
    """FLOP/s in fp32 without TF32."""
    memory: int
    """Bytes."""


ACCELERATORS = (
    Accelerator("H100 PCIe", 756 * TERA, 1513 * TERA, 51 * TERA, 80 * GIBI),
    Accelerator("H100 NVL", 835 * TERA, 1671 * TERA, 60 * TERA, 94 * GIBI),
    Accelerator("H100", 989 * TERA, 1979 * TERA, 67 * TERA, 80 * GIBI),
    Accelerator("GH200", 989 * TERA, 1979 * TERA, 67 * TERA, 96 * GIBI),
    Accelerator("H200", 989 * TERA, 1979 * TERA, 67 * TERA, 141 * 10**9),
    Accelerator("H800", 989 * TERA, 1979 * TERA, 67 * TERA, 80 * GIBI),
    Accelerator("B200", 2250 * TERA, 4500 * TERA, 75 * TERA, 180 * 10**9),
    Accelerator("A100", 312 * TERA, None, 19.5 * TERA, 80 * GIBI),
    Accelerator("L40S", 362 * TERA, 733 * TERA, 91.6 * TERA, 48 * GIBI),
)


def accelerator(device_name: str) -> Accelerator | None:
    """The figures of a device, or None when it is not known: no figure is better than a wrong one."""
    return next((known for known in ACCELERATORS if known.name.lower() in device_name.lower()), None)


def peak_flops(device_name: str, precision: str) -> float | None:
    """FLOP/s of one device at a precision of the run, or None when it is not known."""
    known = accelerator(device_name)
    if known is None:
        return None
    return {"bf16": known.bf16, "fp8": known.fp8, "fp32": known.fp32}[precision]


@dataclass(frozen=True)
class Cluster:
    """Nodes of H100 SXM: what a modelled step takes for granted. Assumptions, not measurements."""

    node: int = 8
    """GPUs of a node."""
    card: int = 80 * GIBI
    """Bytes of a GPU."""
    matrix: float = 700 * TERA
    """FLOP/s of large products in bf16; the datasheet says 989 TFLOP/s."""
    attention: tuple[float, float] = (300 * TERA, 230 * TERA)
    """FLOP/s of FlashAttention 2 at head size 64, forward and backward."""
    memory: float = 3.0e12
    """Bytes a second that a kernel reads and writes; the datasheet says 3.35e12."""
    launch: float = 12e-6
    """Seconds of the host for each kernel: short kernels wait for it."""
    inside: float = 450e9
    """Bytes a second that a GPU sends to others of its node: NVLink 4, one direction."""
    across: float = 50e9
    """Bytes a second that a GPU sends to other nodes: an InfiniBand adapter of 400 Gb/s each."""
    hop_inside: float = 2e-6
    """Seconds from a GPU to the next one in a ring within a node."""
    hop_across: float = 6e-6
    """The same between nodes."""


H100_CLUSTER = Cluster()
