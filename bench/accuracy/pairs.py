"""The pairs of models and tasks, each a name, in the order in which they are run."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import nn

from bench.accuracy.classification import Classification, Texts, by_area, matching
from bench.accuracy.corpus import Corpus, origin
from bench.accuracy.functions import areas, functions, notes
from bench.accuracy.retrieval import Retrieval
from bench.accuracy.sections import language_reference, readmes
from bench.accuracy.table_data import table
from bench.accuracy.table_models import ColumnTransformer, GatedPerceptron
from bench.accuracy.task import Pair
from bench.accuracy.text_data import GPT_LENGTH, KINDS, SNIPPET, next_bytes, snippets
from bench.accuracy.text_models import ByteCnn, ByteGpt, ByteMeans, ByteTransformer
from bench.accuracy.training import Metric, Split, Trained
from bench.accuracy.vision_data import digits, noisy_digits, noisy_pixels
from bench.accuracy.vision_models import (
    ConvNext,
    Denoiser,
    Mixer,
    MobileNet,
    ResNet,
    Vit,
    attention_pooled,
    perceptron,
    plain_cnn,
)

__all__ = ["CACHE", "all_pairs", "chosen"]

#: Of checkpoints, beside what else is built; a folder that git ignores.
CACHE = Path(__file__).parents[2] / "build" / "accuracy"

PACKAGES = (
    "stdlib",
    "numpy",
    "scipy",
    "torch",
    "sklearn",
    "sympy",
    "networkx",
    "sqlalchemy",
    "transformers",
)
NOTES_OF = ("numpy", "scipy", "sklearn", "networkx")
SCIPY = ("stats", "signal", "optimize", "sparse", "special", "linalg", "interpolate", "spatial")
SYMPY = ("physics", "matrices", "polys", "solvers", "geometry", "stats", "combinatorics", "ntheory")
EACH_CLASS = 120
DIGITS = 10


@cache
def _functions(package: str) -> Corpus:
    return functions(package)


def _areas(package: str, names: tuple[str, ...]) -> Texts:
    return by_area(areas(package, names, most=EACH_CLASS), origin(package))


def _retrieval() -> list[Pair]:
    made: list[tuple[str, Callable[[], Corpus]]] = [
        (f"functions-{package}", partial(_functions, package)) for package in PACKAGES
    ]
    made.append(("notes", cache(partial(notes, *NOTES_OF))))
    made.append(("readmes", cache(readmes)))
    made.append(("language-reference", cache(language_reference)))
    return [Retrieval(name=f"minilm.{name}", corpus=corpus) for name, corpus in made]


def _classification(folder: Path) -> list[Pair]:
    def matches() -> Texts:
        return matching([_functions(package) for package in ("stdlib", "scipy", "networkx")])

    scipy = cache(partial(_areas, "scipy", SCIPY))
    sympy = cache(partial(_areas, "sympy", SYMPY))
    return [
        Classification(name="minilm.scipy-areas", texts=scipy, cache=folder),
        Classification(name="minilm.sympy-areas", texts=sympy, cache=folder),
        Classification(name="minilm.function-matches", texts=matches, cache=folder),
        Classification(name="minilm-3.scipy-areas", texts=scipy, cache=folder, layers=3),
        Classification(name="minilm-3.sympy-areas", texts=sympy, cache=folder, layers=3),
    ]


def _trained(
    folder: Path,
    family: str,
    name: str,
    architecture: str,
    build: Callable[[], nn.Module],
    data: Callable[[], Split],
    **how: Any,
) -> Pair:
    return Trained(
        name=name,
        family=family,
        architecture=architecture,
        build=build,
        data=data,
        cache=folder,
        **how,
    )


def _text(folder: Path) -> list[Pair]:
    made = partial(_trained, folder, "text")
    kinds = len(KINDS)
    gpt = partial(ByteGpt, 64, layers=2, heads=4, length=GPT_LENGTH)
    encoder = partial(ByteTransformer, 48, kinds, layers=2, heads=4, length=SNIPPET)
    return [
        made("gpt.next-byte", "GPT of bytes, 2 layers", gpt, next_bytes, epochs=4, rows=32),
        made("bytes-bert.kinds", "transformer, norms last", encoder, snippets, epochs=10),
        made(
            "bytes-cnn.kinds",
            "convolutions, BatchNorm",
            partial(ByteCnn, 24, kinds),
            snippets,
            epochs=6,
        ),
        made("bytes-mean.kinds", "mean embedding, MLP", partial(ByteMeans, 64, kinds), snippets),
    ]


def _vision(folder: Path) -> list[Pair]:
    made = partial(_trained, folder, "vision")
    wide = partial(perceptron, 64, DIGITS, width=512, depth=2)
    deep = partial(
        perceptron, 64, DIGITS, width=64, depth=6, activation=nn.SiLU, norm=nn.BatchNorm1d
    )
    gelu = partial(
        perceptron, 64, DIGITS, width=128, depth=3, activation=nn.GELU, norm=nn.LayerNorm
    )
    resnet = partial(ResNet, 16, DIGITS)
    mobile = partial(MobileNet, 16, DIGITS, blocks=3, squeeze=True)
    vit = partial(Vit, 48, DIGITS, layers=3, heads=4)
    return [
        made("mlp-wide.digits", "MLP 2 x 512, ReLU", wide, digits),
        made("mlp-wide.noisy-digits", "MLP 2 x 512, ReLU", wide, noisy_digits),
        made("mlp-deep.digits", "MLP 6 x 64, BatchNorm, SiLU", deep, digits),
        made("mlp-gelu.digits", "MLP 3 x 128, LayerNorm, GELU", gelu, digits),
        made(
            "cnn.digits",
            "3 convolutions, ReLU",
            partial(plain_cnn, 16, DIGITS, norm=False),
            digits,
            epochs=30,
        ),
        made(
            "cnn-bn.noisy-digits",
            "3 convolutions, BatchNorm, ReLU",
            partial(plain_cnn, 16, DIGITS, norm=True),
            noisy_digits,
        ),
        made("resnet.digits", "ResNet, 2 blocks", resnet, digits),
        made("resnet.noisy-digits", "ResNet, 2 blocks", resnet, noisy_digits),
        made(
            "resnet-deep.digits",
            "ResNet, 6 blocks",
            partial(ResNet, 12, DIGITS, blocks=2, stages=3),
            digits,
        ),
        made(
            "mobilenet.digits",
            "inverted residuals, squeeze-excite, SiLU",
            mobile,
            digits,
            epochs=12,
        ),
        made(
            "mobilenet.noisy-digits",
            "inverted residuals, squeeze-excite, SiLU",
            mobile,
            noisy_digits,
            epochs=12,
        ),
        made(
            "convnext.digits", "ConvNeXt, 3 blocks", partial(ConvNext, 32, DIGITS, blocks=3), digits
        ),
        made("vit.digits", "ViT, 3 layers", vit, digits, epochs=30),
        made("vit.noisy-digits", "ViT, 3 layers", vit, noisy_digits, epochs=30),
        made("mixer.digits", "MLP-Mixer, 3 layers", partial(Mixer, 48, DIGITS, layers=3), digits),
        made(
            "attention-pool.digits",
            "convolutions, attention pooling",
            partial(attention_pooled, 24, DIGITS),
            digits,
            epochs=30,
        ),
        made("unet.denoise", "U-Net", partial(Denoiser, 12), noisy_pixels, metric=Metric.R2),
    ]


def _tables(folder: Path) -> list[Pair]:
    made = partial(_trained, folder, "table", rows=16)
    small: dict[str, Any] = {"metric": Metric.RIGHT_PROBABILITY, "epochs": 30}
    relu = partial(perceptron, activation=nn.ReLU)
    cancer = partial(table, "breast_cancer")
    return [
        made(
            "mlp.iris",
            "MLP 2 x 32, ReLU",
            partial(relu, 4, 3, width=32, depth=2),
            partial(table, "iris"),
            **small,
        ),
        made(
            "mlp-bn.wine",
            "MLP 2 x 64, BatchNorm, SiLU",
            partial(perceptron, 13, 3, width=64, depth=2, activation=nn.SiLU, norm=nn.BatchNorm1d),
            partial(table, "wine"),
            **small,
        ),
        made(
            "mlp.breast-cancer", "MLP 2 x 64, ReLU", partial(relu, 30, 2, width=64, depth=2), cancer
        ),
        made(
            "swiglu.breast-cancer",
            "gated linear units, 2 layers",
            partial(GatedPerceptron, 30, 2, width=32, depth=2),
            cancer,
        ),
        made(
            "columns.breast-cancer",
            "transformer over columns, 2 layers",
            partial(ColumnTransformer, 30, 2, width=24, layers=2, heads=2),
            cancer,
            epochs=8,
        ),
        made(
            "mlp.diabetes",
            "MLP 2 x 32, GELU",
            partial(perceptron, 10, 1, width=32, depth=2, activation=nn.GELU),
            partial(table, "diabetes"),
            metric=Metric.R2,
            epochs=8,
        ),
    ]


def all_pairs(folder: Path = CACHE) -> list[Pair]:
    """Every pair; nothing is read or trained yet.

    Args:
        folder: of the checkpoints.
    """
    return [
        *_tables(folder),
        *_vision(folder),
        *_text(folder),
        *_classification(folder),
        *_retrieval(),
    ]


def chosen(patterns: str, pairs: list[Pair]) -> list[Pair]:
    """The pairs whose names or families fit comma-separated patterns, e.g. ``vision,minilm.*``.

    Raises:
        ValueError: a pattern that fits none; the message lists the names.
    """
    found: list[Pair] = []
    for pattern in patterns.split(","):
        fits = [p for p in pairs if fnmatchcase(p.name, pattern) or p.family == pattern]
        if not fits:
            names = ", ".join(pair.name for pair in pairs)
            raise ValueError(f"--pairs {pattern}: no such pair or family: choose from {names}")
        found += fits
    return [pair for pair in pairs if pair in found]
