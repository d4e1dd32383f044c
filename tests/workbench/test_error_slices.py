"""What of a checkpoint is read and how: slices, shapes, types, shards, scales beside codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Call
from safetensors.torch import save_file
from weight_files import normal

import workbench
from sim.error import ErrorSums, numpy_rounder, tensor_error
from tiles.formats import TensorFormat
from workbench.checkpoint import Checkpoint
from workbench.slices import Extremes, add_slice, slices_alike
from workbench.weight_report import LayerStatus

SLICED = (
    "bf16",
    "e4m3fn.tensor",
    "int8.tensor+fp16",
    "e4m3fn.col",
    "uint4.tensor",
    "int8.b32x32",
    "e4m3fn.b128x128",
    "e2m1fn.mx",
    "nvfp4",
    "nvfp4+rtz",
    "uint4.g128",
    "int8.b128x16+mse",
)


@pytest.mark.parametrize("text", SLICED)
def test_slices_count_as_the_whole_matrix_does(text: str) -> None:
    fmt = TensorFormat.parse(text)
    x = normal(300, 96, 3).numpy()
    x[150:] *= 7.5  # so that the slices differ in amax
    x[17, 3] = -90.0
    assert slices_alike(fmt)
    extremes, sums = Extremes(), ErrorSums()
    extremes.add(x)
    for start in range(0, 300, 128):
        add_slice(sums, x[start : start + 128], fmt, extremes, numpy_rounder, 0)
    got, expected = sums.result(), tensor_error(x, fmt)
    assert got.sqnr_db == pytest.approx(expected.sqnr_db, rel=1e-12)
    assert got.relative_mean == pytest.approx(expected.relative_mean, rel=1e-12)
    for name in ("relative_max", "clipped_share", "flushed_share", "count"):
        assert getattr(got, name) == getattr(expected, name), name


@pytest.mark.parametrize(
    "text", ["int8.tensor+mse", "e4m3fn.tensor+p99", "int8.b48x48", "int8.b256x1"]
)
def test_formats_whose_scales_need_all_rows_take_the_matrix_whole(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt = TensorFormat.parse(text)
    assert not slices_alike(fmt)
    x = normal(300, 40, 4)
    path = tmp_path / "m.safetensors"
    save_file({"w": x}, path)
    monkeypatch.setattr("workbench.weights.SLICE_ELEMENTS", 128 * 40)
    report = workbench.error(weights=path, formats=[text, "int8.row"]).weights
    assert report is not None
    assert report.ranked[0].errors[0].error == tensor_error(x.numpy(), fmt)
    monkeypatch.setattr("workbench.weights.HELD_ELEMENTS", 128 * 40)
    report = workbench.error(weights=path, formats=[text, "int8.row"]).weights
    assert report is not None
    first, second = report.ranked[0].errors
    assert first.error is None
    assert first.reason == "needs more than 5120 elements at once"
    assert second.error is not None
    report = workbench.error(weights=path, formats=text).weights
    assert report is not None
    assert report.layers[0].status is LayerStatus.FAILED


def test_small_slices_give_what_one_slice_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"conv": normal(700, 3 * 3 * 8, 5).reshape(700, 8, 3, 3)}, path)
    whole = workbench.error(weights=path).to_dict()
    monkeypatch.setattr("workbench.weights.SLICE_ELEMENTS", 1)
    monkeypatch.setattr("workbench.checkpoint.MAPPED_BYTES", 1)
    sliced = workbench.error(weights=path).to_dict()
    (layer,) = sliced["weights"]["layers"]
    assert layer["shape"] == [700, 8, 3, 3]
    for got, expected in zip(
        layer["formats"], whole["weights"]["layers"][0]["formats"], strict=True
    ):
        assert got["bits_per_element"] == expected["bits_per_element"]
        assert got["error"] == pytest.approx(expected["error"], rel=1e-12)


def test_experts_follow_each_other_row_by_row(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks stay within a row of K; slices cut through experts."""
    x = normal(3 * 100, 40, 8)
    path = tmp_path / "m.safetensors"
    save_file({"experts.weight": x.clone().reshape(3, 100, 40), "plain.weight": x}, path)
    monkeypatch.setattr("workbench.weights.SLICE_ELEMENTS", 1)
    arguments = ["--weights", path, "--format", "e2m1fn.mx", "--format", "int8.row"]
    answer = call("error", *arguments, "--json")
    assert answer.code == 0
    experts, plain = json.loads(answer.out)["weights"]["layers"]
    assert (experts["shape"], experts["matrix"]) == ([3, 100, 40], [300, 40])
    assert experts["formats"] == plain["formats"]
    answer = call("error", *arguments)
    assert answer.code == 0
    assert "F32 3x100x40 as 300x40" in answer.out


