"""Our exports in transformers' own classes for classification, with the head taken over from the language model."""

import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from megatron_ettin.evaluate.suites.subjects import subject_of
from tests.evaluate.batches import CLS, PAD, SEP

LENGTHS = (5, 31, 2, 18, 47, 9)
"""Shorter and longer than the window of the small model."""


def subject(folder):
    return subject_of("m", str(folder), folder, False)


def texts(lengths=LENGTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        {"input_ids": [CLS, *torch.randint(0, 256, (length,), generator=generator).tolist(), SEP]} for length in lengths
    ]


def theirs(folder, classes):
    """transformers' class in evaluation mode; a decoder's head is moved over, which its own loader leaves random."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=classes, classifier_pooling="cls", dtype=torch.float32
    )
    model.classifier = torch.nn.Linear(model.config.hidden_size, classes)  # a decoder's own has no bias
    for name, tensor in load_file(folder / "model.safetensors").items():
        if name.startswith("lm_head."):
            model.get_parameter(name.removeprefix("lm_")).data.copy_(tensor)
    return model.eval()


def padded(texts, side="right"):
    """(ids, attention mask), padded to the longest on one side."""
    rows = [torch.tensor(text["input_ids"]) for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD, padding_side=side)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side=side)
    return ids, mask


def by_theirs(model, texts, side="right"):
    ids, mask = padded(texts, side)
    return model(input_ids=ids, attention_mask=mask).logits


def write_bert(folder):
    """Another maker's encoder in the place of ours, with our tokenizer."""
    config = BertConfig(
        vocab_size=301, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=96, pad_token_id=PAD,
    )  # fmt: skip
    torch.manual_seed(0)
    (folder / "model.safetensors").unlink()
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def write_gpt2(folder):
    """Another maker's decoder in the place of ours, with our tokenizer."""
    config = GPT2Config(vocab_size=301, n_embd=32, n_layer=2, n_head=2, n_positions=96, pad_token_id=PAD)
    torch.manual_seed(0)
    (folder / "model.safetensors").unlink()
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
