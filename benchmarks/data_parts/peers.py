"""What others do, for comparison in the same run."""

from __future__ import annotations

import bisect

import numpy as np

SPECIALS = 2


def pieces_of(lengths: np.ndarray, piece_length: int) -> list[int]:
    """Sizes of the pieces of some documents, specials included."""
    text = piece_length - SPECIALS
    sizes = []
    for length in lengths.tolist():
        full, rest = divmod(length, text)
        sizes += [piece_length] * full
        if rest:
            sizes.append(rest + SPECIALS)
    return sizes


def greedy_best_fit(sizes: list[int], row_length: int, batch_rows: int = 64, buffer_factor: int = 5) -> float:
    """ModernBERT's online packer in plain Python: a buffer of some batches, each piece into the fullest row that fits.

    Returns the share of the positions that are filled, the last batches apart, when the buffer runs dry. Pieces that
    fit no row of the batch wait for the next one.
    """
    source, waiting, rows, used = iter(sizes), [], 0, 0
    pieces_a_row = row_length * len(sizes) // sum(sizes) + 1
    buffer_size = batch_rows * buffer_factor * pieces_a_row
    while True:
        while len(waiting) < buffer_size and (size := next(source, 0)):
            waiting.append(size)
        if len(waiting) < buffer_size:
            return used / (rows * row_length)
        spaces, left = [row_length] * batch_rows, []
        for size in waiting:
            place = bisect.bisect_left(spaces, size)
            if place == batch_rows:
                left.append(size)
            else:
                bisect.insort(spaces, spaces.pop(place) - size)
        rows += batch_rows
        used += batch_rows * row_length - sum(spaces)
        waiting = left


def best_fit_decreasing(sizes: list[int], row_length: int) -> int:
    """Offline best-fit decreasing in plain Python; returns the number of rows."""
    spaces: list[int] = []
    rows = 0
    for size in sorted(sizes, reverse=True):
        place = bisect.bisect_left(spaces, size)
        if place == len(spaces):
            rows += 1
            space = row_length
        else:
            space = spaces.pop(place)
        if space - size > SPECIALS:
            bisect.insort(spaces, space - size)
    return rows


def mask_numpy(rows: np.ndarray, mask_id: int, vocabulary: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Masking as a vectorised collator does it, labels in index form."""
    draw = rng.random(rows.shape, dtype=np.float32)
    chosen = draw < share
    positions = np.flatnonzero(chosen)
    labels = rows.reshape(-1)[positions]
    kinds = draw.reshape(-1)[positions] / share
    flat = rows.reshape(-1)
    flat[positions[kinds < 0.8]] = mask_id
    random = positions[(kinds >= 0.8) & (kinds < 0.9)]
    flat[random] = rng.integers(0, vocabulary, len(random), dtype=np.int32)
    return labels


def mask_huggingface(inputs, mask_id: int, vocabulary: int, share: float, special_ids):  # noqa: ANN001, ANN201
    """The algorithm of DataCollatorForLanguageModeling on tensors: three draws a token, labels of full shape."""
    import torch

    labels = inputs.clone()
    probability = torch.full(labels.shape, share)
    special = torch.isin(labels, special_ids)
    probability.masked_fill_(special, value=0.0)
    chosen = torch.bernoulli(probability).bool()
    labels[~chosen] = -100
    replaced = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & chosen
    inputs[replaced] = mask_id
    random = torch.bernoulli(torch.full(labels.shape, 0.5)).bool() & chosen & ~replaced
    words = torch.randint(vocabulary, labels.shape, dtype=inputs.dtype)
    inputs[random] = words[random]
    return inputs, labels


class RowDataset:
    """The same rows for torch's DataLoader: each item reads its pieces from memory maps and is masked by numpy."""

    def __init__(self, prefix: str, row_length: int, rows: np.ndarray) -> None:
        from benchmarks.data_parts.runs import run_on
        from megatron_ettin.rows.run_data import open_data

        self.stage = open_data(run_on(prefix, row_length))
        self.row_length, self.rows = row_length, rows
        self.special_ids = self.stage.special_ids

    def __len__(self) -> int:
        return len(self.rows)

    def text(self, row: int) -> tuple[np.ndarray, np.ndarray, int]:
        """The row before masking, its positions, and its tokens."""
        ids = np.full(self.row_length, self.special_ids["[PAD]"], np.int32)
        positions = np.zeros(self.row_length, np.int32)
        at = 0
        for document, start, length in self.stage.packs[0].native.row(row):
            ids[at] = self.special_ids["[CLS]"]
            ids[at + 1 : at + 1 + length] = self.stage.corpora[0].document(document)[start : start + length]
            ids[at + 1 + length] = self.special_ids["[SEP]"]
            positions[at : at + length + 2] = np.arange(length + 2)
            at += length + 2
        positions[at:] = np.arange(self.row_length - at)
        return ids, positions, at

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        ids, positions, tokens = self.text(int(self.rows[index]))
        labels = np.full(self.row_length, -100, np.int32)
        draw = np.random.random(self.row_length)
        chosen = (draw < 0.3) & (ids < 50_280)
        labels[chosen] = ids[chosen]
        ids[chosen & (draw < 0.24)] = self.special_ids["[MASK]"]
        random = chosen & (draw >= 0.24) & (draw < 0.27)
        ids[random] = np.random.randint(0, 50_368, int(random.sum()))
        return {"ids": ids, "positions": positions, "labels": labels, "tokens": np.array(tokens)}
