"""The accuracy-driven loop, what it keeps and what it says about it; refusals of ``quantize``."""

import math

import pytest
import torch
from ptq_cases import Encoder, assert_close, normal, tokens
from torch import nn

from tiles.recipes import recipe
from workbench.nn import ReferenceBackend
from workbench.ptq import EXTENDED, Quantized, Trial, quantize

X = normal(64, 16, seed=3)


class Planted(nn.Module):
    """Two layers in a row, the first with a feature that tensor-wise INT8 cannot carry."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bad, self.good = nn.Linear(16, 16), nn.Linear(16, 16)
        self.last = nn.Linear(16, 4)
        with torch.no_grad():
            self.bad.weight[0, 0] = 50.0  # one scale for all of it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.good(self.bad(x).clamp(-3, 3)))


def fidelity(model: nn.Module) -> float:
    """One less the relative error against the exact model."""
    with torch.no_grad():
        exact, y = Planted()(X), model(X)
    return 1.0 - float((y - exact).square().mean() / exact.square().mean())


def searched(criterion: float = 0.01, **options: object) -> tuple[Quantized, list[Trial]]:
    told: list[Trial] = []
    made = quantize(
        Planted(),
        "int8-tensor",
        calibration=[X],
        score=fidelity,
        criterion=criterion,
        progress=told.append,
        **options,  # type: ignore[arg-type]
    )
    return made, told


def test_the_operator_that_costs_the_score_falls_back_and_the_others_stay() -> None:
    made, told = searched()
    assert [k.name for k in made.kept] == ["bad"]
    assert made.kept[0].reason.startswith("fell back: the loss was ")
    assert [o.name for o in made.operators] == ["good", "last"]
    assert type(made.model.bad) is nn.Linear
    scores = made.scores
    assert scores is not None
    assert list(scores.trials) == told
    assert [(t.action, t.operator, t.holds) for t in told] == [
        ("all quantised", "", False),
        ("fall back", "bad", True),
    ]
    assert scores.reference == 1.0
    assert scores.quantized == told[0].score < 0.99
    assert scores.final == fidelity(made.model) == told[-1].score
    assert scores.holds
    assert scores.loss == pytest.approx(1 - scores.final)


def test_sensitivity_is_the_noise_of_an_operator_alone() -> None:
    made, _ = searched(keep=("last",))
    layer = quantize(Planted().good, "int8-tensor", calibration=[X]).model
    model = Planted()
    with torch.no_grad():
        x = model.bad(X).clamp(-3, 3)
        exact = model.good(x).double()
        operand = made.session.operators["good"].operands["input"]
        y = nn.functional.linear(operand.rounded(x), layer.values, model.good.bias).double()
    ratio = float((y - exact).square().sum() / exact.square().sum())
    (good,) = made.operators
    assert good.sensitivity == pytest.approx(ratio, rel=1e-6)
    kept = {k.name: k for k in made.kept}
    assert kept["last"].reason == "asked for"
    bad = kept["bad"].sensitivity
    assert bad is not None
    assert bad > ratio


def test_nothing_falls_back_where_the_criterion_holds() -> None:
    made, told = searched(criterion=0.9, keep="last")  # one pattern, not four letters
    assert [k.name for k in made.kept] == ["last"]
    assert len(told) == 1


def test_an_operator_that_need_not_have_fallen_is_quantised_again() -> None:
    """``last`` has more noise of its own than ``bad`` here, and costs the score nothing."""
    calls = {"n": 0}

    def score(model: nn.Module) -> float:
        calls["n"] += 1
        return 1.0 if type(model) is Planted and is_exact(model, "good") else 0.5

    def is_exact(model: nn.Module, name: str) -> bool:
        layer = getattr(model, name)
        return type(layer) is nn.Linear or bool(layer.operator.kept)

    made = quantize(Planted(), "int8-tensor", calibration=[X], score=score)
    noise = {o.name: o.sensitivity for o in (*made.operators, *made.kept)}
    assert noise["bad"] > noise["good"]  # so that it fell back first
    assert [k.name for k in made.kept] == ["good"]
    assert made.scores is not None
    again = [t for t in made.scores.trials if t.action == "quantise again"]
    assert "bad" in {t.operator for t in again if t.stays}
    assert made.scores.final == 1.0


def test_a_score_that_is_no_number_counts_as_a_loss() -> None:
    scores = iter((1.0, math.nan, 1.0))
    made = quantize(Planted(), "int8-tensor", calibration=[X], score=lambda model: next(scores))
    assert len(made.operators) == 2
    record = made.record()["scores"]
    assert record["trials"][0]["score"] is record["trials"][0]["loss"] is None


def test_a_model_that_must_not_lose_anything_ends_in_high_precision() -> None:
    model = Planted()
    with torch.no_grad():
        exact = model(X)

    def score(candidate: nn.Module) -> float:
        with torch.no_grad():
            return 1.0 if torch.allclose(candidate(X), exact, atol=1e-6) else 0.0

    made = quantize(model, "mxfp4", calibration=[X], scheme=EXTENDED, score=score, criterion=0.0)
    assert not made.operators
    assert made.scores is not None
    assert made.scores.final == 1.0


def test_the_record_is_json_and_names_what_was_tried() -> None:
    import json

    made, told = searched()
    record = json.loads(json.dumps(made.record(), allow_nan=False))
    assert record["schema"] == "tile-workbench/quantized/1"
    assert record["recipe"] == "int8-tensor"
    assert [t["operator"] for t in record["scores"]["trials"]] == [t.operator for t in told]
    assert record["operators"][0]["formats"] == {"input": "int8.tensor", "weight": "int8.tensor"}
    assert "kept in high precision: bad: fell back" in str(made)


def test_kernels_multiply_codes_where_a_backend_is_given() -> None:
    """The route of the training layers: codes into a backend, which says that it ran."""
    linear = nn.Linear(32, 16)
    x = normal(2, 5, 32)
    plain = quantize(linear, "fp8-ptq-e4m3", calibration=[x])
    backed = quantize(linear, "fp8-ptq-e4m3", calibration=[x], backend=ReferenceBackend())
    with torch.no_grad():
        assert_close(backed.model(x), plain.model(x), rtol=1e-5, atol=1e-5)
    pair = "e4m3fn.tensor x e4m3fn.row on cpu"
    assert backed.ran == {pair: "reference backend"}
    assert plain.ran == {
        pair: "reference (values of codes, multiplied in the model's dtype): no kernels on cpu"
    }
    dynamic = quantize(linear, "int8-row", calibration=[x], backend=ReferenceBackend())
    with torch.no_grad():
        expected = quantize(linear, "int8-row", calibration=[x]).model(x)
        assert_close(dynamic.model(x), expected, rtol=1e-5, atol=1e-5)
    assert dynamic.ran == {"int8.row x int8.row on cpu": "reference backend"}
    mx = quantize(linear, "mxfp4", calibration=[x], backend=ReferenceBackend())
    assert "no kernels on cpu" in next(iter(mx.ran.values()))


def test_models_move_between_dtypes_with_their_codes() -> None:
    made = quantize(Encoder(), "int8-row", calibration=[tokens(3, 5)])
    with torch.no_grad():
        before = made.model(tokens(3, 5))
        half = made.model.bfloat16()(tokens(3, 5))
    assert half.dtype is torch.bfloat16
    assert_close(half.float(), before, rtol=0.1, atol=0.05)


class Nothing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()


def broken_weight() -> nn.Module:
    model = Planted()
    with torch.no_grad():
        model.good.weight[1, 1] = math.nan
    return model


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Planted(), {"recipe": "fp8-ptq-e4m4"}, "unknown recipe 'fp8-ptq-e4m4': did you mean 'fp8"),
        (Planted(), {"recipe": "int8-fallback"}, "blocks that fall back are chosen step by step"),
        (Planted(), {"scheme": "extendet"}, "unknown scheme 'extendet': did you mean 'extended'"),
        (Planted(), {"calibration": None}, "int8-tensor under the standard scheme needs calibra"),
        (Planted(), {"calibration": []}, "calibration is empty: give at least one batch"),
        (Planted(), {"calibration": [X * math.nan]}, "calibration: the input of bad holds NaN"),
        (Planted(), {"calibration": [X * math.inf]}, "calibration: the input of bad holds NaN or"),
        (Planted(), {"criterion": 1.5}, "criterion 1.5: a relative loss from 0 to below 1"),
        (Planted(), {"keep": ("god",)}, "keep 'god': no layer .* did you mean 'good'"),
        (Planted(), {"score": lambda model: 0.0}, "scores 0: a relative criterion needs"),
        (Planted(), {"score": lambda model: math.nan}, "scores nan: a relative criterion needs"),
        (Planted(), {"keep": ("*",)}, "nothing in Planted can follow int8-tensor .*: bad: asked"),
        (broken_weight(), {}, "the weight of good holds NaN or infinite values"),
        (Nothing(), {}, "nothing in Nothing can follow int8-tensor .*: it calls no operator"),
        (nn.GELU(), {}, "nothing in GELU can follow .*GELU: int8-tensor has no such operator"),
    ],
)
def test_what_does_not_fit_is_one_line(
    model: nn.Module, options: dict[str, object], message: str
) -> None:
    given = {"recipe": "int8-tensor", "calibration": [X]} | options
    with pytest.raises(ValueError, match=message) as refused:
        quantize(model, given.pop("recipe"), **given)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text", "int8-row"), "quantize takes a torch module, not str"),
        ((Planted(), 8), "a recipe is a name or a Recipe, not 8"),
    ],
)
def test_wrong_types_are_told(arguments: tuple[object, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        quantize(*arguments, calibration=[X])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="calibration: each batch is a tensor, or the tuple"):
        quantize(Planted(), "int8-row", calibration=["text"])
    with pytest.raises(TypeError, match="keep 3: give patterns of names"):
        quantize(Planted(), "int8-row", calibration=[X], keep=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="calibration 'Tensor': give a list of batches"):
        quantize(Planted(), "int8-row", calibration=X)


def test_a_quantised_model_is_not_quantised_again() -> None:
    made = quantize(Planted(), "int8-tensor", calibration=[X])
    with pytest.raises(ValueError, match="the model is quantised already"):
        quantize(made.model, "int8-tensor", calibration=[X])


def test_weights_alone_need_no_data_and_other_layers_are_listed() -> None:
    made = quantize(Encoder(), recipe("w8a16"))
    assert {o.kind for o in made.operators} == {"linear"}
    reasons = {k.name: k.reason for k in made.kept}
    assert reasons["embedding"] == "w8a16 quantises the weights of products alone"


class Normed(nn.Sequential):
    """Batch statistics of data that is twice as wide as calibration's, or just as wide."""

    def __init__(self, wider: float) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(16, 16), nn.BatchNorm1d(16, momentum=None), nn.Linear(16, 4))
        with torch.no_grad():
            self(wider * X)
        self.eval()


