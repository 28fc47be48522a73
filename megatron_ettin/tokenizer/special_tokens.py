"""The special tokens of Ettin, and what each of them is for."""

from __future__ import annotations

UNKNOWN, CLS, SEP, PAD, MASK, END_OF_TEXT = "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "<|endoftext|>"
SPECIAL_TOKENS = (UNKNOWN, CLS, SEP, PAD, MASK, END_OF_TEXT)
"""In the order of their ids in a tokenizer of `ettin tokenizer train`."""
ROW_TOKENS = (CLS, SEP, PAD, MASK)
"""Those that rows and masks need."""
ROLES = {
    "bos_token": CLS, "eos_token": SEP, "cls_token": CLS, "sep_token": SEP, "pad_token": PAD, "mask_token": MASK,
    "unk_token": UNKNOWN,
}  # fmt: skip
"""Role in transformers -> token; the decoder's end of text is [SEP] too."""
