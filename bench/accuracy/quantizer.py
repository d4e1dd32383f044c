"""What is measured: a function that quantises a trained model under a recipe."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from bench.accuracy.corpus import digest_of
from bench.accuracy.task import Batch
from workbench.ptq.scheme import EXTENDED, STANDARD, Scheme

__all__ = ["SCHEMES", "Quantized", "Quantizer", "source_digest", "workbench_quantizer"]

ROOT = Path(__file__).parents[2]
#: What decides the numbers that a quantised model computes.
SOURCES = ("workbench/ptq", "tiles/formats", "tiles/recipes")
#: Schemes by name, each after the first with one thing that is otherwise there.
SCHEMES: dict[str, Scheme] = {
    one.name: one
    for one in (
        STANDARD,
        EXTENDED,
        replace(STANDARD, name="standard-whole", keep_first_last=False),
        replace(STANDARD, name="standard-dynamic", dynamic=True),
    )
}


class Quantized(Protocol):
    """What a quantiser gives back; more fields are its own matter.

    One that has ``ran`` says there what multiplied the model's layers so far, by formats.
    """

    @property
    def model(self) -> nn.Module:
        """The quantised model, called as the one that it was made of."""


class Function(Protocol):
    """``workbench.ptq.quantize``, as far as it is used here."""

    def __call__(
        self,
        model: nn.Module,
        recipe: str,
        *,
        calibration: list[Batch],
        scheme: str,
        score: Callable[[nn.Module], float] | None,
        criterion: float,
    ) -> Quantized:
        """Quantise a model that the caller gives away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """A function, and the digest of what it does: a stored score of another digest is stale."""

    quantize: Function
    digest: str

    def __call__(self, model: nn.Module, recipe: str, **how: Any) -> Quantized:
        """The quantised model, in eval mode, and what else is known of it."""
        made = self.quantize(model, recipe, **how)
        made.model.eval()
        return made


def source_digest(folders: Iterable[str] = SOURCES) -> str:
    """SHA-256 of the Python files below folders of the repository, first 16 digits."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            found += [path.relative_to(ROOT).as_posix(), content]
    return digest_of(*found)


def workbench_quantizer() -> Quantizer:
    """The workbench's own."""
    from workbench.ptq import quantize

    def by_name(model: nn.Module, recipe: str, *, scheme: str, **how: Any) -> Quantized:
        return quantize(model, recipe, scheme=SCHEMES[scheme], **how)

    options = json.dumps([one.to_dict() for one in SCHEMES.values()], sort_keys=True)
    return Quantizer(quantize=by_name, digest=digest_of(source_digest(), options))
