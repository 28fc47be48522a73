"""Published models as a start: the rate that they were trained at, and which of their weights are ready for more."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megatron_ettin.config.recipes import SIZE_RECIPES
from megatron_ettin.config.shapes import PUBLISHED_SIZES


@dataclass(frozen=True, kw_only=True)
class Published:
    """Facts about models on the hub that no file of theirs tells."""

    name: str
    """Expression for OWNER/NAME, in small letters."""
    peak_rate: float
    """Learning rate at the top of their training."""
    stable: str
    """Where the weights are from before the rate fell."""
    source: str
    """What shows it."""


COMPOSER = (
    "in the folder {folder} of {repository}, as Composer files, which are pickles: export them where you trust them"
)
"""How the pre-decay weights of other makers are kept."""
MODERNBERT = "arXiv 2412.13663, AnswerDotAI/ModernBERT#153 and #222"
MMBERT = "arXiv 2509.06888, JHU-CLSP/mmBERT#6 and its training settings"

PUBLISHED: tuple[Published, ...] = (
    *(
        Published(
            name=f"answerdotai/modernbert-{size}",
            peak_rate=rate,
            stable=COMPOSER.format(
                folder="context-extension", repository=f"answerdotai/ModernBERT-{size}-training-checkpoints"
            ),
            source=MODERNBERT,
        )
        for size, rate in (("base", 8e-4), ("large", 5e-4))
    ),
    *(
        Published(
            name=f"jhu-clsp/mmbert-{size}",
            peak_rate=rate,
            stable=COMPOSER.format(folder="extension", repository="jhu-clsp/mmBERT-checkpoints"),
            source=MMBERT,
        )
        for size, rate in (("base", 8e-4), ("small", 4e-4))
    ),
    *(
        Published(
            name=rf"jhu-clsp/ettin-(encoder|decoder)-{size}",
            peak_rate=SIZE_RECIPES[size].peak_rate,
            stable="its revisions ext{step}, the last of which ends the context extension: NAME@ext{step}",
            source="arXiv 2507.11412 and the names of its revisions",
        )
        for size in PUBLISHED_SIZES
    ),
)

BEFORE_THE_FALL = re.compile(r"(step|ext)-?\d+.*")
"""Revisions that were saved while the rate was still high."""


def published(hub_name: str) -> Published | None:
    """What is known of OWNER/NAME or OWNER/NAME@REVISION; None: nothing."""
    name = hub_name.partition("@")[0].lower()
    return next((entry for entry in PUBLISHED if re.fullmatch(entry.name, name)), None)


def decayed_hint(hub_name: str) -> str:
    """Where better weights to go on from are, for a published model whose rate has fallen to its end; else empty."""
    found, revision = published(hub_name), hub_name.partition("@")[2]
    if found is None or BEFORE_THE_FALL.fullmatch(revision):
        return ""
    return f"the weights from before its learning rate fell go on better; they are {found.stable} ({found.source})"
