"""The files that a model will ask for, read from its Hugging Face ``config.json``.

Linear layers in blocks of scales are looked up by the N and K of the weight on one rank, with
query, key and value in one weight, and gate and up; DeepSeek's two down-projections are one weight
in both engines.  Experts are looked up by their number on a rank and their intermediate size.
Parallel layouts: ``tp`` ranks share every layer; of them (or of ``ep`` ranks, a multiple of
``tp``) each holds ``1 / ep`` of the experts, and ``tp / ep`` ranks split an expert.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from tiles.intake import shown
from tiles.problems import MAX_EXTENT
from workbench.deploy.coding import Coding
from workbench.deploy.tuned import INT4, ProductKind, TunedName
from workbench.model_configs import DeepseekV3Config, Extent, LlamaConfig, ModelConfig
from workbench.models import read_config

__all__ = ["SERVED_TYPES", "WantedFile", "model_coding", "wanted_files"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFile:
    """A file that a model asks for."""

    layer: str  #: what runs it, several joined by "+"
    name: TunedName
    #: Names of other files that serve as well, e.g. of weights that are not fused.
    instead: tuple[TunedName, ...] = ()


class _Quantization(BaseModel):
    """``quantization_config``; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    quant_method: str = ""
    weight_block_size: list[Extent] | None = None
    bits: int | None = None


class _Served(ModelConfig):
    """What a served model has beside its products."""

    quantization_config: _Quantization | None = None

    def experts(self) -> tuple[int, int, int] | None:
        """(experts, their intermediate size, shared ones that an engine may count with them)."""
        return None


class _Llama(LlamaConfig, _Served):
    pass


class _Qwen3(_Llama):
    head_dim: Extent | None = 128  # of transformers' Qwen3Config


class _Mixtral(_Llama):
    num_local_experts: Extent = 8

    def experts(self) -> tuple[int, int, int]:
        return (self.num_local_experts, self.intermediate_size, 0)


class _QwenMoe(_Llama):
    num_experts: Extent
    moe_intermediate_size: Extent
    shared_expert_intermediate_size: Annotated[int, Field(ge=0, le=MAX_EXTENT)] = 0
    decoder_sparse_step: Extent = 1
    mlp_only_layers: list[int] = Field(default_factory=list)

    @property
    def dense(self) -> bool:
        """Whether some layers have a dense feed-forward part."""
        return bool(self.mlp_only_layers) or self.decoder_sparse_step > 1

    def experts(self) -> tuple[int, int, int]:
        return (self.num_experts, self.moe_intermediate_size, 0)


class _Qwen3Moe(_QwenMoe):
    head_dim: Extent | None = 128


class _Deepseek(DeepseekV3Config, _Served):
    def experts(self) -> tuple[int, int, int] | None:
        if self.first_k_dense_replace >= self.num_hidden_layers:
            return None
        return (self.n_routed_experts, self.moe_intermediate_size, self.n_shared_experts or 0)


#: ``model_type`` of a config.json to the keys that its files are named by.
SERVED_TYPES: dict[str, type[_Served]] = {
    "deepseek_v2": _Deepseek,
    "deepseek_v3": _Deepseek,
    "llama": _Llama,
    "mistral": _Llama,
    "mixtral": _Mixtral,
    "qwen2": _Llama,
    "qwen2_moe": _QwenMoe,
    "qwen3": _Qwen3,
    "qwen3_moe": _Qwen3Moe,
}
_INSTEAD = "lint without --model"


def model_coding(config_path: Path) -> Coding | None:
    """What the file says of quantisation; ``None``: nothing, or a method without tuned files."""
    quantization = read_config(config_path, SERVED_TYPES, _INSTEAD).quantization_config
    if quantization is None:
        return None
    method, block = quantization.quant_method, quantization.weight_block_size
    if method == "fp8":
        if block is not None and len(block) != 2:
            raise ValueError(
                f"{config_path}: weight_block_size {shown(block)}: takes [bn, bk], correct it"
            )
        return Coding(label="fp8_w8a8", block_shape=None if block is None else (block[0], block[1]))
    if method in ("awq", "gptq") and quantization.bits in (4, None):
        return Coding(label=INT4)
    return None