@pytest.mark.parametrize("wider", [2.0, 1.0])
def test_statistics_that_cost_the_score_stay_as_they_were_trained(wider: float) -> None:
    exact = Normed(wider)

    def near(model: nn.Module) -> float:
        with torch.no_grad():
            return 1.0 - float((model(X) - exact(X)).norm() / exact(X).norm())

    made = quantize(
        exact, "int8-row", calibration=[X], scheme="extended", score=near, criterion=0.1
    )
    scores = made.scores
    assert scores is not None
    assert scores.holds
    assert [o.name for o in made.operators] == ["0", "1", "2"]
    as_trained = torch.equal(made.model[1].running_var, exact[1].running_var)  # type: ignore[index, arg-type, union-attr]
    actions = [trial.action for trial in scores.trials]
    if wider > 1.0:
        assert scores.quantized < 0.9
        assert as_trained
        assert actions == ["all quantised", "trained batch statistics"]
    else:
        assert not as_trained
        assert actions == ["all quantised"]


def test_renewed_statistics_stay_where_they_are_better() -> None:
    exact = Normed(2.0)
    wanted = Normed(1.0)
    wanted.load_state_dict({**exact.state_dict(), **dict(wanted.named_buffers())})
    scored: list[nn.Module] = []

    def near(model: nn.Module) -> float:
        scored.append(model)  # the exact one first
        with torch.no_grad():
            far = float((model(X) - wanted(X)).norm() / wanted(X).norm())
        return 1.0 if len(scored) == 1 else 0.5 - far

    scores = quantize(exact, "int8-row", calibration=[X], scheme="extended", score=near).scores
    assert scores is not None
    tried = scores.trials[1]
    assert (tried.action, tried.stays) == ("trained batch statistics", False)
