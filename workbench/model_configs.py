"""What a Hugging Face ``config.json`` has to say, by model type, and the linear layers that follow.

Tensor parallelism follows Megatron-LM (arXiv 1909.08053, section 3): the first product of a pair is
split by columns (N), the second by rows (K).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tiles.problems import MAX_EXTENT

__all__ = [
    "MODEL_TYPES",
    "BertConfig",
    "DeepseekV3Config",
    "Extent",
    "Gpt2Config",
    "Linear",
    "LlamaConfig",
    "ModelConfig",
    "head_width",
]

Extent = Annotated[int, Field(ge=1, le=MAX_EXTENT)]
_Layers = Annotated[int, Field(ge=1, le=10_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear layer on one rank, before the number of tokens is known."""

    layer: str
    n: int
    k: int
    count: int
    routed: tuple[int, int] | None = None  #: (experts a token visits, experts there are)

    def tokens(self, tokens: int) -> int:
        """Rows that one call sees: all tokens, or an expert's expected share, at least 1."""
        if self.routed is None:
            return tokens
        top_k, experts = self.routed
        return max(1, -(-tokens * top_k // experts))


def _split(what: str, extent: int, tp: int) -> int:
    """An extent's share on one of ``tp`` ranks."""
    if extent % tp:
        raise ValueError(f"{what} = {extent} must be divisible by tp = {tp}: choose another tp")
    return extent // tp


class ModelConfig(BaseModel):
    """The architecture keys of one model type; every other key of the file is ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    @abstractmethod
    def linears(self, tp: int) -> list[Linear]:
        """Every linear layer on one of ``tp`` ranks."""


class LlamaConfig(ModelConfig):
    """Llama, Mistral and Qwen2: gated, grouped key-value heads."""

    hidden_size: Extent
    intermediate_size: Extent
    num_hidden_layers: _Layers
    num_attention_heads: Extent
    num_key_value_heads: Extent | None = None
    head_dim: Extent | None = None

    def linears(self, tp: int) -> list[Linear]:
        hidden, layers = self.hidden_size, self.num_hidden_layers
        kv_heads = self.num_key_value_heads or self.num_attention_heads
        if self.num_attention_heads % kv_heads:
            raise ValueError(
                f"num_attention_heads = {self.num_attention_heads} must be divisible by "
                f"num_key_value_heads = {kv_heads}: correct one of them"
            )
        head = self.head_dim or head_width("hidden_size", hidden, self.num_attention_heads)
        q_heads = _split("num_attention_heads", self.num_attention_heads, tp)
        # Fewer key-value heads than ranks: each rank keeps a copy of one, as serving engines do.
        kv_split = 1 if tp % kv_heads == 0 else _split("num_key_value_heads", kv_heads, tp)
        inner = _split("intermediate_size", self.intermediate_size, tp)
        return [
            Linear(layer="qkv", n=(q_heads + 2 * kv_split) * head, k=hidden, count=layers),
            Linear(layer="o", n=hidden, k=q_heads * head, count=layers),
            Linear(layer="gate_up", n=2 * inner, k=hidden, count=layers),
            Linear(layer="down", n=hidden, k=inner, count=layers),
        ]


class BertConfig(ModelConfig):
    """Ordinary attention and an ungated feed-forward network."""

    hidden_size: Extent
    intermediate_size: Extent
    num_hidden_layers: _Layers
    num_attention_heads: Extent

    def linears(self, tp: int) -> list[Linear]:
        return _plain_linears(
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            self.num_hidden_layers,
            tp,
        )


class Gpt2Config(ModelConfig):
    """The same products under other names."""

    n_embd: Extent
    n_head: Extent
    n_layer: _Layers
    n_inner: Extent | None = None

    def linears(self, tp: int) -> list[Linear]:
        inner = self.n_inner or 4 * self.n_embd
        return _plain_linears(
            ("n_embd", self.n_embd), ("n_head", self.n_head), ("n_inner", inner), self.n_layer, tp
        )


class DeepseekV3Config(ModelConfig):
    """Multi-head latent attention and routed experts: arXiv 2412.19437, section 2.1."""

    hidden_size: Extent
    intermediate_size: Extent
    moe_intermediate_size: Extent
    num_hidden_layers: _Layers
    first_k_dense_replace: Annotated[int, Field(ge=0, le=10_000)]
    moe_layer_freq: Annotated[int, Field(ge=1, le=1)] = 1
    num_attention_heads: Extent
    q_lora_rank: Extent | None
    kv_lora_rank: Extent
    qk_nope_head_dim: Extent
    qk_rope_head_dim: Extent
    v_head_dim: Extent
    n_routed_experts: Extent
    n_shared_experts: Annotated[int, Field(ge=0, le=10_000)] | None
    num_experts_per_tok: Extent

    def linears(self, tp: int) -> list[Linear]:
        return [*self._attention(tp), *self._feed_forward(tp)]

    def _attention(self, tp: int) -> list[Linear]:
        hidden, layers = self.hidden_size, self.num_hidden_layers
        heads = _split("num_attention_heads", self.num_attention_heads, tp)
        q_out = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        kv_out = heads * (self.qk_nope_head_dim + self.v_head_dim)
        kv_latent = self.kv_lora_rank + self.qk_rope_head_dim
        # The down-projections to the latents are small and replicated on every rank.
        if self.q_lora_rank is None:
            query = [Linear(layer="q", n=q_out, k=hidden, count=layers)]
        else:
            query = [
                Linear(layer="q_a", n=self.q_lora_rank, k=hidden, count=layers),
                Linear(layer="q_b", n=q_out, k=self.q_lora_rank, count=layers),
            ]
        return [
            *query,
            Linear(layer="kv_a", n=kv_latent, k=hidden, count=layers),
            Linear(layer="kv_b", n=kv_out, k=self.kv_lora_rank, count=layers),
            Linear(layer="o", n=hidden, k=heads * self.v_head_dim, count=layers),
        ]

    def _feed_forward(self, tp: int) -> list[Linear]:
        hidden, experts, top_k = self.hidden_size, self.n_routed_experts, self.num_experts_per_tok
        if top_k > experts:
            raise ValueError(
                f"num_experts_per_tok = {top_k} must not exceed n_routed_experts = {experts}: "
                "correct one of them"
            )
        dense = min(self.first_k_dense_replace, self.num_hidden_layers)
        sparse = self.num_hidden_layers - dense
        found: list[Linear] = []
        if dense:
            inner = _split("intermediate_size", self.intermediate_size, tp)
            found += _gated("", hidden, inner, dense)
        if sparse:
            expert = _split("moe_intermediate_size", self.moe_intermediate_size, tp)
            if self.n_shared_experts:
                # Shared experts see every token, so they are one wider feed-forward network.
                found += _gated("shared_", hidden, self.n_shared_experts * expert, sparse)
            routed = (top_k, experts)
            found += _gated("expert_", hidden, expert, sparse * experts, routed)
        return found


def head_width(what: str, hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ValueError(f"{what} = {hidden} must be divisible by {heads} heads: correct one")
    return hidden // heads


def _gated(
    prefix: str, hidden: int, inner: int, count: int, routed: tuple[int, int] | None = None
) -> list[Linear]:
    """A gated feed-forward network: fused gate and up, then down."""
    return [
        Linear(layer=f"{prefix}gate_up", n=2 * inner, k=hidden, count=count, routed=routed),
        Linear(layer=f"{prefix}down", n=hidden, k=inner, count=count, routed=routed),
    ]


def _plain_linears(
    hidden: tuple[str, int], heads: tuple[str, int], inner: tuple[str, int], layers: int, tp: int
) -> list[Linear]:
    """A layer with ordinary attention and an ungated feed-forward network (BERT, GPT-2)."""
    width = heads[1] * head_width(*hidden, heads[1])
    attention = width // heads[1] * _split(*heads, tp)
    middle = _split(*inner, tp)
    return [
        Linear(layer="qkv", n=3 * attention, k=hidden[1], count=layers),
        Linear(layer="o", n=hidden[1], k=attention, count=layers),
        Linear(layer="up", n=middle, k=hidden[1], count=layers),
        Linear(layer="down", n=hidden[1], k=middle, count=layers),
    ]


#: ``model_type`` of a config.json to the keys that its architecture needs.
MODEL_TYPES: dict[str, type[ModelConfig]] = {
    "bert": BertConfig,
    "deepseek_v3": DeepseekV3Config,
    "gpt2": Gpt2Config,
    "llama": LlamaConfig,
    "mistral": LlamaConfig,
    "qwen2": LlamaConfig,
}
