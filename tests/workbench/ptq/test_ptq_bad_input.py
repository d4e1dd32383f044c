"""Calibration data, models and files that do not fit: one line each, with what to do."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ptq_cases import normal
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from workbench.ptq import STANDARD, load, quantize, quantize_weights, read_weights

X = normal(8, 16)
NAN = X * torch.nan


class Named(nn.Module):
    """Takes its arguments by name alone, as models with many inputs do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(16, 16)

    def forward(self, *, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        y: torch.Tensor = self.linear(hidden)
        return y if mask is None else y * mask


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval()


def test_arguments_are_given_by_name() -> None:
    batch = {"hidden": X, "mask": None}
    made = quantize(Named(), "int8-tensor", calibration=[batch])
    twin = quantize(Named().linear, "int8-tensor", calibration=[X])
    assert torch.equal(made.model(hidden=X), twin.model(X))
    assert torch.equal(made.model(hidden=X, mask=X), twin.model(X) * X)
    record = made.record()["options"]
    assert record["calibration_batches"] == 1
    assert record["calibration_digest"] != twin.record()["options"]["calibration_digest"]


def emptied(layer: nn.Linear) -> nn.Linear:
    """A layer without outputs; torch warns of making one."""
    layer.weight = nn.Parameter(layer.weight[:0].detach())
    return layer


def uncopied() -> nn.Linear:
    layer = nn.Linear(16, 4)
    layer.computed = layer.weight * 2  # torch copies no tensor that was computed
    return layer


GPTQ = replace(STANDARD, name="gptq", gptq=True)
SMOOTH = replace(STANDARD, name="smooth", smooth=0.5)
BROKEN: dict[str, tuple[nn.Module, dict[str, Any], str]] = {
    "by position": (
        Named(), {"calibration": [X]},
        r"the model cannot be called with batch 1 \(8x16\): TypeError: Named.forward\(\) takes 1 p",
    ),
    "another width": (
        layers(), {"calibration": [X, X[:, :3]]},
        r"called with batch 2 \(8x3\): RuntimeError: mat1 and mat2 shapes cannot .*: give each ba",
    ),
    "an index too large": (
        nn.Sequential(nn.Embedding(4, 4)), {"calibration": [torch.tensor([[9]])]},
        r"called with batch 1 \(1x1\): IndexError: index out of range",
    ),
    "integers": (layers(), {"calibration": [X.long()]}, "called with batch 1 .*RuntimeError"),
    "empty batch": (layers(), {"calibration": [X, X[:0]]}, r"batch 2 is empty \(0x16\): leave it"),
    "NaN": (layers(), {"calibration": [X, NAN]}, "the input of 0 holds NaN .* in batch 2: leave"),
    "NaN of GPTQ": (
        layers(), {"recipe": "w8a16", "scheme": GPTQ, "calibration": [X, X, NAN]},
        "the input of 0 holds NaN or infinite values in batch 3: leave",
    ),
    "NaN of smoothing": (
        layers(), {"scheme": SMOOTH, "calibration": [NAN]}, "the input of 0 holds NaN or infinite",
    ),
    "NaN of a direct cast": (
        layers(), {"recipe": "fp8-ptq-e5m2", "calibration": [NAN]}, "the input of 0 holds NaN or",
    ),
    "NaN of the model itself": (
        nn.Linear(16, 4), {"calibration": [NAN]}, "the input of the model holds NaN or infinite",
    ),
    "no score": (layers(), {"score": lambda model: None}, r"score\(model\) gave None: it has to"),
    "two scores": (layers(), {"score": lambda model: X[0]}, r"score\(model\) gave tensor\(.*one"),
    "on no device": (nn.Linear(16, 4, device="meta"), {}, "weight lies on the meta device and"),
    "no weights": (
        emptied(nn.Linear(16, 4, bias=False)), {}, "the model itself: its weight is empty",
    ),
    "statistics of one row": (
        nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)),
        {"scheme": "extended", "calibration": [X[:1]]},
        "batch statistics cannot be renewed .*more than 1 value per channel.* give larger batches",
    ),
    "no copy": (uncopied(), {}, "Linear cannot be copied .*: build it anew and load its weights"),
    "keep a container": (
        nn.Sequential(layers(), nn.Linear(4, 4)), {"keep": "0"},
        r"keep '0': no layer or operator .*: write 0\[.:\]\* for what it holds, as 0.0",
    ),
    "keep nothing": (layers(), {"keep": ("0", "9")}, "keep '9': no layer or operator of the model"),
    "keep nothing of weights": (
        layers(), {"recipe": "w8a16", "calibration": None, "keep": "lm_head"},
        "keep 'lm_head': no layer or operator of the model has such a name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_is_one_line(case: str) -> None:
    model, options, message = BROKEN[case]
    given = {"recipe": "int8-tensor", "calibration": [X]} | options
    with pytest.raises(ValueError, match=message) as refused:
        quantize(model, given.pop("recipe"), **given)
    assert "\n" not in str(refused.value)


def test_what_a_container_holds_is_kept_as_the_message_says() -> None:
    made = quantize(
        nn.Sequential(layers(), nn.Linear(4, 4)), "int8-tensor", calibration=[X], keep="0[.:]*"
    )
    assert [o.name for o in made.operators] == ["1"]


def test_wrong_types_of_calibration_and_criterion_are_told() -> None:
    with pytest.raises(TypeError, match="calibration 'str': give a list of batches"):
        quantize(layers(), "int8-tensor", calibration="data.pt")
    with pytest.raises(TypeError, match="calibration 'dict': give a list of batches"):
        quantize(Named(), "int8-tensor", calibration={"hidden": X})
    for batch in (X.numpy(), (X, "text"), {"hidden": "text"}, {1: X}):
        with pytest.raises(TypeError, match="calibration: each batch is a tensor, or the tuple"):
            quantize(Named(), "int8-tensor", calibration=[batch])
    with pytest.raises(TypeError, match=r"criterion '1%': a relative loss, a number such as 0.01"):
        quantize(layers(), "int8-tensor", calibration=[X], criterion="1%")  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [False, True])
