"""A package's ``patch``: what is replaced and left, the bits of the weights, states, refusals."""

import copy
import doctest
import importlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from emit_runs import run_of, study
from imported_package import imported
from patched_models import (
    HIDDEN,
    INNER,
    SCALED,
    Mlp,
    emitted,
    mlp,
    reference_in_place,
)
from safetensors.torch import save_file
from torch import nn

from tiles.formats import TensorFormat, pack_codes, quantize
from tiles.formats.torch_codec import quantize_tensor
from tiles.recipes import recipe
from workbench.emission import EmittedPackage, emit
from workbench.verification.smoke.patch import smoke

NAME = "patch_pack"
OPERATORS = (f"{NAME}._gemm", f"{NAME}._quantize")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    return emitted(tmp_path_factory.mktemp("patch") / "kernels", NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        operators = [(one, one._make) for one in map(importlib.import_module, OPERATORS)]
        reference_in_place(NAME)
        yield found
        for one, make in operators:
            one._make = make


@pytest.fixture(autouse=True)
def _nothing_warned_yet(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._lookup, "_warned", set())


def _nasty(rows: int, cols: int) -> np.ndarray:
    """Zero blocks, subnormals, ties, huge numbers, NaN of both signs, infinities and -0."""
    rng = np.random.default_rng(rows * 7919 + cols)
    x = rng.standard_normal((rows, cols)) * 2.0 ** rng.integers(-12, 12, (rows, cols))
    if rows * cols > 1000:
        x[: rows // 4, : cols // 3] = 0
        x[rows // 2 :, cols // 2 :] *= 1e-37
        x[rows // 3, : cols // 2] = np.arange(cols // 2) % 255 - 127 + 0.5
        x[rows // 4, cols - 1], x[rows - 1, 1], x[0, cols // 2] = np.nan, -np.inf, -0.0
        x[rows // 5, 0], x[rows // 5, cols // 4] = -np.nan, 1e30
    return x.astype(np.float32)


def _bits(tensor: torch.Tensor) -> Any:
    return tensor.contiguous().view(torch.uint8).numpy()


FORMATS = (
    "e4m3fn.b128x128", "int8.row", "int4.g128", "int8.b128x128", "e4m3fn.row", "e5m2.b128x128",
    "int8.tensor", "e4m3fn.tensor", "int8.b32x32", "e4m3fn.b1x128",
)  # fmt: skip


@pytest.mark.parametrize(
    ("fmt", "band"),
    [
        (FORMATS[1], 2000),
        *(pytest.param(fmt, 2000, marks=pytest.mark.slow) for fmt in (FORMATS[0], *FORMATS[2:])),
        *(pytest.param(fmt, 1 << 24, marks=pytest.mark.slow) for fmt in FORMATS[:3]),
    ],
)
def test_weights_are_quantised_to_the_bits_of_the_codec(
    module: ModuleType, fmt: str, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes_of = importlib.import_module(f"{NAME}._weight_codes")
    monkeypatch.setattr(codes_of, "_BAND", band)
    target = TensorFormat.parse(fmt)
    scaling = target.scaling
    assert scaling is not None
    for shape in ((1, 1), (33, 129), (130, 300)):
        for source in (torch.float32, torch.bfloat16):
            x = torch.from_numpy(_nasty(*shape)).to(source)
            found, scales = codes_of.quantize_weight(
                x,
                target.element.name,
                (scaling.rows or 0, scaling.cols or 0),
                scaling.stored.name,
            )
            wanted = quantize(x.float().numpy(), target)
            twin = quantize_tensor(x, target)
            codes = pack_codes(twin.bits, 4) if target.element.bits == 4 else twin.codes
            assert np.array_equal(_bits(found), _bits(codes)), shape
            assert np.array_equal(scales.float().numpy(), wanted.scales, equal_nan=True), shape
            if target.element.bits == 8:
                assert np.array_equal(_bits(found).reshape(-1), wanted.codes.reshape(-1).view("u1"))
                # Rows of 1xB scales are contiguous, others row-major, as kernels were tuned for.
                assert twin.scales is not None
                assert scales.stride() == twin.scales.stride()


@pytest.mark.parametrize("name", SCALED)
def test_layers_are_replaced_and_compute_what_the_recipe_says(
    module: ModuleType, name: str
) -> None:
    model, x = mlp(), torch.randn(2, 5, HIDDEN).bfloat16()
    plain = copy.deepcopy(model)
    report = module.patch(model, name)
    assert [(one.name, one.tuned) for one in report.replaced] == [
        ("up_proj", True), ("down_proj", True)
    ]  # fmt: skip
    assert [(one.name, one.reason) for one in report.left] == [("lm_head", "kept by 'lm_head'")]
    assert report.bytes_before == 2 * 2 * HIDDEN * INNER
    assert HIDDEN * INNER * 2 < report.bytes_after < 0.6 * report.bytes_before
    layer = model.up_proj
    assert (layer.in_features, layer.out_features) == (HIDDEN, INNER)
    found, exact = model.up_proj(x), plain.up_proj(x)
    assert (found.shape, found.dtype) == ((2, 5, INNER), torch.bfloat16)
    fmt = recipe(name)
    a = quantize_tensor(x.view(-1, HIDDEN), fmt.activation).dequantize(torch.float64)
    b = quantize_tensor(plain.up_proj.weight.detach(), fmt.weight).dequantize(torch.float64)
    wanted = (a @ b.T).bfloat16() + plain.up_proj.bias
    assert torch.equal(found.view(-1, INNER), wanted)
    assert 0 < (found - exact).double().norm() < 0.06 * exact.double().norm()
    turned = torch.randn(HIDDEN, 6).bfloat16().t()
    assert torch.equal(model.up_proj(turned), model.up_proj(turned.contiguous()))


def test_weight_only_layers_hold_the_packed_weight_of_the_codec(module: ModuleType) -> None:
    model = mlp()
    plain = copy.deepcopy(model)
    report = module.patch(model, "w4a16-g128")
    assert {one.name for one in report.replaced} == {"up_proj", "down_proj"}
    for name in ("up_proj", "down_proj"):
        weight = plain.get_submodule(name).weight.detach()
        twin = quantize_tensor(weight, TensorFormat.parse("int4.g128"))
        wanted = module.pack_weight(
            pack_codes(twin.bits, 4),
            twin.scales.half(),
            recipe="w4a16-g128",
            columns=weight.shape[1],
        )
        held = model.get_submodule(name).weight
        for part in ("codes", "scale", "row_scale", "facts"):
            assert torch.equal(getattr(held, part), getattr(wanted, part)), part
    assert 0.2 * report.bytes_before < report.bytes_after < 0.4 * report.bytes_before
    shapes = model.to("meta").up_proj(torch.empty(3, HIDDEN, dtype=torch.bfloat16, device="meta"))
    assert shapes.shape == (3, INNER)


def test_the_fastest_measured_recipe_is_taken_and_said(module: ModuleType) -> None:
    report = module.patch(mlp())
    assert report.recipe == "e4m3-row"
    assert report.chosen == "e4m3-row is the fastest of 4 recipes on 2 shapes (measured)"
    text = str(report)
    assert text.startswith("2 layers replaced, e4m3-row is the fastest of 4 recipes")
    assert "  up_proj: 128 -> 192, tuned" in text
    assert "  lm_head: left, kept by 'lm_head'" in text
    data = json.loads(json.dumps(report.to_dict()))
    assert data["schema"] == "tile-workbench/patch/1"
    assert data["replaced"][0] == {
        "name": "up_proj", "out_features": INNER, "in_features": HIDDEN, "tuned": True,
    }  # fmt: skip


def test_unpatch_brings_the_very_layers_back(module: ModuleType) -> None:
    model, x = mlp(), torch.randn(4, HIDDEN).bfloat16()
    layer, before = model.up_proj, model(x)
    module.patch(model)
    assert not torch.equal(model(x), before)
    with pytest.raises(ValueError, match="no layer to replace, 2 are patched already"):
        module.patch(model)
    assert module.unpatch(model) == ("up_proj", "down_proj")
    assert model.up_proj is layer
    assert torch.equal(model(x), before)
    with pytest.raises(ValueError, match="no layer of the model is patched"):
        module.unpatch(model)
    module.patch(model, undo=False)
    with pytest.raises(ValueError, match="up_proj: the plain layer was not kept"):
        module.unpatch(model)


def test_state_is_codes_and_scales_and_loads_into_a_model_patched_alike(
    module: ModuleType,
) -> None:
    first, second, x = mlp(0), mlp(1), torch.randn(4, HIDDEN).bfloat16()
    plain = copy.deepcopy(first)
    module.patch(first, "deepseek-fp8")
    module.patch(second, "deepseek-fp8")
    state = first.state_dict()
    assert {name for name in state if name.startswith("up_proj")} == {
        "up_proj.bias", "up_proj.codes", "up_proj.scales"
    }  # fmt: skip
    assert not torch.equal(second(x), first(x))
    second.load_state_dict(state)
    assert torch.equal(second(x), first(x))
    with pytest.raises(RuntimeError, match=r"Missing key.*up_proj.codes"):
        second.load_state_dict(plain.state_dict())
    again = copy.deepcopy(first)
    assert torch.equal(again(x), first(x))


@pytest.mark.parametrize("name", ["deepseek-fp8", "int8-b128", "e4m3-row"])
def test_a_change_of_dtype_leaves_codes_and_scales_alone(module: ModuleType, name: str) -> None:
    model = mlp()
    module.patch(model, name)
    layer = model.up_proj
    codes, scales = layer.codes.clone(), layer.scales.clone()
    model.to(torch.float16).float()
    assert (layer.codes.dtype, layer.scales.dtype) == (codes.dtype, torch.float32)
    assert torch.equal(layer.codes.view(torch.uint8), codes.view(torch.uint8))
    assert torch.equal(layer.scales, scales)
    assert layer.bias.dtype == torch.float32


def test_scales_with_contiguous_rows_move_with_the_model(module: ModuleType) -> None:
    linear = importlib.import_module(f"{NAME}._quantized_linear")
    codes_of = importlib.import_module(f"{NAME}._weight_codes")
    codes, scales = codes_of.quantize_weight(torch.randn(6, 300), "e4m3fn", (1, 128))
    layer = linear.QuantizedLinear("e4m3-row", "e4m3fn.row", codes, scales, None)
    layer.to(torch.bfloat16)
    assert scales.stride(0) == 1
    assert (layer.scales.dtype, torch.equal(layer.scales, scales)) == (torch.float32, True)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(INNER, HIDDEN)
        self.out = nn.Linear(HIDDEN, INNER, bias=False)
        self.out.weight = self.embed.weight
        self.blocks = nn.ModuleList([nn.Linear(HIDDEN, INNER) for _ in range(2)])
        self.again = self.blocks[1]
        self.attention = nn.MultiheadAttention(HIDDEN, 2)
        self.encoder = nn.TransformerEncoderLayer(HIDDEN, 2, INNER)
        self.wide = nn.Linear(HIDDEN, INNER).double()
        self.hooked = nn.Linear(HIDDEN, INNER)
        self.hooked.register_forward_hook(lambda *given: None)


def test_what_is_left_has_its_reason_and_shared_layers_are_replaced_everywhere(
    module: ModuleType,
) -> None:
    model = Tied().bfloat16()
    model.wide.double()
    report = module.patch(model, "int8-row", keep=("blocks.0",))
    assert [one.name for one in report.replaced] == ["again", "blocks.1"]
    assert model.again is model.blocks[1]
    reasons = {one.name: one.reason for one in report.left}
    assert reasons == {
        "out": "its weight is shared with another module",
        "blocks.0": "kept by 'blocks.0'",
        "attention.out_proj": "NonDynamicallyQuantizableLinear is no plain nn.Linear",
        "encoder.self_attn.out_proj": "NonDynamicallyQuantizableLinear is no plain nn.Linear",
        "encoder.linear1": "TransformerEncoderLayer reads its weights by itself",
        "encoder.linear2": "TransformerEncoderLayer reads its weights by itself",
        "wide": "its weights are torch.float64, int8-row takes bf16 activations",
        "hooked": "it has hooks: remove them first",
    }
    module.unpatch(model)
    assert model.again is model.blocks[1]


def test_untuned_layers_are_said_once_for_each_kind(module: ModuleType) -> None:
    def model() -> nn.Module:
        sizes = [(HIDDEN, INNER), (HIDDEN, 64), (HIDDEN, 64), (64, 32)]
        return nn.Sequential(*(nn.Linear(k, n) for k, n in sizes)).bfloat16()

    with pytest.warns(RuntimeWarning) as caught:
        report = module.patch(model(), "int8-row")
    assert [one.tuned for one in report.replaced] == [True, False, False, False]
    assert sorted(str(one.message) for one in caught) == [
        f"Linear: int8-row was never tuned for layers of {kind}: running a conservative default, "
        "whose speed is unknown"
        for kind in ("128 -> 64", "64 -> 32")
    ]
    assert {one.filename for one in caught} == {__file__}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.patch(model(), "int8-row")
        # Nor does the first launch say it again.
        module._lookup.choose("triton_gemm", ("int8-row", "bf16"), (64, HIDDEN), 4, "NVIDIA H200")
    with pytest.warns(RuntimeWarning) as caught:
        report = module.patch(model(), "int8-row", untuned="plain")
    assert [str(one.message).split(": ")[2] for one in caught] == ["the plain layer runs"] * 2
    assert [one.name for one in report.replaced] == ["0"]
    assert report.left[0].reason == "int8-row was never tuned for layers of 128 -> 64"


def test_another_gpu_is_said_once_and_left_plain_where_that_is_asked(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = importlib.import_module(f"{NAME}._patch")
    made = {layer.names[0]: layer for layer in inside.layers(mlp())}
    up = made["up_proj"]
    monkeypatch.setattr(type(up), "home", lambda self, device: torch.device("cuda:0"))
    known, _ = inside.linear_recipes()
    for name, wanted in (
        ("NVIDIA H200", ""),
        ("NVIDIA L40S", "NVIDIA L40S is not a GPU this package was tuned for (h200)"),
    ):
        monkeypatch.setattr(inside, "device_facts", lambda device, name=name: (name, 132))
        assert inside._untuned(up, known["int8-row"], None) == wanted
    within = importlib.import_module(f"{NAME}._linear_layers")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(within, "device_facts", lambda device: ("Tesla T4", 40))
    reason = within.obstacle(mlp(), up, known["int8-row"], False, None)
    assert reason == "Tesla T4 runs none of the package's kernels"


def _saved(model: nn.Module, path: Path) -> Path:
    save_file({name: one.contiguous() for name, one in model.state_dict().items()}, path)
    return path


def test_weights_come_straight_from_a_checkpoint(module: ModuleType, tmp_path: Path) -> None:
    model, x = mlp(0), torch.randn(4, HIDDEN).bfloat16()
    path = _saved(model, tmp_path / "model.safetensors")
    module.patch(model, "deepseek-fp8")
    wanted = model(x)
    with torch.device("meta"):
        empty = Mlp().to(torch.bfloat16).eval()
    module.patch(empty, "deepseek-fp8", weights=path, device="cpu")
    assert torch.equal(empty(x), wanted)
    with pytest.raises(ValueError, match="the plain layer was not kept"):
        module.unpatch(empty)
    # A model that has other weights already takes those of the file for its patched layers alone.
    other = mlp(1)
    head = other.lm_head.weight.clone()
    module.patch(other, "deepseek-fp8", weights=path)
    assert torch.equal(other.up_proj.codes.view(torch.uint8), model.up_proj.codes.view(torch.uint8))
    assert torch.equal(other.lm_head.weight, head)


def test_shards_are_read_by_their_index(module: ModuleType, tmp_path: Path) -> None:
    model, x = mlp(0), torch.randn(4, HIDDEN).bfloat16()
    state = model.state_dict()
    places = {name: f"model-{place % 2}.safetensors" for place, name in enumerate(state)}
    for file in set(places.values()):
        save_file({n: state[n] for n in state if places[n] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    module.patch(model, "int8-row")
    other = mlp(1)
    other.load_state_dict(state)
    module.patch(other, "int8-row", weights=tmp_path)
    assert torch.equal(other(x), model(x))


def test_one_weight_at_a_time_is_read(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a layer is read those before it are codes already."""
    path = _saved(mlp(), tmp_path / "model.safetensors")
    with torch.device("meta"):
        model = Mlp().to(torch.bfloat16)
    checkpoint = importlib.import_module(f"{NAME}._checkpoint")
    read, seen = checkpoint.Checkpoint.read, []

    def watched(self: Any, name: str) -> Any:
        seen.append((name, type(model.up_proj).__name__))
        return read(self, name)

    monkeypatch.setattr(checkpoint.Checkpoint, "read", watched)
    module.patch(model, "int8-row", weights=path, device="cpu")
    kinds = dict(seen)
    assert kinds["up_proj.weight"] == "Linear"
    assert kinds["down_proj.weight"] == "QuantizedLinear"


def _edited(path: Path, tmp_path: Path, how: str) -> Path:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if how == "cut":
        data = data[:-10]
    elif how == "no header":
        data = b"\xff" * 40
    elif how == "text":
        data = (10).to_bytes(8, "little") + b"not a json" + data
    else:
        entry = header["up_proj.weight"]
        if how == "beyond":
            entry["data_offsets"] = [0, 10**12]
        elif how == "int8":
            entry["dtype"], entry["shape"] = "I8", [2 * INNER, HIDDEN]
            header["up_proj.weight"] = entry
        elif how == "shape":
            entry["shape"] = [HIDDEN, INNER]
        elif how == "missing":
            del header["down_proj.weight"]
        text = json.dumps(header).encode()
        data = len(text).to_bytes(8, "little") + text + data[8 + length :]
    target = tmp_path / f"{how.replace(' ', '-')}.safetensors"
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "header is damaged .data beyond the end of the file.*fetch it again"),
        ("no header", r"no \.safetensors file, or not a complete one"),
        ("text", "header is damaged"),
        ("beyond", "data beyond the end of the file"),
        ("int8", r"up_proj.weight has shape \(384, 128\), the model's is \(192, 128\)"),
        ("shape", r"up_proj.weight has shape \(128, 192\), the model's is \(192, 128\)"),
        ("missing", "has no tensor 'down_proj.weight': give the checkpoint of this very model"),
    ],
)
def test_a_checkpoint_that_does_not_fit_changes_nothing(
    module: ModuleType, tmp_path: Path, how: str, message: str
) -> None:
    model = mlp()
    path = _edited(_saved(model, tmp_path / "model.safetensors"), tmp_path, how)
    with pytest.raises(ValueError, match=message) as caught:
        module.patch(model, "int8-row", weights=path)
    assert "\n" not in str(caught.value)
    assert type(model.up_proj) is nn.Linear


def test_a_failure_half_way_puts_everything_back(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _saved(mlp(), tmp_path / "model.safetensors")
    inside = importlib.import_module(f"{NAME}._patch")
    convert, calls = inside._convert, []

    def failing(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise MemoryError("no room")
        return convert(*given)

    monkeypatch.setattr(inside, "_convert", failing)
    model, x = mlp(), torch.randn(4, HIDDEN).bfloat16()
    before, layer = model(x), model.up_proj
    with pytest.raises(MemoryError):
        module.patch(model, "int8-row", undo=False)
    assert model.up_proj is layer
    assert torch.equal(model(x), before)
    with torch.device("meta"):
        empty = Mlp().to(torch.bfloat16)
    calls.clear()
    with pytest.raises(MemoryError):
        module.patch(empty, "int8-row", weights=path, device="cpu")
    assert all(one.is_meta for one in empty.parameters())
    assert type(empty.up_proj) is nn.Linear


def test_refusals_are_one_line_and_change_nothing(module: ModuleType, tmp_path: Path) -> None:
    model = mlp()
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("recipe 'jetfire': the package has no entry for it; there is deepseek-fp8, e4m3-row",
         model, {"recipe": "jetfire"}),
        ("keep 'lmhead': no module of the model has such a name", model, {"keep": ("lmhead",)}),
        (r"keep is 'lm_head': write a sequence of names, \('lm_head',\)", model,
         {"keep": "lm_head"}),
        ('untuned \'off\': choose "default" or "plain"', model, {"untuned": "off"}),
        ("LayerNorm has no linear layer: nothing to replace", nn.LayerNorm(4), {}),
        ("the model is a linear layer itself: wrap it", nn.Linear(4, 4), {}),
        ("none of 3 linear layers can be replaced, up_proj: its weights are torch.float32",
         mlp(dtype=torch.float32), {}),
        ("none of 3 linear layers can be replaced, up_proj: it lies on the meta device",
         mlp().to("meta"), {}),
        ("cannot be read .No such file or directory.: check the path", model,
         {"weights": tmp_path / "none.safetensors"}),
        ("holds 0 indices and 0", model, {"weights": tmp_path}),
    ]  # fmt: skip
    for message, given, keywords in cases:
        with pytest.raises(ValueError, match=message) as caught:
            module.patch(given, **keywords)
        assert "\n" not in str(caught.value)
    assert type(model.up_proj) is nn.Linear
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"up_proj.weight": "../away.safetensors"}})
    )
    with pytest.raises(ValueError, match=r"'\.\./away\.safetensors' leads out of the folder"):
        module.patch(model, weights=tmp_path)


def test_an_edited_package_is_refused(module: ModuleType, package: EmittedPackage) -> None:
    recipes = importlib.import_module(f"{NAME}._linear_recipes")
    path = package.folder / "src" / NAME / "configs" / "triton_gemm-int8-row-bf16-192x128-h200.json"
    text, model = path.read_text(), mlp()
    try:
        path.write_text(text + "\n")
        recipes.check_digests.cache_clear()
        with pytest.raises(ValueError, match=r"is not the file that was emitted .*: install"):
            module.patch(model)
    finally:
        path.write_text(text)
        recipes.check_digests.cache_clear()
    assert type(model.up_proj) is nn.Linear
    module.patch(model)


@pytest.mark.slow
def test_a_package_that_cannot_quantise_activations_says_what_to_sweep(tmp_path: Path) -> None:
    both = study("gemm:64x64x128:int8-row:bf16"), study("gemm:64x64x128:deepseek-fp8:bf16")
    made = emit(run_of(*both), tmp_path / "bare", name="patch_bare")
    readme = (made.folder / "README.md").read_text()
    assert "There is no `patch` for models here" in readme
    assert "`triton_quantize` for e4m3fn.b1x128, int8.row too" in readme
    with imported(made.folder, "patch_bare") as bare:
        assert "patch" not in bare.__all__
        with pytest.raises(AttributeError, match="emitted without 'patch': its README"):
            _ = bare.patch
    some = emit(
        run_of(
            *both,
            study("quantize:64x128:int8.row:bf16", family="triton_quantize"),
        ),
        tmp_path / "some",
        name="patch_some",
    )
    with imported(some.folder, "patch_some") as module:
        wanted = (
            "recipe 'deepseek-fp8': the package cannot quantise bf16 activations: sweep "
            "quantize:ROWSxCOLUMNS:e4m3fn.b1x128:bf16 with triton_quantize too, and emit again; "
            "there is int8-row"
        )
        with pytest.raises(ValueError, match=wanted):
            module.patch(mlp(), "deepseek-fp8")


def test_the_readme_shows_it_and_its_files_ship(package: EmittedPackage) -> None:
    readme = (package.folder / "README.md").read_text()
    assert "print(patch(model))" in readme
    folder = package.folder / "src" / NAME
    for path in folder.glob("_*.py"):
        text = path.read_text()
        for line in text.splitlines():
            words = line.split()
            if words[:1] == ["from"] and words[1].startswith("._"):
                assert (folder / f"{words[1][1:]}.py").exists(), (path, line)
            for other in ("numpy", "workbench", "tuning", "tiles"):
                assert f"import {other}" not in line, (path, line)
                assert not line.lstrip().startswith(f"from {other}"), (path, line)


COMPILED = """
import sys
sys.path[:0] = sys.argv[1:3]
import torch
import patch_pack
from patched_models import HIDDEN, mlp, reference_as_kernels

reference_as_kernels("patch_pack")
model, x = mlp(), torch.randn(3, 5, HIDDEN).bfloat16()
patch_pack.patch(model, "deepseek-fp8")
compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
with torch.no_grad():
    for rows in (2, 3):
        assert torch.equal(compiled(x[:rows]), model(x[:rows]))
    assert model(x[:0]).shape == (0, 5, 48)
    patch_pack.unpatch(model)
    patch_pack.patch(model, "w4a16-g128")
    # Shapes alone: its operator has no reference here.
    model, x = model.to("meta"), x.to("meta")
    found = torch.compile(model, fullgraph=True, backend="eager")(x)
    assert (found.shape, found.dtype) == ((3, 5, 48), torch.bfloat16)
"""


def test_verification_calls_every_recipe_and_sees_wrong_weights(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = importlib.import_module(f"{NAME}._linear_recipes")
    known, refused = recipes.linear_recipes()
    scaled = {name: one for name, one in known.items() if name in SCALED}  # those run here
    monkeypatch.setattr(recipes, "linear_recipes", lambda: (scaled, refused))
    assert smoke(module, "cpu") == 4
    inside = importlib.import_module(f"{NAME}._patch")
    right = inside.quantize_weight

    def wrong(*given: Any) -> Any:
        codes, scales = right(*given)
        return codes, scales * 1.5

    monkeypatch.setattr(inside, "quantize_weight", wrong)
    with pytest.raises(ValueError, match=r"a layer patched with .* is off by 0\.[3-6]"):
        smoke(module, "cpu")


@pytest.mark.slow
def test_a_patched_model_is_one_graph(package: EmittedPackage) -> None:
    """In a process of its own, where the operators run the reference."""
    _run(COMPILED, package, str(Path(__file__).parent))


@pytest.mark.slow
def test_attention_and_mlp_of_transformers_are_replaced(module: ModuleType) -> None:
    import transformers

    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "vocab_size": 64}
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, **heads, num_key_value_heads=2)
    )
    bert = transformers.BertModel(transformers.BertConfig(**sizes, **heads))
    gpt = transformers.GPT2Model(
        transformers.GPT2Config(n_embd=HIDDEN, n_layer=1, n_head=2, n_inner=INNER, vocab_size=64)
    )
    wanted = {
        llama: {
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        },
        bert: {"query", "key", "value", "dense"},
        gpt: {"c_attn", "c_proj", "c_fc"},
    }  # fmt: skip
    ids = torch.arange(12).view(2, 6)
    for model, names in wanted.items():
        model.to(torch.bfloat16).eval()
        with torch.no_grad():
            before = model(ids)[0].double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of extents that were never tuned
            report = module.patch(model, "int8-row")
        assert {one.name.rsplit(".", 1)[1] for one in report.replaced} == names
        with torch.no_grad():
            after = model(ids)[0].double()
        assert 0 < (after - before).norm() < 0.1 * before.norm()
        module.unpatch(model)
        with torch.no_grad():
            assert torch.equal(model(ids)[0].double(), before)
    assert {one.name for one in module.patch(llama, "int8-row", keep=("mlp", "lm_head")).left} == {
        "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj",
        "model.layers.0.mlp.down_proj", "lm_head",
    }  # fmt: skip


#: Runs with the emitted module on sys.path[0]; prints nothing and exits 0 when all holds.
SCRIPT = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
import patch_pack

def values(codes, scales, block):
    spread = scales.double().repeat_interleave(block[0] or len(codes), 0)[: len(codes)]
    return codes.double() * spread.repeat_interleave(block[1] or 128, 1)[:, : codes.shape[1]]

torch.manual_seed(0)
# The interpreter's conversions to 8-bit floats do not round to nearest.
for name, limit, blocks in (
    ("deepseek-fp8", 0.1, ((1, 128), (128, 128))),
    ("w4a16-g128", 0.12, None),
):
    model = nn.Sequential(nn.Linear(128, 192), nn.ReLU(), nn.Linear(192, 128, bias=False))
    model = model.bfloat16().eval()
    x = torch.randn(2, 9, 128).bfloat16()
    with torch.no_grad():
        plain = model(x)
        report = patch_pack.patch(model, name)
        assert [one.tuned for one in report.replaced] == [True, True]
        found = model(x)
        off = (found.double() - plain.double()).norm() / plain.double().norm()
        assert 0 < off < limit, (name, off)
        if blocks is None:
            continue
        layer = model[0]
        a = values(*patch_pack.quantize(x.view(18, 128), layer.activation), blocks[0])
        exact = a @ values(layer.codes, layer.scales, blocks[1]).T + layer.bias.double()
        off = (layer(x).view(18, 192).double() - exact).norm() / exact.norm()
        assert off < 2**-8, (name, off)
for loaded in ("tiles", "sim", "tuning", "workbench"):
    assert loaded not in sys.modules, loaded
"""


@pytest.mark.slow
def test_patched_models_run_the_kernels_of_the_package(package: EmittedPackage) -> None:
    _run(SCRIPT, package, TRITON_INTERPRET="1")


def _run(script: str, package: EmittedPackage, *folders: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, str(package.folder / "src"), *folders],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_guide_shows_what_happens(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "patch.md"
    text = page.read_text(encoding="utf-8")
    with imported(emitted(tmp_path / "out", "tile_kernels").folder, "tile_kernels"):
        test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
        assert len(test.examples) >= 9
        assert doctest.DocTestRunner().run(test).failed == 0
