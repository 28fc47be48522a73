"""Packing in plain Python: one piece at a time, by the definition."""

from dataclasses import dataclass

BLOCK_DOCUMENTS = 1 << 17


@dataclass(frozen=True)
class Piece:
    """A part of a document."""

    document: int
    start: int
    length: int


def pieces_of(lengths, text_length):
    """Every document cut every ``text_length`` tokens."""
    return [
        Piece(d, start, min(text_length, n - start))
        for d, n in enumerate(lengths)
        for start in range(0, n, text_length)
    ]


def best_fit_rows(lengths, row_length, piece_length):
    """Best-fit decreasing; ties between rows go to the one that reached its room last."""
    rows, stacks = [], {}
    for piece in sorted(pieces_of(lengths, piece_length - 2), key=lambda p: -p.length):
        size = piece.length + 2
        room = min((r for r, stack in stacks.items() if r >= size and stack), default=None)
        if room is None:
            rows.append([])
            row, room = len(rows) - 1, row_length
        else:
            row = stacks[room].pop()
        rows[row].append(piece)
        stacks.setdefault(room - size, []).append(row)
    return [in_row_order(row) for row in rows]


def in_row_order(placed):
    """Reverse order of placement, except that equal pieces keep document order."""
    return sorted(placed, key=lambda p: p.length)


def concatenated_rows(lengths, row_length, piece_length):
    """Documents one after the other, cut at the end of each row."""
    rows, room = [], 0
    for d, n in enumerate(lengths):
        start = 0
        while start < n:
            if room < 3:
                rows.append([])
                room = row_length
            text = min(n - start, room - 2, piece_length - 2)
            rows[-1].append(Piece(d, start, text))
            start, room = start + text, room - text - 2
    return rows
