"""Scores of models whose layers share weights, and what counts as within a criterion."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ptq_cases import normal, tokens
from torch import nn
from torch.nn import functional as F

from bench.accuracy.coverage import Coverage
from bench.accuracy.record import Row, Status
from workbench.ptq import STANDARD, Quantized, Scores, load, quantize
from workbench.ptq.criterion import SLACK, holds, relative_loss

IDS = tokens(4, 6)


class Tied(nn.Module):
    """A table whose rows are also the last product's weight: a layer's, or a function's."""

    def __init__(self, layer: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.middle = nn.Embedding(20, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 20, bias=False) if layer else None
        if self.head is not None:
            self.head.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.middle(self.table(ids))
        return F.linear(x, self.table.weight) if self.head is None else self.head(x)


def fidelity(exact: nn.Module) -> Callable[[nn.Module], float]:
    """One less a model's relative error against another."""
    with torch.no_grad():
        wanted = exact(IDS)

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            return 1 - float((model(IDS) - wanted).norm() / wanted.norm())

    return score


@pytest.mark.parametrize("layer", [True, False], ids=["layer", "function"])
@pytest.mark.parametrize("criterion", [0.0, 0.05, 0.12, 0.2, 0.3])
def test_a_shared_weight_is_scored_as_the_model_computes_in_the_end(
    layer: bool, criterion: float
) -> None:
    model = Tied(layer).eval()
    score = fidelity(model)
    told: list[float] = []

    def noted(candidate: nn.Module) -> float:
        told.append(score(candidate))
        return told[-1]

    made = quantize(model, "mxfp4", calibration=[IDS], score=noted, criterion=criterion)
    assert made.scores is not None
    assert made.scores.final == score(made.model)
    assert made.scores.holds
    assert told[0] == 1.0
    kept = {k.name for k in made.kept}
    names = ["table", "middle", "head" if layer else ":linear"]
    assert kept | {o.name for o in made.operators} == set(names)
    if made.operators:  # what fell back is as if it had never been quantised
        alone = quantize(model, "mxfp4", calibration=[IDS], keep=tuple(kept))
        assert score(alone.model) == made.scores.final


@pytest.mark.parametrize("layer", [True, False], ids=["layer", "function"])
@pytest.mark.parametrize("keep", ["middle", "table", "head"])
def test_a_shared_weight_comes_back_from_a_file(keep: str, layer: bool, tmp_path: Path) -> None:
    kept = ":linear" if keep == "head" and not layer else keep
    made = quantize(Tied(layer).eval(), "int8-ptq", calibration=[IDS], keep=kept)
    read = load(Tied(layer).eval(), made.save(tmp_path / "a.safetensors"), "int8-ptq")
    assert torch.equal(read.model(IDS), made.model(IDS))
    assert not read.unmet


@pytest.mark.parametrize("layer", [True, False], ids=["layer", "function"])
def test_sensitivity_of_a_shared_weight_is_that_of_its_operator_alone(layer: bool) -> None:
    model = Tied(layer).eval()
    made = quantize(model, "mxfp4", calibration=[IDS])
    (last,) = (o for o in made.operators if o.name in ("head", ":linear"))
    alone = quantize(model, "mxfp4", calibration=[IDS], keep=("table", "middle"))
    assert alone.operators[0].sensitivity == last.sensitivity
    with torch.no_grad():
        wanted = model(IDS).double()
        noise = float((alone.model(IDS).double() - wanted).square().sum() / wanted.square().sum())
    assert noise == pytest.approx(last.sensitivity, rel=1e-5)


@pytest.mark.parametrize("layer", [True, False], ids=["layer", "function"])
def test_an_operator_says_that_its_weight_is_shared(layer: bool) -> None:
    made = quantize(Tied(layer).eval(), "mxfp4", calibration=[IDS])
    notes = {o.name: [n for n in o.notes if "is also" in n] for o in made.operators}
    assert notes["table"] == (["its weight is also that of head"] if layer else [])
    assert notes.get("head", []) == (["its weight is also that of table"] if layer else [])


def test_a_smoothed_layer_gives_others_its_weight_without_the_factors() -> None:
    class Borrowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.second(self.first(x)), self.first.weight)

    x = normal(32, 16) * torch.logspace(-2, 2, 16)  # features of very different sizes
    scheme = replace(STANDARD, name="smooth", smooth=0.5, keep_first_last=False)
    model = Borrowed().eval()
    made = quantize(model, "int8-row", calibration=[x], scheme=scheme)
    with torch.no_grad():
        weight, expected = made.model.first.weight, model.first.weight
        assert float((weight - expected).norm() / expected.norm()) < 0.2
        y, exact = made.model(x), model(x)
    assert float((y - exact).norm() / exact.norm()) < 0.2


