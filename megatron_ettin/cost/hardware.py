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
