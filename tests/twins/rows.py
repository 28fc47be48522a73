"""Rows as batches in plain Python, straight from the rules: text, frame, masks, labels, segments."""

from dataclasses import dataclass, field

from megatron_ettin.config.objective import OBJECTIVES
from tests.twins.corpus_writer import SPECIAL_IDS, VOCABULARY
from tests.twins.randomness import row_draw, stream_words

CHOICE, REPLACEMENT, KIND = 3, 4, 9


@dataclass
class Rows:
    """What a batch holds, as lists."""

    input_ids: list = field(default_factory=list)
    positions: list = field(default_factory=list)
    segments: list = field(default_factory=lambda: [0])
    labels: list = field(default_factory=list)
    tokens: int = 0


def assemble(rows, documents, row_length, objective, data, stage, source=0, shares=None):
    """``rows``: (row number, pass, pieces) for each row; ``data`` has seed and shares, ``shares`` one a row."""
    out = Rows()
    for (number, pass_number, pieces), share in zip(rows, shares or [data.mask_share] * len(rows), strict=True):
        kind = kind_of_row(number, pass_number, objective, data, stage, source)
        add_row(out, number, pass_number, pieces, documents, row_length, kind, data, stage, source, share)
    return out


def kind_of_row(number, pass_number, objective, data, stage, source):
    """The objective of a row: drawn, where there are two kinds."""
    if not objective.row_kinds:
        return objective
    key = stream_words(data.seed, KIND, stage, source)[:2]
    masked, following = objective.row_kinds
    return OBJECTIVES[following if row_draw(key, number, pass_number, 0) / 2**32 < data.causal_share else masked]


def add_row(out, number, pass_number, pieces, documents, row_length, objective, data, stage, source, share):
    base, row, text_tokens = len(out.input_ids), [], []
    for piece in pieces:
        document = documents[piece.document]
        ends = objective.always_ends or piece.start + piece.length == len(document)
        first = len(row)
        text = document[piece.start : piece.start + piece.length]
        row += [SPECIAL_IDS["[CLS]"], *text, SPECIAL_IDS["[SEP]" if ends else "[PAD]"]]
        text_tokens += range(first + 1, first + 1 + len(text))
        if not objective.masked:
            targets = range(first + 1, len(row) if ends else len(row) - 1)
            out.labels += [(base + i - 1, row[i]) for i in targets]
        out.positions += range(len(text) + 1)
        out.positions.append(len(text) + 1 if ends else 0)
        if not ends:
            out.segments.append(base + len(row) - 1)
        out.segments.append(base + len(row))
    out.tokens += len(row)
    if len(row) < row_length:
        out.positions += range(row_length - len(row))
        out.segments.append(base + row_length)
        row += [SPECIAL_IDS["[PAD]"]] * (row_length - len(row))
    if objective.masked:
        mask(out, base, row, text_tokens, number, pass_number, objective, data, stage, source, share)
    out.input_ids += row


def mask(out, base, row, text_tokens, number, pass_number, objective, data, stage, source, share):
    choice = stream_words(data.seed, CHOICE, stage, source)[:2]
    replacement = stream_words(data.seed, REPLACEMENT, stage, source)[:2]
    protected = set(SPECIAL_IDS.values())
    for token in text_tokens:
        draw = row_draw(choice, number, pass_number, token) / 2**32
        if draw >= share or row[token] in protected:
            continue
        out.labels.append((base + token + objective.label_offset, row[token]))
        if draw < share * data.mask_token_share:
            row[token] = SPECIAL_IDS["[MASK]"]
        elif draw < share * (data.mask_token_share + data.random_token_share):
            row[token] = row_draw(replacement, number, pass_number, token) * VOCABULARY >> 32
