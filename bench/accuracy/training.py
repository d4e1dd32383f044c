"""Models trained in seconds, the same on every run, and kept with the digest of what made them."""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from bench.accuracy.checkpoints import kept_or_made
from bench.accuracy.corpus import digest_of
from bench.accuracy.task import Batch, Card, device_of, parameters_of

__all__ = ["Metric", "Split", "Trained", "code_digest", "one_thread", "split_rows", "tensor_digest"]

#: Of :class:`Trained`, what decides parameters; functions are decided by their code.
_SETTINGS = ("name", "metric", "epochs", "rate", "rows", "decay", "seed")
_DECIDE = ("training", "classification", "pairs")
#: Of a batch of calibration, and how many.
CALIBRATION_ROWS, CALIBRATION_BATCHES = 32, 4


class Metric(Enum):
    """How outputs are judged, and what the training minimises."""

    ACCURACY = "accuracy"  #: logits (..., classes); cross entropy
    RIGHT_PROBABILITY = "mean probability of the right class"  #: for test sets too small to count
    R2 = "R2"  #: values; mean squared error

    def loss(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """What training minimises."""
        if self is Metric.R2:
            return nn.functional.mse_loss(output, target)
        return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())

    def score(self, output: torch.Tensor, target: torch.Tensor) -> float:
        """Higher is better, 1 is perfect; NaN where the output has one."""
        output = output.double()
        if bool(output.isnan().any()):
            return math.nan
        if self is Metric.R2:
            error = (output - target).square().sum(0)
            spread = (target - target.double().mean(0)).square().sum(0)
            told = spread > 0  # a pixel that is always dark is explained by nothing
            return float(1 - error[told].sum() / spread[told].sum())
        if self is Metric.ACCURACY:
            # Of equal logits the first is meant; a constant answer is right as often as its class.
            return float((output.argmax(-1) == target).double().mean())
        right = output.softmax(-1).gather(-1, target.unsqueeze(-1))
        return float(right.mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Samples to train on and others to be judged by."""

    inputs: Batch  #: each (samples, ...)
    target: torch.Tensor
    test_inputs: Batch
    test_target: torch.Tensor
    source: str

    @property
    def digest(self) -> str:
        """Of every number."""
        return tensor_digest(*self.inputs, self.target, *self.test_inputs, self.test_target)


def split_rows(
    inputs: Batch, target: torch.Tensor, source: str, *, test: float = 0.5, seed: int = 0
) -> Split:
    """Part samples at random.

    Args:
        test: share of the samples that is kept from training.
    """
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    border = round(len(target) * (1 - test))
    kept, judged = order[:border], order[border:]
    return Split(
        inputs=tuple(one[kept] for one in inputs),
        target=target[kept],
        test_inputs=tuple(one[judged] for one in inputs),
        test_target=target[judged],
        source=source,
    )


def tensor_digest(*tensors: torch.Tensor) -> str:
    """SHA-256 of shapes, dtypes and numbers, first 16 digits."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


@contextmanager
def one_thread(seed: int) -> Iterator[None]:
    """One thread of torch, whose sums then have one order, and a generator of its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def code_digest() -> str:
    """Of the code that decides what a trained model is."""
    paths = sorted(Path(__file__).parent.glob("*.py"))
    return digest_of(*(path.read_text(encoding="utf-8") for path in paths if _decides(path)))


def _decides(path: Path) -> bool:
    """The rest may change, and what was trained stays."""
    return path.stem.endswith(("_models", "_data")) or path.stem in _DECIDE


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model trained on a split's first part and judged on its other."""

    name: str
    family: str
    architecture: str
    build: Callable[[], nn.Module]
    data: Callable[[], Split]
    cache: Path  #: folder of checkpoints
    metric: Metric = Metric.ACCURACY
    epochs: int = 20
    rate: float = 3e-3
    rows: int = 64  #: of a batch
    decay: float = 1e-2
    seed: int = 0
    chance: float | None = None

    @cached_property
    def _split(self) -> Split:
        return self.data()

    def model(self) -> nn.Module:
        """The trained model, from its checkpoint where there is one that fits."""
        model = self._built()
        path = self.cache / f"{self.name}-{self.digest()}.safetensors"
        return kept_or_made(path, model, lambda: self._trained(model)).eval()

    def _built(self) -> nn.Module:
        with one_thread(self.seed):
            return self.build()

    def _trained(self, model: nn.Module) -> nn.Module:
        split = self._split
        steps = self.epochs * math.ceil(len(split.target) / self.rows)
        with one_thread(self.seed):
            optimizer = torch.optim.AdamW(model.parameters(), lr=self.rate, weight_decay=self.decay)
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, max_lr=self.rate, total_steps=steps
            )
            model.train()
            for _ in range(self.epochs):
                for rows in torch.randperm(len(split.target)).split(self.rows):
                    optimizer.zero_grad(set_to_none=True)
                    output = model(*(one[rows] for one in split.inputs))
                    self.metric.loss(output, split.target[rows]).backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
        return model

    def calibration(self) -> list[Batch]:
        """The first training samples."""
        count = CALIBRATION_ROWS * CALIBRATION_BATCHES
        parts = [one[:count].split(CALIBRATION_ROWS) for one in self._split.inputs]
        return list(zip(*parts, strict=True))

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        """The metric on the samples that training has not seen."""
        split, device = self._split, device_of(model)
        parts = zip(*(one.split(256) for one in split.test_inputs), strict=True)
        outputs = [model(*(one.to(device) for one in part)).float().cpu() for part in parts]
        return self.metric.score(torch.cat(outputs), split.test_target)

    def digest(self) -> str:
        """Of data, code and torch: what decides the trained parameters."""
        settings = [getattr(self, field) for field in _SETTINGS]
        return digest_of(self._split.digest, code_digest(), torch.__version__, repr(settings))

    def card(self) -> Card:
        """Sizes of model and data."""
        split = self._split
        return Card(
            name=self.name,
            family=self.family,
            architecture=self.architecture,
            metric=self.metric.value,
            parameters=parameters_of(self._built()),
            samples=split.test_target.numel()
            if self.metric is Metric.ACCURACY
            else len(split.test_target),
            calibration_samples=sum(len(batch[0]) for batch in self.calibration()),
            source=split.source,
            digest=split.digest,
            counted=self.metric is Metric.ACCURACY,
            chance=self.chance,
        )
