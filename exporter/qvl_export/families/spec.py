"""Model specifications: the sizes and choices that `graph/` builds from, independent of `model_type`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qvl_runtime.manifest import BoxNotation, ImageGeometry, ImageTokens, Tokens, VideoTiming
from qvl_runtime.prompts.timestamps import VISION_BLOCK

Norm = Literal["layer", "rms"]
Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "silu"]
THOUSANDTHS = BoxNotation(syntax="json", unit="thousandth")
"""The boxes of Qwen3-VL and its successors: JSON, in thousandths of the image's sides."""


@dataclass(frozen=True)
class ResamplerSpec:
    """Learned queries that attend to all patches of an image and become image tokens (arXiv 2308.12966, §2.1)."""

    queries: int
    num_heads: int


@dataclass(frozen=True)
class VisionSpec:
    """A vision tower; `gated` MLPs are gate/up/down, other MLPs are two linears, with names `fc` plus 1 or 2.

    Blocks outside `full_attention_blocks` attend within the windows of the image geometry. If `position_table` is not
    0, patches get learned positions from a table of that side. The output of each of `deepstack_blocks` is merged into
    image features for the first layers of the language model (DeepStack, arXiv 2406.04334). If `patches` is not 0,
    every image has that many patches, each with a learned position and a norm before the first block; the tower then
    has no rotary positions. A `resampler` replaces the merging of neighboring patches into image tokens.
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_dim: int
    out_hidden_size: int
    spatial_merge_size: int
    norm: Norm
    activation: Activation
    gated: bool
    full_attention_blocks: frozenset[int]
    fc: Literal["fc", "linear_fc"] = "fc"
    patch_bias: bool = False
    position_table: int = 0
    deepstack_blocks: tuple[int, ...] = ()
    patches: int = 0
    resampler: ResamplerSpec | None = None
    rope_theta: float = 10000.0
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def rotary(self) -> bool:
        """Whether queries and keys have rotary embeddings of rows and columns."""
        return not self.patches


@dataclass(frozen=True)
class MoeSpec:
    """Experts: gated MLPs in all layers except `dense_layers`; each token uses `experts_per_token` of them.

    If `shared_size` is not 0, every token also uses a shared gated MLP of that inner size, times the sigmoid of a gate.
    """

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    dense_layers: frozenset[int]
    shared_size: int = 0


@dataclass(frozen=True)
class LinearAttentionSpec:
    """Gated DeltaNet (arXiv 2412.06464) instead of attention in some `layers`.

    Each of `key_heads` serves consecutive ones of `value_heads`; `kernel` is the size of the causal convolution.
    """

    layers: frozenset[int]
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int

    @property
    def channels(self) -> int:
        """Queries, keys and values of a token, which the convolution runs over."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim


@dataclass(frozen=True)
class Yarn:
    """RoPE frequencies for prompts longer than the model was trained on (YaRN, arXiv 2309.00071).

    Frequencies with fewer than `beta_slow` turns within `original_length` positions are divided by `factor`; those
    with more than `beta_fast` turns are kept. cos and sin are multiplied by `attention_factor`.
    """

    factor: float
    original_length: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


@dataclass(frozen=True)
class TextSpec:
    """A language model: pre-norm decoder layers with grouped-query attention and M-RoPE.

    `mrope_section` holds the numbers of frequencies for time, row and column positions, in consecutive ranges or
    interleaved. `qk_norm` is an RMSNorm of each head's query and key. The first `deepstack_layers` layers add their own
    image features. `rotation_seed` is the seed of the orthogonal matrix that multiplies hidden states (see
    `qvl_runtime.rotation`), or None without rotation. Prompts longer than `ntk_length` use a larger RoPE base
    (`qvl_runtime.positions.ntk_alpha`). Queries beyond position `logn_length` are multiplied by the logarithm of their
    position to that base. 0 disables either. `rotary_dim` is the rotated part of a head (0: all of it). With
    `output_gate`, attention is multiplied by the sigmoid of a gate, whose rows follow those of each head's query in
    `q_proj`. `linear_attention` describes the layers that have no attention.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    tied: bool
    mrope_interleaved: bool = False
    qkv_bias: bool = True
    qk_norm: bool = False
    deepstack_layers: int = 0
    moe: MoeSpec | None = None
    rotation_seed: int | None = None
    yarn: Yarn | None = None
    ntk_length: int = 0
    logn_length: int = 0
    rotary_dim: int = 0
    output_gate: bool = False
    linear_attention: LinearAttentionSpec | None = None

    @property
    def rotated(self) -> int:
        """The number of rotated channels per head."""
        return self.rotary_dim or self.head_dim

    @property
    def recurrent_layers(self) -> frozenset[int]:
        """The layers whose state sums up all tokens so far."""
        return self.linear_attention.layers if self.linear_attention else frozenset()

    @property
    def flat_positions(self) -> bool:
        """Whether positions have no rows and columns, so that image tokens are numbered like text tokens."""
        return self.mrope_section[1:] == (0, 0)


@dataclass(frozen=True)
class Tiktoken:
    """A tiktoken vocabulary: the file of its ranks, and special tokens with ids from `first_special` on."""

    file: str
    special_tokens: tuple[str, ...]
    first_special: int


@dataclass(frozen=True)
class ModelSpec:
    """Everything that an export needs to know about a model besides its weights.

    `tiktoken` and `chat_template` are set for checkpoints without a `tokenizer.json` and a chat template. `boxes` is
    how answers write boxes.
    """

    family: str
    vision: VisionSpec
    text: TextSpec
    image: ImageGeometry
    tokens: Tokens
    video: VideoTiming
    max_positions: int
    tiktoken: Tiktoken | None = None
    chat_template: str = ""
    boxes: BoxNotation = THOUSANDTHS
    image_tokens: ImageTokens = VISION_BLOCK
