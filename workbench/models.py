"""Matrix shapes of a transformer's linear layers, read from its Hugging Face ``config.json``.

A linear layer multiplies M tokens by an ``N x K`` weight.  Query, key and value are one fused
product, and so are gate and up.  Embeddings, the output head, a router's tiny product and the
attention itself are left out: none of them runs in a low-precision recipe by default.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tiles.intake import nearest, read_bounded, shown
from tiles.problems import MAX_EXTENT
from workbench.edge import complaint
from workbench.model_configs import MODEL_TYPES, ModelConfig

__all__ = ["LayerShape", "gemm_shapes", "read_config"]

MAX_CONFIG_BYTES = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One product ``C[m, n] = A[m, k] · B[n, k]^T`` and how often a forward pass runs it."""

    layer: str  #: what runs it, e.g. "qkv"; several names joined by "+" where shapes agree
    m: int  #: tokens (of one expert, for routed experts)
    n: int  #: output features on one rank
    k: int  #: input features on one rank
    count: int  #: times per forward pass on one rank


_AnyConfig = TypeVar("_AnyConfig", bound=ModelConfig)


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
