"""Quantised models and weights in files: bit for bit what was written, and refused otherwise."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ptq_cases import Convolutional, Encoder, Functional, normal, tokens
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.recipes import Recipe
from workbench.ptq import EXTENDED, STANDARD, Quantized, Rule, Scheme, load, quantize
from workbench.ptq.weight_file import quantize_weights, read_weights

GPTQ = replace(STANDARD, name="gptq", gptq=True)
SMOOTH = replace(EXTENDED, name="smooth", smooth=0.5)


def same(one: Quantized, other: Quantized, *inputs: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(one.model(*inputs), other.model(*inputs))


@pytest.mark.parametrize(
    ("recipe", "scheme"),
    [
        pytest.param("fp8-ptq-e4m3", STANDARD, marks=pytest.mark.slow),
        ("fp8-ptq-mixed", EXTENDED),
        pytest.param("fp8-ptq-e5m2", STANDARD, marks=pytest.mark.slow),
        ("int8-tensor", SMOOTH),
        pytest.param(
            "int8-row", replace(EXTENDED, name="dynamic", dynamic=True), marks=pytest.mark.slow
        ),
        pytest.param("mxfp6-e3m2", STANDARD, marks=pytest.mark.slow),
        pytest.param("nvfp4", STANDARD, marks=pytest.mark.slow),
        ("w4a16-g128", GPTQ),
        ("llm-int8", STANDARD),
    ],
    ids=lambda p: str(p),
)
def test_a_model_comes_back_bit_for_bit(recipe: str, scheme: Scheme, tmp_path: Path) -> None:
    ids = tokens(3, 5)
    made = quantize(Encoder(), recipe, calibration=[ids], scheme=scheme, keep=("layer.linear1",))
    path = made.save(tmp_path / "model.safetensors")
    again = load(Encoder(seed=5), path, recipe)  # other parameters, all of them replaced
    assert same(again, made, tokens(4, 7, seed=1))
    assert "layer.linear1" in {k.name for k in again.kept}
    for one, other in zip(again.operators, made.operators, strict=True):
        assert one == replace(other, sensitivity=None)
    reasons = {k.name: k.reason for k in made.kept}
    assert {k.name: k.reason for k in again.kept} == reasons
    # And once more from what was loaded.
    second = again.save(tmp_path / "second.safetensors")
    assert same(load(Encoder(seed=6), second, recipe), made, ids)
    assert [p.name for p in sorted(tmp_path.iterdir())] == [path.name, second.name]


def test_convolutions_and_batch_statistics_come_back(tmp_path: Path) -> None:
    x = normal(4, 3, 8, 8)
    made = quantize(Convolutional(), "fp8-ptq-e3m4", calibration=[x], scheme=EXTENDED)
    path = made.save(tmp_path / "model.safetensors")
    again = load(Convolutional(seed=7), path, "fp8-ptq-e3m4")
    assert same(again, made, x)
    assert torch.equal(again.model.norm.running_var, made.model.norm.running_var)


def test_weights_of_functions_are_rounded_as_they_were(tmp_path: Path) -> None:
    """Their codes are not in the file, but the rule that made them is."""
    x = normal(2, 3, 8)
    four = Recipe.of("four", activation="int8.row", weight="int4.row", source="this test")
    scheme = replace(EXTENDED, name="mse", weight_rule=Rule.MSE)
    made = quantize(Functional(), four, calibration=[x], scheme=scheme)
    assert made.operators[0].formats["weight"] == "int4.row+mse"
    path = made.save(tmp_path / "model.safetensors")
    other = Functional()
    with torch.no_grad():
        other.weight.zero_()
    assert same(load(other, path, four), made, x)


def edited(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> Path:
    """The file with its record or tensors changed by hand."""
    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["tile-workbench"])
    tensors = load_file(path)
    change(tensors, record)
    target = path.with_name("edited.safetensors")
    save_file(tensors, target, {"tile-workbench": json.dumps(record)})
    return target


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, r: t.pop("head@scale.input"), "lacks the scale of the input of head: was the"),
        (lambda t, r: t.pop("head.bias"), "its record does not fit its tensors .*head.bias"),
        (lambda t, r: t.pop("head@weight.codes"), "packed matrix without 'codes'"),
        (lambda t, r: r.pop("operators"), "its record does not fit its tensors .*operators"),
        (lambda t, r: r.update(operators=7), "its record does not fit its tensors"),
        (lambda t, r: r.update(activation="int8.row"), "activations in int8.row, the recipe of"),
        (lambda t, r: r.update(schema="other/1"), "holds no quantised model of schema .*'other/1'"),
    ],
)
def test_files_edited_by_hand_are_refused(
    change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    made = quantize(Encoder(), "fp8-ptq-e4m3", calibration=[tokens(3, 5)])
    path = edited(made.save(tmp_path / "model.safetensors"), change)
    with pytest.raises(ValueError, match=message) as refused:
        load(Encoder(), path, "fp8-ptq-e4m3")
    assert "\n" not in str(refused.value)


def test_codes_are_packed_and_weights_are_not_there_twice(tmp_path: Path) -> None:
    made = quantize(nn.Linear(256, 64), "w4a16-g128")
    tensors = load_file(made.save(tmp_path / "model.safetensors"))
    assert {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()} == {
        "@weight.codes": (torch.uint8, (64, 128)),
        "@weight.scales": (torch.uint8, (64, 4)),
        "bias": (torch.float32, (64,)),
    }


def test_a_file_of_another_recipe_or_model_is_one_clear_line(tmp_path: Path) -> None:
    made = quantize(Encoder(), "fp8-ptq-e4m3", calibration=[tokens(3, 5)])
    path = made.save(tmp_path / "model.safetensors")
    for model, recipe, message in (
        (Encoder(), "fp8-ptq-e3m4", "quantised by fp8-ptq-e4m3, not by fp8-ptq-e3m4: load it with"),
        (Convolutional(), "fp8-ptq-e4m3", "quantises 'embedding', which Convolutional has no lay"),
        (nn.Linear(2, 2), "fp8-ptq-e4m3", "quantises 'embedding', which Linear has no layer for"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            load(model, path, recipe)
        assert "\n" not in str(refused.value)
    wide = Encoder()
    wide.head = nn.Linear(16, 9)
    with pytest.raises(ValueError, match="the weight of head is 5x16, the model's 9x16"):
        load(wide, path, "fp8-ptq-e4m3")
    more = Encoder()
    more.extra = nn.LayerNorm(3)
    with pytest.raises(ValueError, match=r"'extra\.bias' stands in the model alone"):
        load(more, path, "fp8-ptq-e4m3")


def test_files_that_are_no_quantised_models_are_refused(tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file({"a": torch.ones(2)}, plain)
    with pytest.raises(ValueError, match="holds no quantised model of schema tile-workbench/quant"):
        load(Encoder(), plain, "int8-row")
    path = quantize(Encoder(), "w8a16").save(tmp_path / "model.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        load(Encoder(), cut, "w8a16")
    with pytest.raises(ValueError, match=r"nowhere\.safetensors"):
        load(Encoder(), tmp_path / "nowhere.safetensors", "w8a16")
    with pytest.raises(ValueError, match=r"tensors are written to a \.safetensors file"):
        quantize(Encoder(), "w8a16").save(tmp_path / "model.bin")
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        quantize(Encoder(), "w8a16").save(folder)


def test_an_older_file_survives_a_write_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = quantize(Encoder(), "w8a16")
    path = made.save(tmp_path / "model.safetensors")
    before = path.read_bytes()

    def full(tensor: torch.Tensor) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("workbench.ptq.tensor_file.bytes_of", full)
    with pytest.raises(ValueError, match="cannot be written: No space left on device"):
        made.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# Weights alone


def checkpoint(path: Path) -> dict[str, torch.Tensor]:
    tensors = {
        "layers.0.weight": normal(300, 256),
        "layers.1.weight": normal(10, 100, seed=1).to(torch.bfloat16),
        "conv.weight": normal(8, 3, 3, 3, seed=2),
        "norm.weight": normal(256, seed=3),
        "embed.weight": normal(20, 64, seed=4).half(),
        "step": torch.tensor(7),
    }
    save_file(tensors, path)
    return tensors


@pytest.mark.parametrize("recipe", ["w4a16-g128", "mxfp4", "nvfp4", "fp8-ptq-e4m3", "int8-row"])
def test_weights_of_a_file_are_those_of_the_codec(recipe: str, tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    tensors = checkpoint(source)
    made = quantize_weights(source, recipe, target, keep=("embed*",))
    assert [t.name for t in made.quantized] == ["conv.weight", "layers.0.weight", "layers.1.weight"]
    found = read_weights(target, recipe)
    assert set(found) == set(tensors)
    fmt = made.recipe.weight
    for name, value in tensors.items():
        if name in {t.name for t in made.quantized}:
            matrix = value.float().reshape(len(value), -1)
            expected = quantize_tensor(matrix, fmt).dequantize().view(value.shape)
        else:
            expected = value
        assert found[name].dtype == expected.dtype
        assert torch.equal(found[name], expected)
    sizes = {t.name: t.stored_bytes for t in made.tensors}
    assert sizes["layers.0.weight"] == fmt.storage_bytes(300, 256)
    stored = load_file(target)
    total = sum(t.numel() * t.element_size() for t in stored.values())
    assert sum(sizes.values()) == total


def test_codes_with_scales_beside_them_are_multiplied_first(tmp_path: Path) -> None:
    codes = normal(128, 128).to(torch.float8_e4m3fn)
    source = tmp_path / "in.safetensors"
    save_file({"a.weight": codes, "a.weight_scale_inv": torch.full((1, 1), 0.5)}, source)
    quantize_weights(source, "int8-row", tmp_path / "out.safetensors")
    found = read_weights(tmp_path / "out.safetensors", "int8-row")
    assert list(found) == ["a.weight"]
    expected = quantize_tensor(codes.float() * 0.5, TensorFormat.parse("int8.row")).dequantize()
    assert torch.equal(found["a.weight"], expected)


def test_only_one_tensor_is_held_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made of a tensor is written before the next one is read."""
    from workbench.checkpoint import Checkpoint

    source = tmp_path / "in.safetensors"
    checkpoint(source)
    events: list[str] = []
    slices = Checkpoint.slices

    def watched(self: Checkpoint, tensor: object, rows: int) -> object:
        written = next(tmp_path.glob(".workbench-*")).stat().st_size
        events.append(f"{tensor.name} {written}")  # type: ignore[attr-defined]
        return slices(self, tensor, rows)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoint, "slices", watched)
    # Unbuffered, so that the file shows what was written.
    import os

    fdopen = os.fdopen
    monkeypatch.setattr(os, "fdopen", lambda fd, mode: fdopen(fd, mode, buffering=0))
    quantize_weights(source, "w8a16", tmp_path / "out.safetensors")
    names, sizes = zip(*(event.split() for event in events), strict=True)
    assert names == ("conv.weight", "embed.weight", "layers.0.weight", "layers.1.weight")
    assert list(map(int, sizes)) == sorted(set(map(int, sizes)))  # grows before each


