"""Texts are read as the encoder's template has them, for both kinds, and cut as the tokenizers library cuts."""

import numpy as np
import pytest

from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.evaluate.glue.reading import LONGEST, Reader, shortened
from megatron_ettin.evaluate.glue.tasks import Examples
from megatron_ettin.evaluate.suites.tokenizers import tokenizer_of
from tests.evaluate.batches import CLS, SEP
from tests.evaluate.glue.models import subject, write_bert


def examples(*pairs):
    firsts, seconds = zip(*pairs, strict=True)
    return Examples(
        firsts=firsts, seconds=None if seconds[0] is None else seconds, labels_N=np.zeros(len(pairs)), where="file"
    )


def reader(folder, longest=LONGEST, explicit=True):
    return Reader(tokenizer=tokenizer_of(subject(folder)), model_longest=longest, explicit=explicit)


PAIRS = (("a red cup", "blue"), ("x" * 700, "y" * 90), ("x" * 90, "y" * 700), ("x" * 600, "y" * 601), ("", "b"),
         ("x" * 601, "y" * 600), ("x" * 600, "y" * 600), ("x" * 254, "y" * 300), ("x" * 300, "y" * 255))  # fmt: skip


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_pairs_have_a_separator_for_both_kinds_and_are_cut_as_the_encoder_tokenizer_cuts(objective, make_folder):
    found, cut = reader(make_folder(objective)).read(examples(*PAIRS))
    encoder = tokenizer_of(subject(make_folder("mlm", name="encoder")))
    for text, pair in zip(found, PAIRS, strict=True):
        expected = encoder(*pair, truncation=True, max_length=LONGEST)["input_ids"]
        assert text["input_ids"] == expected
    assert cut == 7
    assert found[0]["input_ids"].count(SEP) == 2 and found[0]["input_ids"][0] == CLS


def test_single_texts_have_one_separator(make_folder):
    (text,), cut = reader(make_folder("clm")).read(examples(("ab", None)))
    assert text["input_ids"][0] == CLS and text["input_ids"][-1] == SEP and len(text["input_ids"]) == 4 and not cut
    assert len(shortened([range(9)], 4)[0]) == 4


def test_other_encoders_are_read_by_their_own_template(make_folder):
    folder = write_bert(make_folder("mlm"))
    (text,), _ = reader(folder, explicit=False).read(examples(("ab", "c")))
    tokenizer = tokenizer_of(subject(folder))
    assert text["input_ids"] == tokenizer("ab", "c")["input_ids"]


def test_a_text_longer_than_the_model_is_named(make_folder):
    with pytest.raises(DataError, match="file, row 2: the text has 23 tokens, and the model takes 20; remove the row"):
        reader(make_folder("mlm"), longest=20).read(examples(("ab", "c"), ("x" * 10, "y" * 10)))


def test_a_tokenizer_without_an_end_is_refused(make_folder):
    one = reader(make_folder("clm"))
    one.tokenizer.sep_token = one.tokenizer.eos_token = None
    with pytest.raises(CheckpointError, match="neither a separator nor an end of text"):
        one.read(examples(("a", None)))
