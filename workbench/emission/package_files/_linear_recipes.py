"""What linear layers this package can replace: recipes, tuned extents, and which is the fastest."""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ._lookup import FILES, ConfigFile, _is_gpu
from ._torch_device import NAMES
from ._weight_codes import LARGEST, STORED

QUANTIZE = "triton_quantize"
#: Families whose entries serve a call of ``quantize``.
_QUANTIZES = (QUANTIZE, "cuda_quantize")
GEMM = "triton_gemm"
WEIGHT_ONLY = "triton_weight_only"
#: Families whose entries serve a call of ``gemm`` or ``linear_weight_only``.
_GEMMS = (GEMM, "hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")
_WEIGHT_ONLYS = (WEIGHT_ONLY, "hopper_weight_only", "hopper_weight_prefill")
_HERE = Path(__file__).parent
_EVIDENCE = "EVIDENCE.json"


@dataclass(frozen=True)
class LinearRecipe:
    """How a recipe's linear layers are computed."""

    name: str
    kernel: str  #: family whose defaults serve what was never tuned
    activation: str  #: format that activations are quantised to; "" where they stay as they are
    element: str  #: of the weights
    block: tuple[int, int]  #: rows and columns of weights under one scale, 0 for all
    stored: str  #: format of their scales
    max_k: int | None  #: beyond it sums could overflow
    dtypes: tuple[str, ...]  #: element types of activations, which outputs have too

    @property
    def weight_only(self) -> bool:
        """Whether activations stay in 16 bits."""
        return not self.activation


def linear_recipes() -> tuple[dict[str, LinearRecipe], dict[str, str]]:
    """Recipes that layers can be patched with, and why others of the package cannot, by name."""
    found: dict[str, LinearRecipe] = {}
    refused: dict[str, str] = {}
    sources = {f.formats for f in FILES if f.kernel == QUANTIZE and f.gpu is not None}
    for file in FILES:
        if file.gpu is None or file.kernel not in (GEMM, WEIGHT_ONLY):
            continue
        name, out = file.formats
        recipe = _read(file)
        if isinstance(recipe, str):
            refused[name] = recipe
            continue
        if not recipe.weight_only and (recipe.activation, out) not in sources:
            refused.setdefault(
                name,
                f"the package cannot quantise {out} activations: sweep "
                f"quantize:ROWSxCOLUMNS:{recipe.activation}:{out} with triton_quantize or "
                "cuda_quantize too, and emit again",
            )
            continue
        if recipe.weight_only and out != file.layout["activation"]:
            continue
        known = found.get(name)
        dtypes = (out,) if known is None else tuple(dict.fromkeys((*known.dtypes, out)))
        found[name] = LinearRecipe(**{**recipe.__dict__, "dtypes": dtypes})
    return found, {name: why for name, why in refused.items() if name not in found}


def _read(file: ConfigFile) -> LinearRecipe | str:
    """The recipe of a configuration file, or why no layer is patched with it."""
    layout, (name, out) = file.layout, file.formats
    if file.kernel == WEIGHT_ONLY:
        element, stored, activation = layout["element"], layout["stored"], ""
        if element not in LARGEST or stored not in STORED:
            return f"patch does not quantise weights to {element} with scales in {stored}"
        stored = stored if layout["block"][1] else "fp32"  # as pack_weight takes whole rows
        block, max_k = layout["block"], None
    else:
        element, stored, activation = layout["b_element"], "fp32", layout.get("a_format", "")
        block, max_k = layout["b_block"], layout["max_k"]
        if block is None or layout["a_block"] is None:
            return "its operands have no scales"
        if "+" in layout["b_format"] or element not in LARGEST:
            return f"patch does not quantise weights to {layout['b_format']}"
    return LinearRecipe(
        name=name,
        kernel=file.kernel,
        activation=activation,
        element=element,
        block=block,
        stored=stored,
        max_k=max_k,
        dtypes=(out,),
    )


