"""Matrix shapes of a transformer's linear layers, read from its Hugging Face ``config.json``.

A linear layer multiplies M tokens by an ``N x K`` weight.  Query, key and value are one fused
product, and so are gate and up.  Embeddings, the output head, a router's tiny product and the
attention itself are left out: none of them runs in a low-precision recipe by default.

Tensor parallelism follows Megatron-LM (arXiv 1909.08053, section 3): the first product of a pair is
split by columns (N), the second by rows (K).
"""

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tiles.intake import nearest, read_bounded, shown
from tiles.problems import MAX_EXTENT
from workbench.edge import complaint

__all__ = [
    "MODEL_TYPES",
    "BertConfig",
    "DeepseekV3Config",
    "Extent",
    "Gpt2Config",
    "LayerShape",
    "LlamaConfig",
    "ModelConfig",
    "gemm_shapes",
    "head_width",
    "read_config",
]

MAX_CONFIG_BYTES = 10_000_000

Extent = Annotated[int, Field(ge=1, le=MAX_EXTENT)]
_Layers = Annotated[int, Field(ge=1, le=10_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One product ``C[m, n] = A[m, k] · B[n, k]^T`` and how often a forward pass runs it."""

    layer: str  #: what runs it, e.g. "qkv"; several names joined by "+" where shapes agree
    m: int  #: tokens (of one expert, for routed experts)
    n: int  #: output features on one rank
    k: int  #: input features on one rank
    count: int  #: times per forward pass on one rank


@dataclass(frozen=True, slots=True, kw_only=True)
class _Linear:
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
    def linears(self, tp: int) -> list[_Linear]:
        """Every linear layer on one of ``tp`` ranks."""


class LlamaConfig(ModelConfig):
    """Llama, Mistral and Qwen2: gated, grouped key-value heads."""

    hidden_size: Extent
    intermediate_size: Extent
    num_hidden_layers: _Layers
    num_attention_heads: Extent
    num_key_value_heads: Extent | None = None
    head_dim: Extent | None = None

    def linears(self, tp: int) -> list[_Linear]:
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
            _Linear(layer="qkv", n=(q_heads + 2 * kv_split) * head, k=hidden, count=layers),
            _Linear(layer="o", n=hidden, k=q_heads * head, count=layers),
            _Linear(layer="gate_up", n=2 * inner, k=hidden, count=layers),
            _Linear(layer="down", n=hidden, k=inner, count=layers),
        ]


class BertConfig(ModelConfig):
    """Ordinary attention and an ungated feed-forward network."""

    hidden_size: Extent
    intermediate_size: Extent
    num_hidden_layers: _Layers
    num_attention_heads: Extent

    def linears(self, tp: int) -> list[_Linear]:
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

    def linears(self, tp: int) -> list[_Linear]:
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

    def linears(self, tp: int) -> list[_Linear]:
        return [*self._attention(tp), *self._feed_forward(tp)]

    def _attention(self, tp: int) -> list[_Linear]:
        hidden, layers = self.hidden_size, self.num_hidden_layers
        heads = _split("num_attention_heads", self.num_attention_heads, tp)
        q_out = heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        kv_out = heads * (self.qk_nope_head_dim + self.v_head_dim)
        kv_latent = self.kv_lora_rank + self.qk_rope_head_dim
        # The down-projections to the latents are small and replicated on every rank.
        if self.q_lora_rank is None:
            query = [_Linear(layer="q", n=q_out, k=hidden, count=layers)]
        else:
            query = [
                _Linear(layer="q_a", n=self.q_lora_rank, k=hidden, count=layers),
                _Linear(layer="q_b", n=q_out, k=self.q_lora_rank, count=layers),
            ]
        return [
            *query,
            _Linear(layer="kv_a", n=kv_latent, k=hidden, count=layers),
            _Linear(layer="kv_b", n=kv_out, k=self.kv_lora_rank, count=layers),
            _Linear(layer="o", n=hidden, k=heads * self.v_head_dim, count=layers),
        ]

    def _feed_forward(self, tp: int) -> list[_Linear]:
        hidden, experts, top_k = self.hidden_size, self.n_routed_experts, self.num_experts_per_tok
        if top_k > experts:
            raise ValueError(
                f"num_experts_per_tok = {top_k} must not exceed n_routed_experts = {experts}: "
                "correct one of them"
            )
        dense = min(self.first_k_dense_replace, self.num_hidden_layers)
        sparse = self.num_hidden_layers - dense
        found: list[_Linear] = []
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
) -> list[_Linear]:
    """A gated feed-forward network: fused gate and up, then down."""
    return [
        _Linear(layer=f"{prefix}gate_up", n=2 * inner, k=hidden, count=count, routed=routed),
        _Linear(layer=f"{prefix}down", n=hidden, k=inner, count=count, routed=routed),
    ]


def _plain_linears(
    hidden: tuple[str, int], heads: tuple[str, int], inner: tuple[str, int], layers: int, tp: int
) -> list[_Linear]:
    """A layer with ordinary attention and an ungated feed-forward network (BERT, GPT-2)."""
    width = heads[1] * head_width(*hidden, heads[1])
    attention = width // heads[1] * _split(*heads, tp)
    middle = _split(*inner, tp)
    return [
        _Linear(layer="qkv", n=3 * attention, k=hidden[1], count=layers),
        _Linear(layer="o", n=hidden[1], k=attention, count=layers),
        _Linear(layer="up", n=middle, k=hidden[1], count=layers),
        _Linear(layer="down", n=hidden[1], k=middle, count=layers),
    ]


_AnyConfig = TypeVar("_AnyConfig", bound=ModelConfig)

#: ``model_type`` of a config.json to the keys that its architecture needs.
MODEL_TYPES: dict[str, type[ModelConfig]] = {
    "bert": BertConfig,
    "deepseek_v3": DeepseekV3Config,
    "gpt2": Gpt2Config,
    "llama": LlamaConfig,
    "mistral": LlamaConfig,
    "qwen2": LlamaConfig,
}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once each; of two values nobody knows which was meant."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(f"key {shown(key)} stands twice: remove one")
        found[key] = value
    return found


class _TwiceError(ValueError):
    """A key stands twice in an object."""


def read_config(path: Path, types: Mapping[str, type[_AnyConfig]], instead: str) -> _AnyConfig:
    """Read and check a config.json once.

    Args:
        types: model types that are known, each with its keys.
        instead: what to do with a model of another type.
    Raises:
        ValueError: see :func:`gemm_shapes`.
    """
    text = read_bounded(path, MAX_CONFIG_BYTES)
    try:
        data = json.loads(text, object_pairs_hook=_once)
    except _TwiceError as error:
        raise ValueError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        fault = "nested too deep" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{path}: not JSON ({fault}): give a model's config.json") from error
    if not isinstance(data, dict):
        raise ValueError(
            f"{path}: takes a JSON object, got {shown(data)}: give a model's config.json"
        )
    known = ", ".join(types)
    if "model_type" not in data:
        raise ValueError(f"{path}: model_type: this key is missing: add one of {known}")
    model_type = data["model_type"]
    if not isinstance(model_type, str) or model_type not in types:
        raise ValueError(
            f"{path}: model_type: no shapes are known for {shown(model_type)}: "
            f"{nearest(model_type, types)}choose one of {known}, or {instead}"
        )
    try:
        return types[model_type].model_validate(data)
    except ValidationError as error:
        raise ValueError(complaint(path, error)) from error


def gemm_shapes(config_path: str | Path, tokens: Sequence[int], tp: int = 1) -> list[LayerShape]:
    """The distinct matrix products of a forward pass, on one of ``tp`` ranks.

    Args:
        config_path: a Hugging Face ``config.json`` of a model type in :data:`MODEL_TYPES`.
        tokens: tokens in flight, one forward pass each; every value in 1..2^24.
        tp: ranks that a layer is split over (tensor parallelism, no expert parallelism).
    Returns:
        For each token count in order, its shapes in order of the layers; layers of one shape are
        merged, their counts added.  A routed expert's M is its expected number of tokens,
        ``ceil(tokens · top_k / experts)``, and its count the number of experts.
    Raises:
        ValueError: the file cannot be read, is larger than 10 MB, is not JSON, is of an unknown
            model type, lacks a key or has an impossible value; or ``tokens`` or ``tp`` do not fit.
    """
    path = Path(config_path)
    for value in (*tokens, tp):
        if not 1 <= value <= MAX_EXTENT:
            raise ValueError(
                f"{path}: tokens and tp must lie in 1..{MAX_EXTENT}, got {shown(value)}: correct it"
            )
    config = read_config(path, MODEL_TYPES, "list shapes as {shape: [M, N, K]}")
    try:
        linears = config.linears(tp)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    merged: dict[tuple[int, int, int], LayerShape] = {}
    for count in dict.fromkeys(tokens):
        for linear in linears:
            shape = (linear.tokens(count), linear.n, linear.k)
            if max(shape) > MAX_EXTENT:
                raise ValueError(
                    f"{path}: {linear.layer} is {shape[1]} x {shape[2]}, a dimension must not "
                    f"exceed {MAX_EXTENT}: correct the sizes"
                )
            seen = merged.get(shape)
            names = [] if seen is None else seen.layer.split("+")
            merged[shape] = LayerShape(
                layer="+".join(dict.fromkeys([*names, linear.layer])),
                m=shape[0],
                n=shape[1],
                k=shape[2],
                count=linear.count + (0 if seen is None else seen.count),
            )
    return list(merged.values())
