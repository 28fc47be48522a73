"""The paired model: encoder and decoder are this one class, and differ only in what each layer sees.

    hidden = norm(embedding[ids])
    for each layer:
        hidden = hidden + drop(attention(norm(hidden)))        (layer 0 skips this norm)
        hidden = hidden + mlp(norm(hidden))
    hidden = norm(hidden) at the positions with a label; an encoder's last layer computes no more than these need
    logits = embedding @ norm(gelu(dense(hidden))) + bias

A pipeline stage is an EttinModel with some of these lines.
"""

# T tokens of this rank, H hidden, V vocabulary rows of this tensor rank, L labels of this rank

from __future__ import annotations

import megatron_ettin.parallel.megatron  # noqa: F401

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as functional
from megatron.core.enums import ModelType
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, VocabParallelEmbedding
from megatron.core.tensor_parallel.mappings import gather_from_sequence_parallel_region
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlock, TransformerBlockSubmodules
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor

from megatron_ettin.config.run import ModelConfig
from megatron_ettin.kernels import products
from megatron_ettin.kernels.kind import KernelKind
from megatron_ettin.kernels.linear import linear
from megatron_ettin.kernels.lookup import look_up
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.logits import VocabularyShard
from megatron_ettin.model.loss import gradient_buffer, vocabulary_loss
from megatron_ettin.model.norm import Norm
from megatron_ettin.model.packed import PackedRows
from megatron_ettin.parallel.groups import Axis, Groups


class WordEmbedding(VocabParallelEmbedding):  # type: ignore[misc]
    """Megatron-Core's embedding, whose gradient goes straight into the weight's buffer where it has one to itself.

    `shared`: the vocabulary projection of the same pipeline stage has the same weight.
    """

    def __init__(self, axis: Axis, shared: bool, **options: Any) -> None:
        super().__init__(**options)
        self.axis, self.shared = axis, shared

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the weight; the shape of the ids and one axis more."""
        buffer_VH = gradient_buffer(self.weight, self.axis)
        if buffer_VH is None or not (torch.is_grad_enabled() and self.weight.requires_grad):
            rows: Tensor = super().forward(ids)
            return rows
        return look_up(ids.reshape(-1), self.weight, buffer_VH, self.shared).view(*ids.shape, -1)


class Embedding(torch.nn.Module):
    """Token embedding, its rows shared among the tensor ranks, and the norm behind it."""

    def __init__(self, config: TransformerConfig, rows: int, groups: Groups, *, shared: bool) -> None:
        super().__init__()
        self.along_sequence = config.sequence_parallel
        self.word_embeddings = WordEmbedding(
            groups.tensor,
            shared,
            num_embeddings=rows,
            embedding_dim=config.hidden_size,
            init_method=torch.nn.init.zeros_,
            reduce_scatter_embeddings=config.sequence_parallel,
            config=config,
            tp_group=groups.tensor.group,
        )
        self.norm = Norm(config, config.hidden_size, config.layernorm_epsilon)

    def forward(self, ids_T: Tensor) -> Tensor:
        """Hidden states [T, 1, H]; under sequence parallelism this tensor rank's share of T."""
        ids = ids_T[None] if self.along_sequence else ids_T[:, None]
        hidden: Tensor = self.norm(self.word_embeddings(ids))
        return hidden


class Dense(torch.nn.Linear):
    """A product without bias by own products, its weight's gradient straight into the buffer where there is one."""

    def forward(self, input: Tensor) -> Tensor:
        """[L, K] -> [L, N]."""
        return linear(input, self.weight, None, products.fills_buffers(input.device), False, False)


class Head(torch.nn.Module):
    """What turns a hidden state into the query of the vocabulary: dense, GELU, norm. Alike on all tensor ranks."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = Dense(
            config.hidden_size,
            config.hidden_size,
            bias=False,
            device=torch.cuda.current_device(),
            dtype=config.params_dtype,
        )
        self.norm = Norm(config, config.hidden_size, config.layernorm_epsilon, along_sequence=False)

    def forward(self, hidden_LH: Tensor) -> Tensor:
        """Same shape as the input."""
        query: Tensor = self.norm(functional.gelu(self.dense(hidden_LH)))
        return query


class VocabularyProjection(ColumnParallelLinear):  # type: ignore[misc]
    """The tied embedding as output matrix, with a bias; its rows are shared among the tensor ranks.

    On a pipeline stage without the embedding it holds a second copy of the weight, whose gradient Megatron-Core adds to
    the first. Padding rows of the vocabulary never take part.
    """

    def __init__(
        self,
        *,
        config: TransformerConfig,
        groups: Groups,
        vocabulary: int,
        rows: int,
        owns_weight: bool,
        loss_chunk: int,
        kernels: KernelKind,
        keeps_logits: bool,
    ) -> None:
        super().__init__(
            config.hidden_size,
            rows,
            config=config,
            init_method=torch.nn.init.zeros_,
            bias=True,
            skip_weight_param_allocation=not owns_weight,
            tp_group=groups.tensor.group,
        )
        local = self.output_size_per_partition
        self.shard = VocabularyShard(
            groups.tensor, groups.tensor.rank * local, kernels=kernels, keeps_logits=keeps_logits
        )
        self.rows = max(0, min(local, vocabulary - self.shard.first_row))
        self.loss_chunk = loss_chunk

    def forward(self, query_LH: Tensor, weight_VH: Tensor, label_ids_L: Tensor | None = None) -> Tensor:
        """The loss of each label [L]; without labels this tensor rank's logits [L, V]."""
        bias_V: Tensor = self.bias
        buffer_VH = None if label_ids_L is None else gradient_buffer(weight_VH, self.shard.axis)
        if self.rows < weight_VH.shape[0]:
            bias_V = bias_V[: self.rows]
            weight_VH = weight_VH if buffer_VH is not None else weight_VH[: self.rows]
        if label_ids_L is None:
            return functional.linear(query_LH, weight_VH, bias_V)
        return vocabulary_loss(query_LH, weight_VH, bias_V, label_ids_L, self.shard, self.loss_chunk, buffer_VH)


