"""A run as one frozen value. Every field is a fact with a sentence; derived values are properties elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megatron_ettin.config.objective import ObjectiveName

StageName = Literal["pretrain", "extension", "decay", "cross"]
VariantName = Literal["paper", "released"]
SPECIALS_PER_PIECE = 2
"""Positions of a piece that hold no text: [CLS] and the end position."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a model and how it starts. Encoder and decoder share it."""

    size: str
    """Name of the shape: 17m 32m 68m 150m 400m 1b, tiny, or the name in a TOML file."""
    layers: int
    """Transformer layers."""
    hidden: int
    """Width of the residual stream."""
    intermediate: int
    """Width of one half of the gated MLP."""
    heads: int
    """Attention heads; the head size is hidden / heads."""
    vocabulary: int = 50_368
    """Length of the tokenizer, padded to a multiple of 64 while training; 0: taken from the tokenizer of the data."""
    global_every: int = 3
    """Layers 0, n, 2n, ... attend to the whole piece; the others to a window."""
    window: int = 64
    """Keys that a local encoder layer sees on each side of a token."""
    causal_window: int = 63
    """Keys that a local decoder layer sees to the left of a token."""
    rope_base_global: float = 10_000.0
    """Rotary base of the global layers."""
    rope_base_local: float = 10_000.0
    """Rotary base of the local layers."""
    maximum_length: int = 7_999
    """Longest piece that the exported model promises to handle, specials included."""
    norm_epsilon: float = 1e-5
    """Epsilon of every LayerNorm."""
    initial_std: float = 0.02
    """Standard deviation of the truncated normal start; output projections divide it by sqrt(2 layers)."""
    initial_cutoff: float = 2.0
    """The start distribution is cut at this many standard deviations."""
    output_dropout: float = 0.1
    """Dropout on the attention output; nothing else is dropped."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which text is read, and how it becomes rows and labels."""

    data: str = ""
    """A mixture file (.json) or the prefix of one corpus."""
    row_length: int = 1_024
    """Tokens per row, after packing."""
    piece_length: int = 1_024
    """Longest piece of a document, [CLS] and end position included."""
    packing: Literal["best_fit", "concatenate"] = "best_fit"
    """Best-fit rows of whole pieces, or cut-anywhere rows as Megatron's GPTDataset makes them (for comparison)."""
    mask_share: float = 0.30
    """Share of the text tokens that a masked objective chooses."""
    mask_share_end: float = 0.0
    """Share at the end of the stage, which mask_share goes to evenly from row to row; 0: mask_share all along. Held-out
    text is always masked by mask_share."""
    causal_share: float = 0.5
    """Share of the rows that a mixed objective trains on next tokens, with attention to the left; the others are
    masked."""
    mask_token_share: float = 0.8
    """Share of the chosen tokens that become [MASK]."""
    random_token_share: float = 0.1
    """Share of the chosen tokens that become a random id; the rest stays."""
    held_out_share: float = 0.001
    """Share of the documents, by hash of their ids, that training never sees."""
    seed: int = 21
    """Key of the order and of the masks."""
    temperature: float = 1.0
    """Power to which the weights of the mixture are raised; below 1 small sources are read more often than their weight
    says."""
    stage_number: int = -1
    """Number of the stage in the keys of order, masks and dropout; -1: that of the recipe's stage. A plan numbers a
    further stage of one kind, so that it reads the rows in another order and under other masks."""
    first_row: int = 0
    """Row of the order with which the first step begins; above 0 where a stage carries on the order of another."""
    index_folder: str = ""
    """Where pack indexes and text hashes are kept; by default beside their corpus."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Length of the stage and its learning rate, as functions of the tokens seen in the stage."""

    tokens: int
    """The stage ends with the first step that reaches this many tokens."""
    peak_rate: float
    """Learning rate at factor 1; weight decay is scaled by rate / peak_rate."""
    shape: Literal["warmup_stable", "one_minus_sqrt", "trapezoid"] = "warmup_stable"
    """warmup_stable: up, then flat. one_minus_sqrt: down over the whole stage. trapezoid: up, flat, linear down."""
    warmup_tokens: int = 0
    """Tokens of the linear rise from 0."""
    decay_tokens: int = 0
    """Tokens of the final linear fall (trapezoid)."""
    end_factor: float = 1.0
    """Factor of peak_rate at the end of the stage."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig:
    """Rows per optimizer step."""

    rows: int = 2_816
    """Rows of a full step."""
    warmup_tokens: int = 0
    """Token budget over which the rows per step grow; 0: constant from the start."""
    warmup_increment: int = 32
    """Rows per step start at this and grow by this; equal numbers of steps at each size."""


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """StableAdamW."""

    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.98
    """Decay of the second moment."""
    epsilon: float = 1e-6
    """Added to the root of the second moment."""
    weight_decay: float = 1e-5
    """Fully decoupled decay per step at peak rate; none on tensors of fewer than 2 dimensions."""
    freeze: tuple[str, ...] = ()
    """Parts whose weights stay as they are: ranges of layers from 0, such as 0-11 or 3, and embeddings, which are the
    vocabulary matrix too."""


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What becomes of a step whose loss or gradient stands out from the accepted steps before it, before its update.

    A loss or gradient that is not finite never updates anything, whatever is set here.
    """

    on_spike: Literal["report", "skip", "stop", "rewind"] = "report"
    """report: update and say so. skip: refuse the update. stop: end the run. rewind: go back to a checkpoint and refuse
    the updates of the steps that led to the spike."""
    loss_factor: float = 3.0
    """The loss is a spike above this many times the median; 3 is past what healthy batches of one mixture reach. Before
    there is a median, the loss of guessing among the vocabulary stands for it."""
    gradient_factor: float = 10.0
    """The gradient norm is a spike above this many times the median; norms of healthy steps differ by 2 to 4 times."""
    window: int = 64
    """Accepted steps that a median is taken over."""
    after: int = 32
    """Accepted steps before there is a median: the norm falls fast while the first ones are taken."""
    rewind_steps: int = 16
    """rewind: steps up to and with the spike whose updates are refused the second time."""