def tuned_for(recipe: LinearRecipe, dtype: torch.dtype, extents: tuple[int, int]) -> bool:
    """Whether a layer of (N, K) has tuned entries, on whichever GPU."""
    families = _WEIGHT_ONLYS if recipe.weight_only else _GEMMS
    formats = (recipe.name, NAMES[dtype])
    return any(
        (file.formats, file.extents) == (formats, extents) and file.kernel in families
        for file in FILES
    )


def quantizes_tuned(recipe: LinearRecipe, dtype: torch.dtype, columns: int) -> bool:
    """Whether rows of so many activations have tuned entries, or stay as they are."""
    wanted = ((recipe.activation, NAMES[dtype]), (columns,))
    return recipe.weight_only or any(
        f.kernel in _QUANTIZES and (f.formats, f.extents) == wanted for f in FILES
    )


def gpus_of(recipe: LinearRecipe) -> tuple[str, ...]:
    """GPUs that the recipe was tuned for."""
    return tuple(
        dict.fromkeys(
            file.gpu
            for file in FILES
            if file.kernel == recipe.kernel and file.formats[0] == recipe.name and file.gpu
        )
    )


def is_home(recipe: LinearRecipe, device: str) -> bool:
    """Whether a GPU, by its driver's name, is one that the recipe was tuned for."""
    return any(
        _is_gpu(file, device)
        for file in FILES
        if file.kernel == recipe.kernel and file.formats[0] == recipe.name
    )


def choose_recipe(known: Mapping[str, LinearRecipe]) -> tuple[str, str]:
    """The recipe with the fastest entries, and what that rests on.

    Recipes are compared by the geometric mean of the products' FLOP/s, on the shapes that all of
    them were tuned for, where there are such; measured entries alone, where there are any.

    Raises:
        ValueError: the package has no evidence to choose by.
    """
    speeds: dict[bool, dict[str, dict[tuple[int, ...], float]]] = {True: {}, False: {}}
    for name, shape, measured, time_us in _products():
        if name in known:
            flops = 2.0 * math.prod(shape) / time_us
            mine = speeds[measured].setdefault(name, {})
            mine[shape] = max(flops, mine.get(shape, 0.0))
    measured = bool(speeds[True])
    by_recipe = speeds[measured]
    if not by_recipe:
        raise ValueError(
            f"{_EVIDENCE} says nothing of {', '.join(known)}: name the recipe to patch with"
        )
    common = set.intersection(*(set(shapes) for shapes in by_recipe.values()))

    def mean(name: str) -> float:
        shapes = by_recipe[name]
        return sum(math.log(shapes[one]) for one in common or shapes) / len(common or shapes)

    best = max(sorted(by_recipe), key=mean)
    if len(by_recipe) == 1:
        return best, f"{best} is the only recipe with {'measured' if measured else 'any'} entries"
    how = "measured" if measured else "simulated, never measured"
    shapes = f"on {len(common)} shapes" if common else "on shapes of their own"
    return best, f"{best} is the fastest of {len(by_recipe)} recipes {shapes} ({how})"


def _products() -> Iterator[tuple[str, tuple[int, ...], bool, float]]:
    """Recipe, (M, N, K), whether it was measured, and time of each product of the evidence."""
    for entry in _evidence().get("entries", ()):
        kind, *rest = entry["problem"].split(":")
        figures = entry["measured"] or entry["simulation"]
        if kind == "gemm" and entry["kernel"] in (*_GEMMS, *_WEIGHT_ONLYS) and figures:
            shape = tuple(map(int, rest[0].split("x")))
            yield rest[1], shape, bool(entry["measured"]), figures["time_us"]


@cache
def _evidence() -> Mapping[str, Any]:
    path = _HERE / _EVIDENCE
    if not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


@cache
def check_digests() -> None:
    """Look whether the files of this package are those that it was emitted with.

    Raises:
        ValueError: one is not.
    """
    evidence = _evidence()
    prefix = f"src/{evidence.get('package')}/"
    for name, digest in evidence.get("files", {}).items():
        path = _HERE / name.removeprefix(prefix)
        if not name.startswith(prefix) or not path.is_file():
            continue
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise ValueError(
                f"{path} is not the file that was emitted (its SHA-256 is another): install the "
                "package again"
            )