class EttinModel(LanguageModule):  # type: ignore[misc]
    """One pipeline stage of the paired model; all of it without a pipeline."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        model: ModelConfig,
        groups: Groups,
        layers: Sequence[ModuleSpec],
        first: bool,
        last: bool,
        narrows: bool,
        virtual_stage: int | None,
        padded_vocabulary: int,
        loss_chunk: int,
        kernels: KernelKind,
        keeps_logits: bool,
    ) -> None:
        super().__init__(config=config, pg_collection=groups.collection)
        self.model_type = ModelType.encoder_or_decoder
        self.model, self.groups = model, groups
        self.vp_stage = virtual_stage
        self.pre_process, self.post_process = first, last
        self.narrows = narrows
        self.share_embeddings_and_output_weights = True
        if first:
            self.embedding = Embedding(config, padded_vocabulary, groups, shared=last)
        self.decoder = TransformerBlock(
            config=config,
            spec=TransformerBlockSubmodules(layer_specs=list(layers), layer_norm=Norm),
            pre_process=first,
            post_process=last,
            pg_collection=groups.collection,
            vp_stage=virtual_stage,
        )
        if last:
            self.head = Head(config)
            self.output_layer = VocabularyProjection(
                config=config,
                groups=groups,
                vocabulary=model.vocabulary,
                rows=padded_vocabulary,
                owns_weight=not first,
                loss_chunk=loss_chunk,
                kernels=kernels,
                keeps_logits=keeps_logits,
            )
        if first or last:
            self.setup_embeddings_and_output_layer()

    def set_input_tensor(self, input_tensor: Tensor | list[Tensor]) -> None:
        """Take the previous pipeline stage's output; Megatron-Core's schedules call it."""
        self.decoder.set_input_tensor(input_tensor[0] if isinstance(input_tensor, list) else input_tensor)

    def forward(self, batch: DeviceBatch) -> Tensor:
        """The loss of each label in fp32, [L], on the last pipeline stage; else hidden states [T, 1, H] to pass on."""
        if not self.post_process:
            return self.hidden(batch)
        loss_L: Tensor = self.output_layer(
            self.query(batch), self.shared_embedding_or_output_weight(), batch.label_ids_L
        )
        return loss_L

    def hidden(self, batch: DeviceBatch) -> Tensor:
        """Hidden states behind this pipeline stage's last line, final norm included on the last one, [T, 1, H]."""
        return self._through_layers(batch, replace(batch.packed, wanted=None))

    def _through_layers(self, batch: DeviceBatch, packed: PackedRows) -> Tensor:
        embedded = self.embedding(batch.input_ids_T) if self.pre_process else None
        if embedded is not None and self.config.recompute_granularity and torch.is_grad_enabled():
            embedded.requires_grad_()  # behind frozen embeddings too: layers that are computed again learn only so
        hidden: Tensor = self.decoder(hidden_states=embedded, attention_mask=None, packed_seq_params=packed)
        return hidden

    def query(self, batch: DeviceBatch, positions_L: Tensor | None = None) -> Tensor:
        """The head's output at the labels, or at the given positions, [L, H]. Last pipeline stage only."""
        if positions_L is None and self.narrows and batch.labels:  # kernels are not asked for no query at all
            hidden_LH = self._through_layers(batch, batch.packed)[:, 0]
        else:
            positions_L = batch.label_positions_L if positions_L is None else positions_L
            hidden_TH = self.hidden(batch)
            if self.config.sequence_parallel:  # the tensor ranks share the tokens
                hidden_TH = gather_from_sequence_parallel_region(
                    hidden_TH, tensor_parallel_output_grad=False, group=self.groups.tensor.group
                )
            hidden_LH = hidden_TH[:, 0].index_select(0, positions_L)
        query_LH: Tensor = self.head(hidden_LH)
        return query_LH

    def logits(self, batch: DeviceBatch, positions_L: Tensor | None = None) -> Tensor:
        """This tensor rank's logits [L, V] at the labels, or at the given positions. Last pipeline stage only."""
        logits_LV: Tensor = self.output_layer(self.query(batch, positions_L), self.shared_embedding_or_output_weight())
        return logits_LV
