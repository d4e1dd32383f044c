"""Passes of calibration data through a model whose operators watch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tiles.intake import shown
from workbench.ptq.layers import QuantizedLayer
from workbench.ptq.linear import QuantizedLinear
from workbench.ptq.operator import Operator, Phase, Session

__all__ = ["Batch", "calibrate", "check_batches", "measure", "recalibrate_batchnorm", "run_batches"]

#: Positional arguments of a model, or its arguments by name.
Batch = tuple[torch.Tensor, ...] | dict[str, Any]
#: What a model that is called wrongly raises; what else it raises is not about its arguments.
_BREAKS = (RuntimeError, TypeError, KeyError, IndexError, AttributeError, AssertionError)
_RULE = (
    "calibration: each batch is a tensor, or the tuple of tensors that the model is called with, "
    "or a mapping of its arguments by name"
)


def check_batches(batches: object) -> list[Batch]:
    """Calibration batches as tuples of tensors, or as arguments by name.

    Raises:
        ValueError: there are none, or one of them is empty.
        TypeError: they are no tensors, tuples of them or mappings.
    """
    if batches is None:
        return []
    if isinstance(batches, torch.Tensor | Mapping | str) or not isinstance(batches, Iterable):
        raise TypeError(f"calibration {shown(type(batches).__name__)}: give a list of batches")
    found: list[Batch] = []
    for place, batch in enumerate(batches, start=1):
        made = _batch(batch)
        tensors = _tensors(made)
        if not any(x.numel() for x in tensors):
            raise ValueError(
                f"calibration: batch {place} is empty ({_shapes(tensors)}): leave it out"
            )
        found.append(made)
    if not found:
        raise ValueError("calibration is empty: give at least one batch of the model's inputs")
    return found


def _batch(batch: object) -> Batch:
    if isinstance(batch, Mapping):
        made = dict(batch)
        if not all(isinstance(name, str) for name in made) or not _tensors(made):
            raise TypeError(_RULE)
        return made
    one = batch if isinstance(batch, Sequence) else (batch,)
    if not one or not all(isinstance(x, torch.Tensor) for x in one):
        raise TypeError(_RULE)
    return tuple(one)


def _tensors(batch: Batch) -> list[torch.Tensor]:
    values = batch.values() if isinstance(batch, dict) else batch
    return [value for value in values if isinstance(value, torch.Tensor)]


def _shapes(tensors: list[torch.Tensor]) -> str:
    return ", ".join("x".join(map(str, x.shape)) or "a number" for x in tensors)


def run_batches(model: nn.Module, session: Session, batches: list[Batch], phase: Phase) -> None:
    """Call the model on every batch, in a phase; afterwards the session is where it was.

    Raises:
        ValueError: the model cannot be called with one of them.
    """
    before, session.phase = session.phase, phase
    try:
        with torch.no_grad():
            for session.batch, batch in enumerate(batches, start=1):
                try:
                    _call(model, batch)
                except _BREAKS as error:
                    session.phase = Phase.EXACT
                    _check_call(model, batch, session.batch)
                    raise error from None  # in high precision it works: not about the arguments
    finally:
        session.phase, session.batch = before, 0


def _call(model: nn.Module, batch: Batch) -> None:
    if isinstance(batch, dict):
        model(**batch)
    else:
        model(*batch)


def _check_call(model: nn.Module, batch: Batch, place: int) -> None:
    """Tell a model that is called wrongly, which breaks in high precision too."""
    try:
        _call(model, batch)
    except _BREAKS as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"calibration: the model cannot be called with batch {place} "
            f"({_shapes(_tensors(batch))}): {type(error).__name__}: {text}: give each batch as the "
            "tuple of its positional arguments, or a mapping of its arguments by name"
        ) from error


def calibrate(model: nn.Module, session: Session, batches: list[Batch]) -> None:
    """Find operators, scales and codes of weights.

    Inputs of every operator are those that it has in high precision.

    Raises:
        ValueError: something that is to be quantised is not finite.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, QuantizedLayer)]
    linear = [layer for layer in layers if isinstance(layer, QuantizedLinear)]
    if any(layer.smooths for layer in linear):
        run_batches(model, session, batches, Phase.CHANNELS)
        for layer in linear:
            layer.smooth()
    run_batches(model, session, batches, Phase.OBSERVE)
    session.found = True
    for operator in session.operators.values():
        settle(operator)
    for one in layers:
        if not one.operator.kept:
            one.settle()
            one.note_ragged()


def settle(operator: Operator) -> None:
    """Fix an operator's scales; one that calibration did not reach is kept."""
    for role, operand in operator.operands.items():
        operand.settle()
        if operand.scale is not None and not float(operand.observer.amax or 0):
            operator.notes.append(f"{role}: calibration saw zeros alone, its scale is 1")
    if not operator.kept and not all(o.ready for o in operator.operands.values()):
        operator.kept = "calibration did not reach it, so that its scales are not known"


def measure(model: nn.Module, session: Session, batches: list[Batch]) -> None:
    """Find how much noise each operator adds to its own output."""
    run_batches(model, session, batches, Phase.MEASURE)


def recalibrate_batchnorm(model: nn.Module, session: Session, batches: list[Batch]) -> int:
    """Renew running means and variances on what the quantised model computes.

    Statistics are the plain averages over the batches, as of a fresh layer with ``momentum=None``.
    Source: arXiv 2309.14592, section 3.2: BatchNorm calibration, there on 3000 samples.

    Returns:
        Layers that were renewed.
    Raises:
        ValueError: a batch has too few values for statistics.
    """
    norms = [
        layer
        for layer in model.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats
    ]
    if not norms or not batches:
        return 0
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        run_batches(model, session, batches, Phase.RUN)
    except ValueError as error:  # torch's, of a batch with one value for a channel
        raise ValueError(
            f"calibration: batch statistics cannot be renewed ({error}): give larger batches, or "
            "a scheme with recalibrate_batchnorm=False"
        ) from error
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(training)
    return len(norms)
