"""Which recipes train here, and what of a recipe the layers need."""

import difflib
import math
from dataclasses import dataclass, replace
from pathlib import Path

from tiles.formats import IntElement, Rounding, Scaling
from tiles.intake import shown
from tiles.recipes import OutlierBlocks, OutlierColumns, Recipe, WeightUpdate, recipe
from workbench.nn.backend import Backend
from workbench.nn.runtime import Runtime, serves_both_directions
from workbench.nn.seeds import SeedStream
from workbench.nn.tensor_scales import Delayed, Fixed
from workbench.nn.tuned import tuned_choices

__all__ = [
    "RECIPES",
    "TrainingRecipe",
    "emulated",
    "fallback_share",
    "training_recipe",
    "training_runtime",
]

#: Recipes that ``convert`` takes by name; those of Jetfire quantise what lies between products too.
RECIPES = (
    "bf16",
    "bf16-sr",
    "bf16-kahan",
    "e4m3-tensor",
    "e4m3-tensor-delayed",
    "fp8-lm",
    "unit-scaling",
    "deepseek-fp8",
    "mxfp8-e4m3",
    "mxfp8-e4m3-rceil",
    "mxfp8-e5m2",
    "mxfp6-e3m2",
    "mxfp6-e3m2-rceil",
    "mxfp6-e2m3",
    "mxfp4",
    "mxfp4-w-mxfp6-a",
    "mxint8",
    "int8-tensor",
    "int8-row",
    "int4-tensor",
    "int8-fallback",
    "jetfire",
    "jetfire-64",
    "jetfire-128",
)
#: Recipes whose scales do not come from each tensor itself.
_SCALERS: dict[str, Delayed | Fixed] = {
    "e4m3-tensor-delayed": Delayed(),
    "fp8-lm": Delayed(),
    "unit-scaling": Fixed(),
}
_BAD = Recipe.of(
    "int4-tensor",
    activation="int4.tensor",
    gradient="int4.tensor+rtz",
    update="fp32",
    source="deliberately bad, for comparison: fifteen values for a whole tensor, gradients rounded "
    "towards zero, so that most vanish",
)
#: Rows of blocks that products quantise faster than another pass does, by the cost model.
FUSED_ROWS = 64
#: Elements of at most so many bits, and integers, have gradients that are rounded stochastically.
_FEW_BITS = 4


#: Elements that products of a GPU multiply; others are decoded to 16 bits first.
_MULTIPLIED = ("fp32", "bf16", "fp16", "e4m3fn", "e5m2", "int8", "mxint8")


def emulated(found: Recipe) -> bool:
    """True where no GPU here has a product of a recipe's elements: it runs in 16 bits."""
    formats = (found.activation, found.weight, found.gradient)
    return any(fmt.element.name not in _MULTIPLIED for fmt in formats)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRecipe:
    """Formats, and where the scales of whole tensors come from."""

    recipe: Recipe
    scaler: Delayed | Fixed | None = None  #: default: each tensor's own numbers


def training_recipe(chosen: str | Recipe, *, history: int | None = None) -> TrainingRecipe:
    """The recipe of a name of ``RECIPES``, or one of your own.

    A recipe for inference alone (``int8-row``, ``mxfp4``) trains with gradients in the format of
    its activations, rounded stochastically where they are integers or have four bits.

    Args:
        history: calls that delayed scaling looks back on; default: 16.
    Raises:
        ValueError: another name, a recipe that the layers cannot follow, or a history where
            nothing is delayed.
        TypeError: neither a name nor a recipe.
    """
    if not isinstance(chosen, str | Recipe):
        raise TypeError(f"a recipe is a name or a Recipe, not {shown(chosen)}")
    name = chosen if isinstance(chosen, str) else chosen.name
    scaler = _SCALERS.get(name) if isinstance(chosen, str) else None
    if history is not None:
        if not isinstance(scaler, Delayed):
            raise ValueError(
                f"history {history}: recipe {name} scales by each tensor's own numbers or by fixed "
                "factors; take e4m3-tensor-delayed or fp8-lm"
            )
        scaler = Delayed(history=history)
    found = _checked(chosen if isinstance(chosen, Recipe) else _named(chosen))
    return TrainingRecipe(recipe=found, scaler=scaler)


