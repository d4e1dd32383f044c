"""One run: steps, looks at the held-out text, and checkpoints from which it goes on to the bit."""

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench.train_gpt.batches import held_out_windows, starts_of
from bench.train_gpt.model import PLAIN, build
from bench.train_gpt.outcome import Outcome, Run, Status
from bench.train_gpt.packed_backend import PackedBackend, packs
from bench.train_gpt.settings import VOCABULARY, Settings
from examples.train_int8_gpt import Gpt
from workbench.nn import Runtime, StepGuard, StepRefused, load_training_state, training_state
from workbench.nn.training_state import runtime_of

__all__ = ["Progress", "train"]

Bytes = npt.NDArray[np.uint8]

#: Steps of a process that are not timed: kernels are compiled in them.
WARM_STEPS = 20


@dataclass(slots=True)
class Progress:
    """Where a run stands; part of its checkpoint."""

    step: int = 0
    refused: int = 0
    in_a_row: int = 0  #: refused last
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)  #: losses that the curve has not yet
    train_curve: list[list[float]] = field(default_factory=list)
    held_out_curve: list[list[float]] = field(default_factory=list)


def train(
    run: Run,
    settings: Settings,
    train_text: Bytes,
    held_out: Bytes,
    *,
    device: str,
    checkpoint: Path,
    until: float = math.inf,
    stepped: Callable[[Progress], None] = lambda at: None,
) -> Outcome:
    """Train, from the checkpoint where there is one; the last one is left for the caller to remove.

    Args:
        until: seconds of ``time.time()`` at which the run stops with a checkpoint.
        stepped: called behind each step.
    Raises:
        ValueError: the recipe or the text does not fit, or the checkpoint is of something else.
    """
    trainer = Trainer(run, settings, train_text, held_out, device)
    trainer.load(checkpoint)
    at = trainer.at
    warm = at.step + WARM_STEPS
    warm_seconds = None
    reason = ""
    while at.step < settings.steps and not reason:
        if time.time() >= until:
            trainer.save(checkpoint)
            reason = f"the time was over behind step {at.step} of {settings.steps}"
            return trainer.outcome(Status.UNFINISHED, reason)
        begin = time.perf_counter()
        trainer.step()
        at.seconds += time.perf_counter() - begin
        stepped(at)
        if at.step == warm:
            warm_seconds = at.seconds
        reason = trainer.divergence()
        if settings.looked_at(at.step) and not reason:
            at.held_out_curve.append([at.step, trainer.held_out_loss()])
        if at.step % settings.checkpoint == 0 and at.step < settings.steps:
            trainer.save(checkpoint)
    if warm_seconds is not None and at.step > warm:
        trainer.steps_per_s = (at.step - warm) / (at.seconds - warm_seconds)
    if not reason and not math.isfinite(at.held_out_curve[-1][1]):
        reason = "the loss of the held-out text is not finite"
    return trainer.outcome(Status.DIVERGED if reason else Status.FINISHED, reason)


