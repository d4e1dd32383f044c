"""Weights of patched layers: the bits of the codec, straight from checkpoints."""

import copy
import importlib
import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from patched_models import (
    HIDDEN,
    INNER,
    Mlp,
    mlp,
)
from patched_package import NAME, module, nothing_warned_yet, package
from safetensors.torch import save_file
from torch import nn

from tiles.formats import TensorFormat, pack_codes, quantize
from tiles.formats.torch_codec import quantize_tensor

__all__ = ["module", "nothing_warned_yet", "package"]


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


class Rotated(nn.Module):
    """A layer and frequencies that no state has."""

    def __init__(self) -> None:
        super().__init__()
        self.up_proj = nn.Linear(HIDDEN, INNER)
        self.register_buffer("inv_freq", torch.arange(4.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.up_proj(x) * self.inv_freq[1]  # type: ignore[index]
        return y


def test_buffers_that_no_checkpoint_has_are_asked_for(module: ModuleType, tmp_path: Path) -> None:
    model, x = Rotated().bfloat16(), torch.randn(4, HIDDEN).bfloat16()
    path = _saved(model, tmp_path / "model.safetensors")
    with torch.device("meta"):
        empty = Rotated().bfloat16()
    with pytest.raises(ValueError, match=r"inv_freq: no checkpoint has it.* put a tensor in its"):
        module.patch(empty, "int8-row", weights=path, device="cpu")
    assert type(empty.up_proj) is nn.Linear
    empty.inv_freq = model.inv_freq
    module.patch(empty, "int8-row", weights=path, device="cpu")
    module.patch(model, "int8-row")
    assert torch.equal(empty(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_models_of_transformers_compute_their_buffers_again(
    module: ModuleType, kind: str, tmp_path: Path
) -> None:
    """Llama's frequencies are none of its state, as BERT's positions are not."""
    import transformers

    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "vocab_size": 64}

    def made() -> nn.Module:
        if kind == "llama":
            config = transformers.LlamaConfig(**sizes, num_key_value_heads=2)
            model: nn.Module = transformers.LlamaForCausalLM(config)
        else:
            model = transformers.BertModel(transformers.BertConfig(**sizes))
        return model.bfloat16().eval()

    real, ids = made(), torch.arange(12).view(2, 6)
    real.save_pretrained(tmp_path)  # type: ignore[operator]
    with torch.device("meta"):
        empty = made()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", RuntimeWarning)  # of extents that were never tuned
        module.patch(empty, "int8-row", weights=tmp_path, device="cpu")
        module.patch(real, "int8-row")
        assert torch.equal(empty(ids)[0], real(ids)[0])
    held = dict(real.named_buffers())
    for name, one in empty.named_buffers():
        assert (one.device.type, one.dtype) == ("cpu", held[name].dtype), name
        assert torch.equal(one, held[name]) or one.dtype.itemsize == 1, name


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
