"""A dry run on a CPU: the way of a GPU, with stand-ins for kernels that are not there and nothing compiled."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch

from megatron_ettin.model.attention.choice import Installed

MACHINE = Installed(cuda=True, hopper=True, varlen=True, flash_hopper=True, te=True)


@contextmanager
def stand_ins() -> Iterator[None]:
    """Inside, attention kernels, fp8 recipes and layers are there: by definition, in bf16."""
    from tests.model import stand_ins as made

    modules = {"flash_attn_interface": made.flash_attn_interface([]), **made.attention_of_transformer_engine([])}
    with ExitStack() as stack:
        stack.enter_context(mock.patch("megatron_ettin.model.build.installed", lambda _: MACHINE))
        stack.enter_context(mock.patch("torch.nn.attention.varlen.varlen_attn", made.varlen([])))
        stack.enter_context(mock.patch.dict(sys.modules, modules))
        stack.enter_context(made.fp8())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
