"""Recipes of the microscaling formats: OCP MX and NVFP4."""

from tiles.recipes.definition import Recipe

__all__ = ["BLOCK_RECIPES"]

_MX = "Microscaling Data Formats for Deep Learning, arXiv 2310.10537, OCP MX v1.0 conversion"
_CAST = "direct cast for inference"

BLOCK_RECIPES = (
    Recipe.of(
        "mxfp8-e4m3",
        activation="e4m3fn.mx",
        gradient="e4m3fn.mx",
        update="fp32",
        source=f"{_MX}; E4M3 for gradients too: arXiv 2506.08027, which rounds scales up (+rceil)",
    ),
    Recipe.of(
        "mxfp8-e4m3-rceil",
        activation="e4m3fn.mx+rceil",
        gradient="e4m3fn.mx+rceil",
        update="fp32",
        source="Recipes for Pre-training LLMs with MXFP8, arXiv 2506.08027: scales rounded up, so "
        "that no block's largest value is cut off",
    ),
    Recipe.of(
        "mxfp8-e5m2",
        activation="e5m2.mx",
        gradient="e5m2.mx",
        update="fp32",
        source=f"{_MX}; E5M2 throughout, for comparison",
    ),
    Recipe.of(
        "mxfp6-e3m2",
        activation="e3m2fn.mx",
        gradient="e3m2fn.mx",
        update="fp32",
        source=f"{_MX}: weights, activations and gradients in MXFP6 (E3M2)",
    ),
    Recipe.of(
        "mxfp6-e3m2-rceil",
        activation="e3m2fn.mx+rceil",
        gradient="e3m2fn.mx+rceil",
        update="fp32",
        source="MXFP6 (E3M2) with the scales of arXiv 2506.08027, rounded up",
    ),
    Recipe.of("mxfp6-e2m3", activation="e2m3fn.mx", source=f"{_MX}: {_CAST}"),
    Recipe.of("mxfp4", activation="e2m1fn.mx", source=f"{_MX}: {_CAST}"),
    Recipe.of("mxint8", activation="mxint8.mx", source=f"{_MX}: {_CAST}"),
    Recipe.of(
        "mxfp4-w-mxfp6-a",
        activation="e3m2fn.mx",
        weight="e2m1fn.mx",
        gradient="e3m2fn.mx",
        update="fp32",
        source=f"{_MX}: MXFP4 weights with MXFP6 (E3M2) activations and gradients",
    ),
    Recipe.of(
        "nvfp4",
        activation="nvfp4",
        weight="e2m1fn.b16x16+e4m3fn+two-level",
        gradient="nvfp4+sr",
        update="fp32",
        source="Pretraining Large Language Models with NVFP4, arXiv 2509.25149: 1x16 activations "
        "and gradients, 16x16 weight blocks that serve both passes; its Hadamard transforms and "
        "its layers left in 16 bits are not modelled",
    ),
)
