"""``patch``: when a package has it, and what its README says of it."""

from collections.abc import Sequence

from tiles.problems import Gemm
from workbench.emission.winners import TunedEntry

__all__ = ["PATCH_FILES", "example", "patches", "remarks"]

PATCH_FILES = (
    "_patch.py",
    "_patch_report.py",
    "_linear_layers.py",
    "_linear_recipes.py",
    "_quantized_linear.py",
    "_weight_codes.py",
    "_checkpoint.py",
    "_meta_tensors.py",
    "_computed_buffers.py",
    "_weight_readers.py",
)


def _functions(entries: Sequence[TunedEntry]) -> set[str]:
    return {entry.function.name for entry in entries}


def patches(entries: Sequence[TunedEntry]) -> bool:
    """Whether linear layers can be computed: weight-only, or products of what it quantises."""
    names = _functions(entries)
    return "linear_weight_only" in names or {"gemm", "quantize"} <= names


def example(name: str) -> list[str]:
    """A few lines of Python that patch a model."""
    return [
        f"from {name} import patch, unpatch",
        "",
        "print(patch(model))  # its linear layers, in place; unpatch(model) puts them back",
    ]


def remarks(entries: Sequence[TunedEntry]) -> list[str]:
    """Paragraphs of the package's README about patched models."""
    if patches(entries):
        gpus = ", ".join(sorted({entry.gpu.title for entry in entries}))
        return [
            "## Patching a model",
            "",
            "`patch(model)` replaces `nn.Linear` layers, and the `Conv1D` of transformers, by",
            "quantised ones: weights once, activations on each call. `recipe=` names one of those",
            "above; by default it is the one with the fastest entries, and the report says so.",
            '`keep=("lm_head",)` leaves layers by name, `weights="model.safetensors"` converts a',
            'checkpoint layer by layer, `untuned="plain"` leaves what nothing was tuned for. A',
            "patched model's `state_dict` holds codes and scales: another model loads them after",
            "it was patched alike. `unpatch(model)` puts the originals back, which stay on the",
            "host until then; `undo=False` lets go of them.",
            "",
            "What it does not do:",
            "",
            "- Training: no layer has a derivative.",
            "- Judge: what a model loses in accuracy is not measured here. Compare its answers.",
            "- Other numbers: layers whose weights are not of the 16-bit type of a tuned product",
            "  (fp32 models among them) stay as they are; so do subclasses of `nn.Linear`, layers",
            "  with hooks or shared weights, and those whose weight another module reads itself",
            "  (`nn.MultiheadAttention`, T5's `wo`, Mamba's projections). The report lists each,",
            "  with its reason; where none is left to replace, `patch` raises.",
            f"- Other GPUs and shapes: the entries are for {gpus}.",
            "  Elsewhere, and for layers of other extents, conservative defaults run, whose speed",
            "  nobody has measured, with a warning.",
            "- Convolutions, embeddings, attention's own products, experts held in one tensor.",
            "",
        ]
    scaled = [
        entry.problem.recipe.activation
        for entry in entries
        if isinstance(entry.problem, Gemm) and entry.function.name == "gemm"
    ]
    wanted = sorted({str(one) for one in scaled if one.scaling is not None})
    if not wanted:
        return []
    return [
        "There is no `patch` for models here: it quantises activations, so sweep",
        "`quantize:ROWSxCOLUMNS:FORMAT:bf16` with `triton_quantize` or `cuda_quantize` for",
        f"{', '.join(wanted)} too.",
        "",
    ]