@dataclass(frozen=True, kw_only=True)
class LayoutConfig:
    """How ranks share the work. It never changes the result beyond rounding."""

    tensor: int = 1
    """Ranks that share each matrix."""
    pipeline: int = 1
    """Ranks that share the layers."""
    virtual_pipeline: int = 1
    """Interleaved chunks of layers per pipeline rank; 1: plain 1F1B."""
    context: int = 1
    """Ranks that share each row."""
    data: int = 0
    """Ranks that share each step's rows, any number; 0: what the world size leaves."""
    sequence_parallel: bool = False
    """Share norms and dropout along the sequence among the tensor ranks."""
    micro_batch_rows: int = 1
    """Rows of one forward and backward pass on one data rank; fewer in a growing batch where that leaves fewer rows to
    the busiest rank. It divides batch.rows."""
    fit_micro_batch: bool = True
    """On a GPU take as many rows as fit into its memory instead; off where --layout.micro-batch-rows is given."""
    pipeline_layers: tuple[int, ...] = ()
    """Layers of each (virtual) pipeline stage in order; empty: balanced by cost with the head counted."""
    recompute: Literal["none", "full"] = "none"
    """full: keep only layer inputs and compute each layer again in the backward pass."""
    overlap: bool = False
    """Reduce gradients and gather weights among data ranks while passes compute."""
    choose_overlap: bool = True
    """Do so on GPUs, unless parts are frozen; off where --layout.overlap or --layout.no-overlap is given."""


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Precision and kernels."""

    precision: Literal["fp32", "bf16", "fp8"] = "bf16"
    """fp32; bf16 with fp32 main weights and gradient accumulation; linear layers in fp8 and the rest as in bf16."""
    fp8_recipe: Literal["delayed", "current", "blocks"] = "current"
    """What scales fp8 numbers: the largest of earlier steps, that of the tensor itself, or those of blocks of it."""
    fp8_ends_in_bf16: bool = True
    """Keep the first and the last layer in bf16 where the others are in fp8."""
    fp8_kernels: Literal["auto", "te", "torch"] = "auto"
    """What computes linear layers in fp8: NVIDIA's Transformer Engine, or torch's scaled product, for recipe current
    alone. auto: the first where it is installed."""
    attention: Literal["auto", "native", "sdpa", "varlen", "flash", "te"] = "auto"
    """Attention back end; auto chooses per layer and prints each choice with its reason."""
    loss_chunk_bytes: int = 0
    """Upper bound of the logits in fp32 held at once; 0: on a CPU all below 1 GiB, else 256 MiB; on a GPU 1 GiB."""
    kernels: Literal["auto", "torch"] = "auto"
    """What computes pointwise parts on a GPU (gated GELU, rotary embedding, residual sum with dropout and norm, passes
    over logits) and the optimizer. auto: this software's own, in Triton, where it is installed; torch: torch's."""
    compile: bool = False
    """torch.compile the pointwise parts, and on a GPU the optimizer's, where no own kernel computes them."""
    deterministic: bool = False
    """On a GPU: kernels that give the same bits every time, slower ones where it must be, and an error where there is
    none. A CPU has no others."""
    threads: int = 0
    """CPU threads per rank; 0: what the environment says, which under torchrun is OMP_NUM_THREADS or 1."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every_tokens: int = 8_500_000_000
    """Save each time this many tokens have passed; 0: only at the end."""
    every_steps: int = 0
    """Save each so many steps; 0: never."""
    every_minutes: float = 30.0
    """Save when this much time has passed since the last save; 0: never."""
    keep: int = 2
    """Newest checkpoints to keep of those saved by the clock or a signal; 0: all. Those by tokens, by steps and at the
    end are always kept."""
    background: bool = False
    """Copy the tensors to host memory and go on while they are written; at a signal and at the end they are waited for.
    Takes as much host memory as a checkpoint takes on the disk, shared by the ranks."""


@dataclass(frozen=True, kw_only=True)
class ObserveConfig:
    """What is written while training."""

    log_every: int = 10
    """Steps between console lines; metrics.jsonl has every step."""
    evaluate_every: int = 0
    """Steps between held-out evaluations; 0: only at the end of the stage."""
    evaluate_rows: int = 64
    """Held-out rows of one evaluation."""
    evaluate_start: bool = False
    """Evaluate before the first step as well."""
    remember: str = ""
    """A corpus prefix or mixture file of text that the weights have learned before. Its held-out loss is recorded
    beside that of the data, so that forgetting is seen; empty: none."""
    fp8_every: int = 0
    """Steps between records of the largest numbers of each layer's products, and of the share that fp8 makes 0, also in
    a run in bf16; 0: never."""
    tensorboard: bool = True
    """Write TensorBoard event files."""
    wandb: str = ""
    """Weights & Biases project to report to as well; empty: none."""
    hang_minutes: float = 10.0
    """Without a step, a save or an evaluation for this long all ranks say where they are and end; 0: never."""


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where the weights come from."""

    from_run: str = ""
    """RUN or RUN@step: continue from a checkpoint of another stage."""
    huggingface: str = ""
    """A Hugging Face ModernBERT or Ettin folder to start from (safetensors only)."""
    carry_optimizer: bool = False
    """Take over the optimizer's state from from_run as well."""
    planned: bool = False
    """A plan says what this stage goes on from: pretraining may go on from another run, and any stage with another
    objective."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

    objective: ObjectiveName
    """What is predicted."""
    stage: StageName
    """Which part of the recipe this is."""
    variant: VariantName = "paper"
    """Follow the paper, or what the published artifacts show."""
    model: ModelConfig
    schedule: ScheduleConfig
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    observe: ObserveConfig = field(default_factory=ObserveConfig)
    start: StartConfig = field(default_factory=StartConfig)
    seed: int = 21
    """Key of the initial weights and of dropout."""