class Trainer:
    """Model, optimiser and text of a run."""

    def __init__(
        self, run: Run, settings: Settings, train_text: Bytes, held_out: Bytes, device: str
    ) -> None:
        self.run, self.settings, self.device = run, settings, torch.device(device)
        self.model: Gpt = build(settings.size, run.recipe, run.seed).to(self.device)
        self.optimizer = _optimizer(self.model, settings)
        self.guard = StepGuard(self.model, self.optimizer, max_norm=settings.max_norm)
        self.text = torch.from_numpy(train_text.copy()).to(self.device)
        starts = starts_of(len(train_text), settings, run.seed)
        self.starts = torch.from_numpy(starts).to(self.device)
        self.span = torch.arange(settings.size.tokens + 1, device=self.device)
        if run.recipe != PLAIN:
            _pack_codes(runtime_of(self.model), self.starts.device)
        self.windows = torch.from_numpy(held_out_windows(held_out, settings)).to(self.device)
        self.at = Progress()
        self.losses: list[torch.Tensor] = []  # on the device: read once in a while
        self.steps_per_s: float | None = None

    def step(self) -> None:
        """One step; refused where a gradient is not finite."""
        at, settings = self.at, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate_at(at.step)
        batch = self.text[self.starts[at.step][:, None] + self.span].long()
        self.optimizer.zero_grad(set_to_none=True)
        loss = _loss(self.model, batch)
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the guard's own: counted here
            refused = isinstance(self.guard.step(), StepRefused)
        at.step += 1
        at.refused += refused
        at.in_a_row = at.in_a_row + 1 if refused else 0
        self.losses.append(loss.detach())
        if at.step % settings.curve == 0 or at.step == settings.steps:
            self._read_losses()
            at.train_curve.append([at.step, math.fsum(at.recent) / len(at.recent)])
            at.recent.clear()

    def _read_losses(self) -> None:
        if self.losses:
            self.at.recent += torch.stack(self.losses).tolist()
            self.losses.clear()

    def divergence(self) -> str:
        """Why the run has diverged; "" where it has not."""
        at = self.at
        if at.in_a_row >= self.settings.refused:
            return f"gradients were not finite in {at.in_a_row} steps in a row"
        if not at.train_curve or at.train_curve[-1][0] != at.step or len(at.train_curve) < 2:
            return ""
        loss = at.train_curve[-1][1]
        if not loss <= math.log(VOCABULARY):
            return (
                f"the training loss is {loss:.3f}, a uniform guess has {math.log(VOCABULARY):.3f}"
            )
        return ""

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Nats a token, the mean of all windows."""
        parts = torch.split(self.windows, self.settings.size.batch)
        losses = [_loss(self.model, part.long()) * len(part) for part in parts]
        return float(torch.stack(losses).double().sum()) / len(self.windows)

    def outcome(self, status: Status, reason: str) -> Outcome:
        """What there is to tell now."""
        at, backend, unserved = self.at, "torch", {}
        if self.run.recipe != PLAIN:
            found = runtime_of(self.model).backend(self.starts.device)
            backend, unserved = found.name, dict(getattr(found, "unserved", {}))
        last = at.held_out_curve[-1] if at.held_out_curve else [0, math.nan]
        return Outcome(
            recipe=self.run.recipe,
            seed=self.run.seed,
            status=status,
            reason=reason,
            steps=at.step,
            refused=at.refused,
            loss=last[1] if status is Status.FINISHED and last[0] == at.step else None,
            train_curve=at.train_curve,
            held_out_curve=at.held_out_curve,
            seconds=round(at.seconds, 2),
            steps_per_s=self.steps_per_s,
            backend=backend,
            unserved=unserved,
        )

    def _key(self) -> str:
        return f"{self.run} {self.settings.digest}"

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        self._read_losses()
        plain = self.run.recipe == PLAIN
        state = {
            "key": self._key(),
            "progress": asdict(self.at),
            "model": self.model.state_dict() if plain else training_state(self.model),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_name(path.name + ".tmp")
        torch.save(state, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint; from the start where there is none.

        Raises:
            ValueError: it is of another run or other settings.
        """
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        if state["key"] != self._key():
            raise ValueError(f"{path}: of {state['key']}, not {self._key()}: move it away")
        if self.run.recipe == PLAIN:
            self.model.load_state_dict(state["model"])
        else:
            load_training_state(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.at = Progress(**state["progress"])


def _pack_codes(runtime: Runtime, device: torch.device) -> None:
    """Have kernels make the codes that the layers' own backend leaves to its twin."""
    if device.type == "cuda" and packs(runtime.recipe.activation):
        runtime.given = PackedBackend(device)


def _loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    logits = model(batch[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW in fp32, which all recipes here have in common; matrices alone decay."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = parameters[0].device.type == "cuda"
    return torch.optim.AdamW(
        groups, lr=settings.rate, betas=settings.betas, fused=True if fused else None
    )