def _named(name: str) -> Recipe:
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"recipe {name!r} does not train here: {hint}choose from {', '.join(RECIPES)}"
        )
    if name == _BAD.name:
        return _BAD
    if name == "e4m3-tensor-delayed":
        return replace(recipe("e4m3-tensor"), name=name)
    found = recipe(name)
    if name == "unit-scaling":
        # Direct casts of numbers that fixed factors bring near 1: scales, not of the data.
        tensor = Scaling.parse("tensor")
        parts = ("activation", "weight", "gradient")
        scaled = {part: replace(getattr(found, part), scaling=tensor) for part in parts}
        return replace(found, **scaled)
    return found if found.trains else _trained(found)


def _trained(found: Recipe) -> Recipe:
    """A recipe for inference, as it trains here."""
    fmt = found.activation
    coarse = isinstance(fmt.element, IntElement) or fmt.element.bits <= _FEW_BITS
    rounding = Rounding.STOCHASTIC if coarse else fmt.rounding
    update = WeightUpdate.parse("fp32")
    return replace(found, gradient=replace(fmt, rounding=rounding), update=update)


def _checked(found: Recipe) -> Recipe:
    if isinstance(found.outliers, OutlierColumns):
        raise ValueError(f"recipe {found.name}: columns of outliers are for inference alone")
    formats = {"activation": found.activation, "weight": found.weight, "gradient": found.gradient}
    flows = found.output.scaling is not None
    for name, fmt in formats.items():
        if fmt.scaling is None and fmt.element.bits < 16:
            raise ValueError(
                f"recipe {found.name}: {name} {fmt} has no scales, training needs them"
            )
        if flows and not (fmt.scaling is not None and serves_both_directions(fmt)):
            raise ValueError(
                f"recipe {found.name}: its output {found.output} travels between layers, so "
                f"{name} {fmt} needs square blocks, which serve both directions"
            )
    return found


def fallback_share(found: Recipe, asked: float | None) -> float:
    """Share of activation blocks that fall back to 16 bits: what is asked, or the recipe's own.

    Raises:
        ValueError: not a share, or the recipe has no INT8 blocks of its own for activations.
    """
    own = found.outliers.share if isinstance(found.outliers, OutlierBlocks) else 0.0
    share = own if asked is None else asked
    if not 0 <= share < 1 or math.isnan(share):
        raise ValueError(f"fallback {share}: the share of blocks lies from 0 to below 1")
    fmt = found.activation
    blocks = fmt.scaling is not None and None not in (fmt.scaling.rows, fmt.scaling.cols)
    if share and not (blocks and fmt.plain and fmt.element.name == "int8"):
        raise ValueError(
            f"fallback {share}: blocks of recipe {found.name} are {fmt}, and only INT8 blocks with "
            "fp32 scales fall back; leave it out, or take jetfire"
        )
    return share


def _fused(found: Recipe) -> bool:
    scaling = found.output.scaling
    return scaling is None or scaling.rows is None or scaling.rows <= FUSED_ROWS


def training_runtime(
    chosen: str | Recipe,
    *,
    fallback: float | None = None,
    history: int | None = None,
    seed: int = 0,
    backend: Backend | None = None,
    fused: bool | None = None,
    keep_weights: bool | None = None,
    replayable: bool = False,
    tuned: str | Path | None = None,
) -> Runtime:
    """What the layers of one model share; other arguments as of :func:`workbench.nn.convert`.

    Args:
        fused: codes between layers come from fp32 products themselves; else products leave numbers
            in the dtype of the layers' input, 16 bits as a rule, which another pass quantises.
            Default: but for blocks of more than 64 rows, whose products are slower by more.
        keep_weights: codes of weights last from step to step; else they are made in every pass,
            forward and backward, which costs time and saves a byte a weight.  Default: where codes
            do not travel between layers.
        replayable: a training step may be captured in a CUDA graph; all its replays round by the
            same random bits.
        tuned: a run folder of ``workbench sweep``, whose fastest configurations the kernels take;
            problems that it lacks take the fastest predicted ones.

    Raises:
        ValueError: the recipe, the share or the seed does not fit.
        TypeError: neither a name nor a recipe.
    """
    found = training_recipe(chosen, history=history)
    return Runtime(
        recipe=found.recipe,
        share=fallback_share(found.recipe, fallback),
        scaler=found.scaler,
        seeds=SeedStream(seed),
        given=backend,
        fused=_fused(found.recipe) if fused is None else fused,
        keep_weights=found.recipe.output.scaling is None if keep_weights is None else keep_weights,
        replayable=replayable,
        tuned=None if tuned is None else tuned_choices(tuned),
    )
