"""A task of a moment, one that is trained, and quantisers that are good and bad."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.accuracy.quantizer import Quantizer
from bench.accuracy.task import Batch, Card
from bench.accuracy.training import Metric, Split, Trained

CLASSES, FEATURES = 4, 8


@cache
def blobs(seed: int = 0) -> Split:
    """Four clouds of points, a little mixed."""
    generator = torch.Generator().manual_seed(seed)
    centers = 2 * torch.randn(CLASSES, FEATURES, generator=generator)
    target = torch.arange(400) % CLASSES
    points = centers[target] + torch.randn(400, FEATURES, generator=generator)
    return Split(
        inputs=(points[:200],),
        target=target[:200],
        test_inputs=(points[200:],),
        test_target=target[200:],
        source="drawn",
    )


def small_model(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, CLASSES))


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A pair whose model is fitted by least squares: torch's optimisers load in seconds."""

    name: str = "mlp.blobs"
    family: str = "table"
    data: Callable[[], Split] = blobs

    def model(self) -> nn.Module:
        split = self.data()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = small_model(32)
        assert isinstance(model, nn.Sequential)
        with torch.no_grad():
            hidden = model[:2](split.inputs[0])
            columns = torch.cat((hidden, torch.ones(len(hidden), 1)), dim=1)
            wanted = nn.functional.one_hot(split.target, CLASSES).float()
            found = torch.linalg.lstsq(columns, wanted).solution
            model[2].weight.copy_(found[:-1].T)
            model[2].bias.copy_(found[-1])
        return model.eval()

    def calibration(self) -> list[Batch]:
        return [(rows.clone(),) for rows in self.data().inputs[0][:64].split(32)]

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        split = self.data()
        return Metric.ACCURACY.score(model(split.test_inputs[0]), split.test_target)

    def digest(self) -> str:
        return self.data().digest

    def card(self) -> Card:
        return Card(
            name=self.name,
            family=self.family,
            architecture="MLP",
            metric=Metric.ACCURACY.value,
            parameters=420,
            samples=200,
            calibration_samples=64,
            source="drawn",
            digest=self.digest(),
            counted=True,
        )


def blob_task(folder: Path, build: Callable[[], nn.Module] = small_model) -> Trained:
    return Trained(
        name="mlp.blobs",
        family="table",
        architecture="MLP",
        build=build,
        data=blobs,
        cache=folder,
        epochs=8,
        rate=5e-2,
    )


@dataclass
class Rounded:
    model: nn.Module


def round_weights(model: nn.Module, recipe: str, *, bits: int | None, **how: Any) -> Rounded:
    """Weights in bf16, or as so many levels up to the largest magnitude."""
    for parameter in model.parameters():
        if bits is None:
            parameter.data = parameter.data.bfloat16().float()
        else:
            step = parameter.data.abs().amax() / (2 ** (bits - 1) - 1)
            parameter.data = (parameter.data / step).round() * step
    return Rounded(model)


GOOD = Quantizer(quantize=partial(round_weights, bits=None), digest="good")
BAD = Quantizer(quantize=partial(round_weights, bits=2), digest="bad")