def test_a_layer_with_hooks_is_kept_and_named(own: bool) -> None:
    """Codes in its place would not call them."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 32)).eval()
    x = torch.ones(2, 64)
    if own:  # as libraries do that spread a model over devices
        before = model[0].forward
        model[0].forward = lambda x: before(x) + 1  # type: ignore[method-assign]
    else:
        model[0].register_forward_hook(lambda layer, given, y: y + 1)
    with torch.no_grad():
        expected = model[0](x)
    done = quantize(model, "int8-row", calibration=[x])
    (kept,) = done.kept
    assert kept.name == "0"
    assert kept.reason == "it has hooks: remove them, quantise, and register them again"
    assert torch.equal(done.model[0](x), expected)  # type: ignore[index, operator]


def test_an_operand_that_was_always_zero_says_so() -> None:
    made = quantize(layers(), "int8-tensor", calibration=[0 * X])
    assert made.operators[0].notes == ("input: calibration saw zeros alone, its scale is 1",)
    assert made.operators[1].notes == ()
    assert not quantize(layers(), "int8-tensor", calibration=[0 * X, X]).operators[0].notes


def test_a_mistake_of_ours_is_not_told_as_the_caller_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks on rounded operands alone keeps its own error."""
    from workbench.ptq.operand import Operand

    def broken(self: Operand, x: torch.Tensor, **options: Any) -> torch.Tensor:
        raise RuntimeError("ours")

    monkeypatch.setattr(Operand, "rounded", broken)
    with pytest.raises(RuntimeError, match=r"^ours$"):
        quantize(layers(), "int8-tensor", calibration=[X])


# Files.

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def rewritten(source: Path, target: Path, change: Change) -> Path:
    """The file with its record or its tensors changed."""
    with safe_open(source, "pt") as stream:
        metadata = stream.metadata()
        tensors = {name: stream.get_tensor(name) for name in stream.keys()}
    record = json.loads(metadata["tile-workbench"])
    change(record, tensors)
    save_file(tensors, target, metadata | {"tile-workbench": json.dumps(record)})
    return target


MODEL: dict[str, Change] = {
    "no options": lambda r, t: r.pop("scheme_options"),
    "unknown kind": lambda r, t: r["scheme_options"].update(kinds=["product"]),
    "unknown option": lambda r, t: r["scheme_options"].update(alpha=1),
    "unknown calibration": lambda r, t: r["scheme_options"].update(calibration="best"),
    "unknown format": lambda r, t: r["weights"]["0"].update(format="int9000.tensor"),
    "another shape": lambda r, t: r["weights"]["0"].update(shape="1x2"),
    "no shape": lambda r, t: r["weights"]["0"].update(shape="q"),
    "no list": lambda r, t: r.update(operators=3),
    "no weights": lambda r, t: r.update(weights=[]),
    "no codes": lambda r, t: t.pop("0@weight.codes"),
    "no scale": lambda r, t: t.pop("0@scale.input"),
    "three scales": lambda r, t: t.update({"0@scale.input": torch.ones(3)}),
    "no finite scale": lambda r, t: t.update({"0@scale.input": torch.tensor(torch.nan)}),
    "unknown tensor": lambda r, t: r["tensors"].append("more"),
}


