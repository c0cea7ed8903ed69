"""What a family's configuration comes down to: sizes and choices that `graph/` builds from, without a `model_type`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qvl_runtime.manifest import ImageGeometry, Tokens, VideoTiming

Norm = Literal["layer", "rms"]
Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "silu"]


@dataclass(frozen=True)
class ResamplerSpec:
    """Learned queries that look at all patches of an image, each becoming an image token (arXiv 2308.12966, §2.1)."""

    queries: int
    num_heads: int


@dataclass(frozen=True)
class VisionSpec:
    """A vision tower; `gated` MLPs are gate/up/down, others two linears called `fc`1 and `fc`2.

    Blocks outside `full_attention_blocks` attend within the windows of the image geometry. Where `position_table` is
    not 0, patches get learned positions from a table of that side. What comes out of each of `deepstack_blocks` is
    merged into image features for the first layers of the language model (DeepStack, arXiv 2406.04334). Where `patches`
    is not 0, every image has so many, each with a learned position of its own, normed before the first block; blocks
    then know of no other positions. With a `resampler` patches become image tokens by it, not by merging neighbours.
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
        """Whether queries and keys turn with rows and columns."""
        return not self.patches


@dataclass(frozen=True)
class MoeSpec:
    """Experts: gated MLPs of which each token takes `experts_per_token`, in all layers but `dense_layers`."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    dense_layers: frozenset[int]


@dataclass(frozen=True)
class Yarn:
    """Frequencies for longer prompts than a model was trained on (YaRN, arXiv 2309.00071).

    Those that turn less than `beta_slow` times within `original_length` positions are slowed down by `factor`, those
    that turn more than `beta_fast` times are kept; cos and sin are multiplied by `attention_factor`.
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

    As many frequencies as `mrope_section` says turn with the time, row and column position: one range after the other,
    or interleaved. `qk_norm` is an RMSNorm of every head's query and key. The first `deepstack_layers` layers take
    image features of their own. `rotation_seed` is that of the orthogonal matrix that hidden states are multiplied by
    (see `qvl_runtime.rotation`), None where they are the checkpoint's. Prompts longer than `ntk_length` turn more
    slowly (`qvl_runtime.positions.ntk_alpha`), queries beyond place `logn_length` are multiplied by the logarithm of
    their place to that base; 0: never.
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

    @property
    def flat_positions(self) -> bool:
        """Whether there are no rows and columns: image tokens are counted as text is."""
        return self.mrope_section[1:] == (0, 0)


@dataclass(frozen=True)
class Tiktoken:
    """A vocabulary as tiktoken keeps it: the file of its ranks, and special tokens with ids from `first_special` on."""

    file: str
    special_tokens: tuple[str, ...]
    first_special: int


@dataclass(frozen=True)
class ModelSpec:
    """Everything an export needs to know of a model besides its weights.

    `tiktoken` and `chat_template` are for checkpoints without a `tokenizer.json` and a chat template.
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
