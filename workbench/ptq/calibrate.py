"""Passes of calibration data through a model whose operators watch."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from tiles.intake import shown
from workbench.ptq.layers import QuantizedLayer
from workbench.ptq.linear import QuantizedLinear
from workbench.ptq.operator import Operator, Phase, Session

__all__ = ["Batch", "calibrate", "check_batches", "measure", "recalibrate_batchnorm", "run_batches"]

Batch = tuple[torch.Tensor, ...]


def check_batches(batches: object) -> list[Batch]:
    """Calibration batches as tuples of tensors.

    Raises:
        ValueError: there are none.
        TypeError: they are no tensors or tuples of them.
    """
    if batches is None:
        return []
    if isinstance(batches, torch.Tensor) or not isinstance(batches, Iterable):
        raise TypeError(f"calibration {shown(type(batches).__name__)}: give a list of batches")
    found: list[Batch] = []
    for batch in batches:
        one = batch if isinstance(batch, Sequence) else (batch,)
        if not one or not all(isinstance(x, torch.Tensor) for x in one):
            raise TypeError(
                "calibration: each batch is a tensor, or the tuple of tensors that the model is "
                "called with"
            )
        found.append(tuple(one))
    if not found:
        raise ValueError("calibration is empty: give at least one batch of the model's inputs")
    return found


def run_batches(model: nn.Module, session: Session, batches: list[Batch], phase: Phase) -> None:
    """Call the model on every batch, in a phase; afterwards the session is where it was."""
    before, session.phase = session.phase, phase
    try:
        with torch.no_grad():
            for batch in batches:
                model(*batch)
    finally:
        session.phase = before


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
    for operand in operator.operands.values():
        operand.settle()
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
    finally:
        for norm, (training, momentum) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(training)
    return len(norms)