@pytest.mark.parametrize("change", MODEL)
def test_an_edited_model_file_is_told_with_its_name(change: str, tmp_path: Path) -> None:
    path = quantize(layers(), "int8-tensor", calibration=[X]).save(tmp_path / "a.safetensors")
    edited = rewritten(path, tmp_path / "b.safetensors", MODEL[change])
    with pytest.raises(ValueError, match=r"b.safetensors: .*was the file edited") as refused:
        load(layers(), edited, "int8-tensor")
    assert "\n" not in str(refused.value)


WEIGHTS: dict[str, Change] = {
    "no recipe": lambda r, t: r.pop("recipe"),
    "no names": lambda r, t: r.update(tensors=[1]),
    "no headers": lambda r, t: r["weights"].clear(),
    "no codes": lambda r, t: t.pop("a.weight.codes"),
    "another shape": lambda r, t: r["weights"]["a.weight"].update(original=["F32", [3, 3]]),
}


@pytest.mark.parametrize("change", WEIGHTS)
def test_edited_weights_are_told_with_their_file(change: str, tmp_path: Path) -> None:
    save_file({"a.weight": normal(8, 32), "norm": torch.ones(4)}, tmp_path / "in.safetensors")
    quantize_weights(tmp_path / "in.safetensors", "int8-row", tmp_path / "a.safetensors")
    edited = rewritten(tmp_path / "a.safetensors", tmp_path / "b.safetensors", WEIGHTS[change])
    with pytest.raises(ValueError, match=r"b.safetensors: .*was the file edited"):
        read_weights(edited, "int8-row")


def test_a_model_that_cannot_be_loaded_into_is_not_told_as_an_edited_file(tmp_path: Path) -> None:
    made = quantize(layers(), "int8-tensor", calibration=[X])
    path = made.save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"^the model is quantised already"):
        load(made.model, path, "int8-tensor")
    with pytest.raises(ValueError, match="quantised by int8-tensor, not by int8-row: load it with"):
        load(layers(), path, "int8-row")


# The record.


def test_a_quantisation_can_be_repeated_from_its_record(tmp_path: Path) -> None:
    from workbench.ptq import Calibration, Kind, Rule, Scheme

    scheme = replace(
        STANDARD, name="mine", kinds=frozenset((Kind.LINEAR, Kind.ADD)), dynamic=True,
        calibration=Calibration.parse("p99.9"), weight_rule=Rule.MSE, smooth=0.25,
        recalibrate_batchnorm=True, keep_first_last=False, gptq=True, act_order=True,
    )  # fmt: skip
    made = quantize(
        layers(), "w8a16", calibration=[X, 2 * X], scheme=scheme, keep=("0",),
        score=lambda model: 1.0, criterion=0.25,
    )  # fmt: skip
    record = json.loads(json.dumps(made.record(), allow_nan=False))
    assert Scheme.from_dict({"name": record["scheme"]} | record["scheme_options"]) == scheme
    options = record["options"]
    assert options["keep"] == ["0"]
    assert options["criterion"] == 0.25
    assert options["calibration_batches"] == 2
    again = quantize(
        layers(), record["recipe"], calibration=[X, 2 * X],
        scheme=Scheme.from_dict(record["scheme_options"]), keep=options["keep"],
        score=lambda model: 1.0, criterion=options["criterion"],
    )  # fmt: skip
    assert again.record() == made.record()
    assert torch.equal(again.model(X), made.model(X))
    other = quantize(layers(), "int8-row", calibration=[X, 3 * X]).record()["options"]
    assert other["calibration_digest"] != options["calibration_digest"]
    assert other["criterion"] is None
    loaded = load(layers(), made.save(tmp_path / "a.safetensors"), "w8a16")
    assert loaded.scheme == scheme
    assert loaded.record()["options"] == options


def test_a_file_whose_record_has_fewer_options_is_read(tmp_path: Path) -> None:
    """As files of the same schema had them at first."""
    made = quantize(layers(), "int8-tensor", calibration=[X])
    path = made.save(tmp_path / "a.safetensors")

    def older(record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
        options = record["scheme_options"]
        record["scheme_options"] = {name: options[name] for name in ("kinds", "dynamic")}
        del record["options"]

    read = load(layers(), rewritten(path, tmp_path / "b.safetensors", older), "int8-tensor")
    assert torch.equal(read.model(X), made.model(X))
    assert read.scheme == made.scheme
