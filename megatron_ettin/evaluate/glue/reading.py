"""Examples as a model reads them: ids, cut to the longest text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.evaluate.glue.tasks import Examples

LONGEST = 512
"""Tokens of the longest text, as published; of a longer pair the longer text is cut first, at its end."""

Text = Mapping[str, Sequence[int]]
"""input_ids, and for other makers' encoders whatever else their tokenizer gives."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """From examples to texts."""

    tokenizer: Any
    model_longest: int
    """Tokens of the longest text that the model takes."""
    explicit: bool
    """Texts are [CLS] a [SEP] b [SEP] whatever the tokenizer's own template is: a decoder's has no separator."""

    def read(self, examples: Examples) -> tuple[list[Text], int]:
        """Texts in the order of the examples, and how many were cut to LONGEST.

        Raises DataError for a text that is longer than the model, CheckpointError for a tokenizer without a separator.
        """
        texts = self._explicit(examples) if self.explicit else self._by_template(examples)
        found, cut = [], 0
        for number, (text, length) in enumerate(texts, 1):
            if length > self.model_longest < LONGEST:
                raise DataError(
                    f"{examples.where}, row {number}: the text has {length} tokens, and the model takes "
                    f"{self.model_longest}; remove the row, or evaluate a model that takes {LONGEST}"
                )
            cut += length > LONGEST
            found.append(text)
        return found, cut

    def _explicit(self, examples: Examples) -> list[tuple[Text, int]]:
        tokenizer = self.tokenizer
        begin = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if end is None:
            raise CheckpointError(
                f"{tokenizer.name_or_path}: the tokenizer has neither a separator nor an end of text; name its "
                "sep_token in tokenizer_config.json"
            )
        first = [] if begin is None else [begin]
        columns = [list(texts) for texts in (examples.firsts, examples.seconds) if texts is not None]
        parts = [tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] for texts in columns]
        found: list[tuple[Text, int]] = []
        for pieces in zip(*parts, strict=True):
            specials = len(first) + len(pieces)
            kept = shortened(pieces, LONGEST - specials)
            ids = [*first, *(token for piece in kept for token in (*piece, end))]
            found.append(({"input_ids": ids}, specials + sum(map(len, pieces))))
        return found

    def _by_template(self, examples: Examples) -> list[tuple[Text, int]]:
        pair = [list(texts) for texts in (examples.firsts, examples.seconds) if texts is not None]
        whole = self.tokenizer(*pair, verbose=False)
        cut = self.tokenizer(*pair, truncation=True, max_length=LONGEST)
        names = [name for name in cut if name != "attention_mask"]
        return [
            ({name: cut[name][i] for name in names}, len(whole["input_ids"][i])) for i in range(len(examples.firsts))
        ]


def shortened(pieces: Sequence[Sequence[int]], most: int) -> list[Sequence[int]]:
    """One or two texts with at most ``most`` tokens together: the longer one loses its end first.

    Where both lose theirs the longer one keeps the odd token, as in the tokenizers library.
    """
    if len(pieces) == 1:
        return [pieces[0][:most]]
    first, second = pieces
    if len(first) + len(second) <= most:
        return [first, second]
    half = most // 2 if len(first) <= len(second) else most - most // 2
    kept = min(len(first), max(half, most - len(second)))
    return [first[:kept], second[: most - kept]]
