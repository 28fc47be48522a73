"""Batches made by hand, as the data side lays them out."""

import numpy as np

from megatron_ettin.batch import Batch

CLS, SEP, PAD, MASK = 258, 259, 260, 261

TEXTS = ([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18], [65, 66], [97, 98, 97, 98, 97])
"""Three documents; the last is cut, so that it does not end."""

CHOSEN = ([2, 7, 12], [], [1, 4])
"""Masked tokens of each, as positions with [CLS] at 0."""


def batch(ids, bounds, positions, labels) -> Batch:
    return Batch(
        input_ids_BT=np.array([ids], dtype=np.int32),
        positions_BT=np.concatenate([np.arange(b - a) for a, b in zip(bounds, bounds[1:], strict=False)])[None].astype(
            np.int32
        ),
        cu_seqlens_S=np.array(bounds, dtype=np.int32),
        label_positions_L=np.array(positions, dtype=np.int32),
        label_ids_L=np.array(labels, dtype=np.int32),
        rows_B=np.zeros(1, dtype=np.int64),
        sources_B=np.zeros(1, dtype=np.int32),
        tokens=len(ids) - 4,
    )


def masked_batch() -> Batch:
    ids, bounds, positions, labels = [], [0], [], []
    for text, chosen in zip(TEXTS, CHOSEN, strict=True):
        piece = [CLS, *text, SEP]
        for position in chosen:
            positions.append(len(ids) + position)
            labels.append(piece[position])
            piece[position] = MASK
        ids += piece
        bounds.append(len(ids))
    return batch([*ids, *[PAD] * 4], [*bounds, len(ids) + 4], positions, labels)


def plain_batch() -> Batch:
    ids, bounds, positions, labels = [], [0], [], []
    for number, text in enumerate(TEXTS):
        cut = number == 2
        piece = [CLS, *text] if cut else [CLS, *text, SEP]
        positions += range(len(ids), len(ids) + len(piece) - 1)
        labels += piece[1:]
        ids += piece
        bounds.append(len(ids))
        if cut:
            ids.append(PAD)
            bounds.append(len(ids))
    return batch([*ids, *[PAD] * 4], [*bounds, len(ids) + 4], positions, labels)