# A score of 99 against 100 and its like: each loses exactly the criterion.
EXACT = [
    *[(1.0, 0.99, 0.01), (100.0, 99.0, 0.01), (0.7, 0.693, 0.01), (0.3, 0.297, 0.01)],
    *[(0.9, 0.81, 0.1), (-1.0, -1.01, 0.01), (0.8, 0.76, 0.05), (200 / 285, 198 / 285, 0.01)],
]


def row(reference: float, score: float) -> Row:
    return Row(
        pair="p", family="f", recipe="r", scheme="standard", tuned=False, digest="", quantizer="",
        status=Status.SCORED, score=score, fp32=reference,
    )  # fmt: skip


def searched(reference: float, score: float, criterion: float) -> Quantized:
    scores = iter((reference, score, reference, reference, reference))
    return quantize(
        nn.Linear(8, 8), "int8-row", calibration=[normal(4, 8)], score=lambda model: next(scores),
        criterion=criterion,
    )  # fmt: skip


def coverage(reference: float, score: float, criterion: float) -> Coverage:
    return Coverage.of(
        recipe="r", scheme="standard", tuned=False, family="",
        changes={"p": row(reference, score).change}, criterion=criterion,
    )  # fmt: skip


@pytest.mark.parametrize(("reference", "score", "criterion"), EXACT)
def test_a_loss_of_exactly_the_criterion_is_within_it_everywhere(
    reference: float, score: float, criterion: float
) -> None:
    assert holds(relative_loss(reference, score), criterion)
    assert row(reference, score).within(criterion)
    assert coverage(reference, score, criterion).missed == ()
    made = searched(reference, score, criterion)
    assert made.scores is not None
    assert made.scores.trials[0].holds
    assert made.scores.holds
    assert len(made.operators) == 1


@pytest.mark.parametrize(("reference", "score", "criterion"), EXACT)
def test_a_loss_beyond_the_criterion_is_missed_everywhere(
    reference: float, score: float, criterion: float
) -> None:
    lower = score - 1e-6 * abs(reference)
    assert not holds(relative_loss(reference, lower), criterion)
    assert not row(reference, lower).within(criterion)
    assert coverage(reference, lower, criterion).missed == ("p",)
    made = searched(reference, lower, criterion)
    assert made.scores is not None
    assert not made.scores.trials[0].holds
    trials = made.scores.trials
    alone = Scores(reference=reference, quantized=lower, final=lower, criterion=criterion,
                   trials=trials)  # fmt: skip
    assert not alone.holds


def test_what_is_no_number_is_a_loss_and_equality_is_none() -> None:
    assert relative_loss(1.0, math.nan) == math.inf
    assert not holds(math.inf, 0.99)
    assert not holds(math.nan, 0.99)
    assert holds(0.0, 0.0)
    assert holds(-0.5, 0.0)
    # Slack is far below what one sample of any data set here moves a score by.
    assert SLACK < 1e-3 / 1e5
    assert row(0.7, 0.7).change == 0.0
    assert math.copysign(1, row(0.7, 0.7).change or 0.0) == 1  # printed as +0.00 %