def wanted_files(
    config_path: Path, kinds: Iterable[ProductKind], coding: Coding, device: str, tp: int, ep: int
) -> list[WantedFile]:
    """The files that a model asks for on one rank, in order of its layers.

    Args:
        config_path: of a model type in :data:`SERVED_TYPES`.
        kinds: linear files (of layers in blocks of scales alone), files of experts, or both.
        device: blanks as underscores.
    Raises:
        ValueError: the file is no such config.json, or tp and ep do not divide the model.
    """
    for what, ranks in (("tp", tp), ("ep", ep)):
        if not 1 <= ranks <= 4096:
            raise ValueError(f"--{what} {shown(ranks)}: 1 to 4096 ranks, correct it")
    if tp % ep and ep % tp:
        raise ValueError(
            f"--tp {tp} --ep {ep}: one must divide the other, ranks that hold an expert's parts "
            "are tp / ep: correct one"
        )
    config = read_config(config_path, SERVED_TYPES, _INSTEAD)
    kinds = set(kinds)
    found: list[WantedFile] = []
    try:
        if ProductKind.LINEAR in kinds and coding.block_shape is not None:
            found += _linears(config, coding, device, tp)
        if ProductKind.MOE in kinds:
            found += _experts(config, coding, device, tp, ep)
    except ValueError as error:
        raise ValueError(f"{config_path}: {error}") from error
    return _merged(found)


def _linears(config: _Served, coding: Coding, device: str, tp: int) -> list[WantedFile]:
    shapes = {layer.layer: (layer.n, layer.k) for layer in config.linears(tp) if not layer.routed}
    if isinstance(config, _Mixtral | _QwenMoe):
        # LlamaConfig's feed-forward part is that of the layers without experts.
        if isinstance(config, _Mixtral) or not config.dense:
            del shapes["gate_up"], shapes["down"]
        shared = config.shared_expert_intermediate_size if isinstance(config, _QwenMoe) else 0
        if shared:
            if shared % tp:
                raise ValueError(
                    f"shared_expert_intermediate_size = {shared} must be divisible by tp = {tp}: "
                    "choose another tp"
                )
            shapes["shared_gate_up"] = (2 * shared // tp, config.hidden_size)
            shapes["shared_down"] = (config.hidden_size, shared // tp)

    def named(shape: tuple[int, int]) -> TunedName:
        return TunedName(
            kind=ProductKind.LINEAR,
            n=shape[0],
            k=shape[1],
            experts=None,
            device=device,
            label=coding.label,
            block_shape=coding.block_shape,
        )

    found = []
    if "q_a" in shapes:
        taken = [shapes.pop("q_a"), shapes.pop("kv_a")]
        whole = (taken[0][0] + taken[1][0], taken[0][1])
        found.append(WantedFile(layer="qkv_a", name=named(whole), instead=tuple(map(named, taken))))
    return found + [WantedFile(layer=layer, name=named(one)) for layer, one in shapes.items()]


def _experts(config: _Served, coding: Coding, device: str, tp: int, ep: int) -> list[WantedFile]:
    there = config.experts()
    if there is None:
        return []
    experts, inner, shared = there
    parts = max(1, tp // ep)
    if experts % ep:
        raise ValueError(f"{experts} experts must be divisible by ep = {ep}: choose another ep")
    if inner % parts:
        raise ValueError(
            f"an expert's intermediate size {inner} must be divisible by tp / ep = {parts}: choose "
            "another tp"
        )
    name = TunedName(
        kind=ProductKind.MOE,
        n=inner // parts,
        k=None,
        experts=experts // ep,
        device=device,
        label=coding.label,
        block_shape=coding.block_shape,
        per_channel=coding.per_channel,
    )
    # SGLang counts shared experts with the routed ones where it fuses them, on ranks alike.
    fused = (replace(name, experts=experts + shared),) if shared and ep == 1 else ()
    return [WantedFile(layer="experts", name=name, instead=fused)]


def _merged(wanted: Sequence[WantedFile]) -> list[WantedFile]:
    """Layers of one name merged."""
    found: dict[TunedName, WantedFile] = {}
    for one in wanted:
        seen = found.get(one.name)
        layer = one.layer if seen is None else f"{seen.layer}+{one.layer}"
        found[one.name] = replace(one, layer=layer)
    return list(found.values())
