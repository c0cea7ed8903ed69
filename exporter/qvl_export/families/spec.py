"""What a family's configuration comes down to: sizes and choices that `graph/` builds from, without a `model_type`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qvl_runtime.manifest import ImageGeometry, Tokens, VideoTiming

Norm = Literal["layer", "rms"]
Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "silu"]


@dataclass(frozen=True)
class VisionSpec:
    """A vision tower; `gated` MLPs are gate/up/down, others two linears called `fc`1 and `fc`2.

    Blocks outside `full_attention_blocks` attend within the windows of the image geometry. Where `position_table` is
    not 0, patches get learned positions from a table of that side. What comes out of each of `deepstack_blocks` is
    merged into image features for the first layers of the language model (DeepStack, arXiv 2406.04334).
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
    rope_theta: float = 10000.0
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads


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
    (see `qvl_runtime.rotation`), None where they are the checkpoint's.
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


@dataclass(frozen=True)
class ModelSpec:
    """Everything an export needs to know of a model besides its weights."""

    family: str
    vision: VisionSpec
    text: TextSpec
    image: ImageGeometry
    tokens: Tokens
    video: VideoTiming
    max_positions: int
