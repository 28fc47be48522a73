"""Runs cases in real gloo processes, one launch for all cases of a number of ranks, and hands back named tensors.

`python -m tests.layouts.harness WORK CASES.json OUT` under torchrun is what the ranks run; WORK is `module:function`, a
function from (case, groups) to named tensors, called for each case on every rank. Rank 0 writes what it returns.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.layouts.cases import Case
from tests.support.warm import warm

Named = dict[str, Tensor]


def launch(work: str, cases: Iterable[Case], folder: Path, timeout: float = 600.0) -> dict[str, Named]:
    """Run `work` for all cases, one launch for each number of ranks; name of the case -> its named tensors."""
    results: dict[str, Named] = {}
    folder.mkdir(parents=True, exist_ok=True)
    cases = list(cases)
    for ranks in sorted({case.ranks for case in cases}):
        chosen = [case for case in cases if case.ranks == ranks]
        request = folder / f"cases-{ranks}.json"
        request.write_text(json.dumps([case.to_dict() for case in chosen]))
        warm(ranks, "tests.layouts.harness", work, request, folder, timeout=timeout)
        results |= {case.name: load_file(folder / f"{case.name}.safetensors") for case in chosen}
    return results


def main(arguments: list[str]) -> None:
    """What each rank runs."""
    warnings.simplefilter("ignore")
    from megatron_ettin.parallel.groups import finish, initialize

    work, request, folder = arguments
    module, function = work.split(":")
    run = getattr(importlib.import_module(module), function)
    groups = None
    for fields in json.loads(Path(request).read_text()):
        case = Case(**fields)
        try:
            groups = initialize(case.config().layout, timeout_minutes=2)
            named: Named = run(case, groups)
        except Exception as error:
            error.add_note(f"in case {case.name}")
            raise
        if groups.world.rank == 0:
            contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in named.items()}
            save_file(contiguous, Path(folder) / f"{case.name}.safetensors")
    if groups is not None:
        torch.distributed.barrier()
    finish()


if __name__ == "__main__":
    main(sys.argv[1:])