@pytest.mark.parametrize("shape", [(48, 8, 3, 3), (48, 24, 4), (48, 1, 2, 3, 5)])
def test_convolutions_are_read_as_out_by_rest(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).float()
    path = tmp_path / "m.safetensors"
    save_file({"conv": x}, path)
    checkpoint = Checkpoint(path)
    (tensor,) = checkpoint.tensors
    (part,) = checkpoint.slices(tensor, 48)
    assert np.array_equal(part, x.reshape(48, -1).numpy())
    assert tensor.kind.endswith(f" as 48x{part.shape[1]}")


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2fnuz,
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
def test_every_floating_type_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    x = normal(200, 24, 6).to(dtype)
    path = tmp_path / "m.safetensors"
    save_file({"w": x}, path)
    checkpoint = Checkpoint(path)
    (tensor,) = checkpoint.tensors
    parts = list(checkpoint.slices(tensor, 128))
    assert [len(part) for part in parts] == [128, 72]
    assert np.array_equal(np.concatenate(parts), x.to(torch.float32).numpy())


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    save_file({"b": normal(32, 32, 1)}, tmp_path / "model-00001.safetensors")
    save_file({"a": normal(32, 32, 2)}, tmp_path / "model-00002.safetensors")
    save_file({"c": normal(32, 32, 3)}, tmp_path / "other.safetensors")

    def names(path: Path) -> list[str]:
        report = workbench.error(weights=path, formats="int8.row").weights
        assert report is not None
        return [layer.tensor.name for layer in report.ranked]

    assert names(tmp_path) == ["a", "b", "c"]
    index = tmp_path / "model.safetensors.index.json"
    files = {"a": "model-00002.safetensors", "b": "model-00001.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    assert names(index) == names(tmp_path) == ["a", "b"]


SCALES: dict[str, tuple[str, tuple[int, ...], tuple[int, int]]] = {
    "DeepSeek's blocks, ragged": ("_scale_inv", (3, 2), (128, 128)),
    "a row each": ("_scale", (300, 1), (1, 200)),
    "a row each, as a vector": ("_scale", (300,), (1, 200)),
    "one": ("_scale", (), (300, 200)),
    "one in a vector": ("_scale", (1,), (300, 200)),
    "groups": ("_scale", (300, 5), (1, 40)),
}


@pytest.mark.parametrize(("suffix", "grid", "block"), SCALES.values(), ids=SCALES.keys())
def test_codes_are_multiplied_by_the_scales_beside_them(
    suffix: str, grid: tuple[int, ...], block: tuple[int, int], tmp_path: Path
) -> None:
    codes = normal(300, 200, 1).to(torch.float8_e4m3fn)
    scales = torch.from_numpy(np.random.default_rng(2).uniform(0.5, 2, grid)).float()
    path = tmp_path / "m.safetensors"
    save_file({"w.weight": codes, f"w.weight{suffix}": scales}, path)
    checkpoint = Checkpoint(path)
    tensor, beside = checkpoint.tensors
    assert beside.refusal == "scales of another tensor"
    expected = codes.float().numpy()
    wide = scales.numpy().reshape(-(-300 // block[0]), -(-200 // block[1]))
    for row in range(300):
        for col in range(0, 200, 8):
            expected[row, col : col + 8] *= wide[row // block[0], col // block[1]]
    got = np.concatenate(list(checkpoint.slices(tensor, 128)))
    assert np.array_equal(got, expected)
    assert "x scales" in tensor.kind


def test_codes_without_scales_are_noted(call: Call, tmp_path: Path) -> None:
    codes = normal(64, 64, 1).to(torch.float8_e4m3fn)
    path = tmp_path / "m.safetensors"
    save_file({"w": codes, "w_scale": torch.ones(7, 3), "x": normal(64, 64, 2)}, path)
    answer = call("error", "--weights", path, "--format", "int8.row", "--json")
    assert answer.code == 0
    notes = {x["name"]: x["note"] for x in json.loads(answer.out)["weights"]["layers"]}
    said = "codes as they are stored: no scales named with _scale_inv or _scale lie beside them"
    assert notes == {"w": said, "w_scale": "", "x": ""}
    answer = call("error", "--weights", path, "--format", "int8.row")
    assert answer.code == 0
    assert f"{said}: w\n" in answer.out


MEMORY = """
import sys, resource, workbench, torch
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = workbench.error(weights=sys.argv[1], formats=["int8.b32x32", "e4m3fn.tensor"])
assert len(report.weights.ranked) == 10
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A sparse checkpoint of 0.7 GB is ranked in 0.5 GB beside the libraries."""
    rows, cols, count = 8192, 4096, 10
    size = rows * cols * 2
    header: dict[str, Any] = {
        f"w{i}": {
            "dtype": "BF16",
            "shape": [rows, cols],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(count)
    }
    text = json.dumps(header).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for i in range(count):
            stream.seek(8 + len(text) + i * size)
            stream.write(b"\x80\x3f" * 4096)  # a row of ones; the rest is a hole
        stream.truncate(8 + len(text) + count * size)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    )
    unit = 1024 if sys.platform != "darwin" else 1
    before, after = (int(word) * unit for word in run.stdout.split())
    assert after - before < 500e6