def test_what_is_wrong_with_weights_is_one_line(tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    checkpoint(source)
    broken = tmp_path / "broken.safetensors"
    bad = normal(5, 8)
    bad[3, 2] = float("nan")
    save_file({"good": normal(5, 8), "z.weight": bad}, broken)
    for given, recipe, output, keep, message in (
        (broken, "w8a16", target, (), "'z.weight' holds NaN .* at row 3, column 2: mend"),
        (source, "bf16", target, (), "bf16 leaves weights in bf16: choose one that quantises them"),
        (source, "w8a61", target, (), "unknown recipe 'w8a61': did you mean 'w8a16'"),
        (source, "w8a16", source, (), "is read from: choose another output"),
        (source, "w8a16", tmp_path / "out.bin", (), "tensors are written to a .safetensors file"),
        (source, "w8a16", target, ("head*",), r"keep 'head\*': no tensor of .* has such a name"),
        (source, "w8a16", target, ("*",), "holds no weight matrix that could be quantised"),
        (tmp_path / "nowhere.safetensors", "w8a16", target, (), "nowhere.safetensors"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            quantize_weights(given, recipe, output, keep=keep)
        assert "\n" not in str(refused.value)
        assert not target.exists()
    quantize_weights(source, "w8a16", target)
    with pytest.raises(ValueError, match="quantised by w8a16, not by mxfp4: read it with"):
        read_weights(target, "mxfp4")
    with pytest.raises(ValueError, match="holds no weights of schema"):
        read_weights(source, "w8a16")


def test_a_file_that_is_not_ours_is_left_as_it_is(tmp_path: Path) -> None:
    """The name that Hugging Face's folders have for weights is the one that we write."""
    source, target = tmp_path / "in.safetensors", tmp_path / "model.safetensors"
    checkpoint(source)
    for foreign in ({"mine": torch.ones(3)}, None):
        if foreign is None:
            target.write_bytes(b"no checkpoint at all")
        else:
            save_file(foreign, target)
        before = target.read_bytes()
        with pytest.raises(ValueError, match="was not written by the workbench and is left"):
            quantize_weights(source, "w8a16", target)
        assert target.read_bytes() == before
    target.write_bytes(b"")
    quantize_weights(source, "w8a16", target)
    quantize_weights(source, "w4a16-g128", target)  # ours is replaced


def test_the_record_in_the_file_names_formats_and_originals(tmp_path: Path) -> None:
    source, target = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    checkpoint(source)
    quantize_weights(source, "w4a16-g128", target)
    with safe_open(target, framework="pt") as file:
        record = json.loads(file.metadata()["tile-workbench"])
    assert record["schema"] == "tile-workbench/quantized-weights/1"
    assert record["weights"]["layers.1.weight"] == {
        "format": "int4.g128",
        "shape": "10x100",
        "original": ["BF16", [10, 100]],
    }


@pytest.mark.parametrize("recipe", ["fp8-ptq-e4m3", "nvfp4", "w4a16-g128", "llm-int8"])
def test_a_quantised_model_goes_through_pickle(recipe: str) -> None:
    """As between processes; plain pickle does not read torch's 8-bit floats back."""
    x = torch.linspace(-9, 9, 640).view(10, 64)
    done = quantize(nn.Linear(64, 32).eval(), recipe, calibration=[x])
    again = pickle.loads(pickle.dumps(done.model))
    assert torch.equal(again(x), done.model(x))
    assert again.codes.codes.dtype is done.model.codes.codes.dtype  # type: ignore[union-attr]
