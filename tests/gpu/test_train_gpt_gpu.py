"""The comparison of training recipes on a GPU: packed codes, and its rehearsal on the kernels."""

import json
from pathlib import Path

import pytest
import torch

from bench.train_gpt.__main__ import main
from bench.train_gpt.packed_backend import PackedBackend
from tiles.formats import TensorFormat
from workbench.nn import ReferenceBackend

pytestmark = pytest.mark.gpu

TWIN = ReferenceBackend()


@pytest.mark.parametrize("text", ["e3m2fn.mx", "e2m3fn.mx", "e2m1fn.mx", "e2m1fn.mx+sr"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_packed_codes_are_the_twins(text: str, dtype: torch.dtype) -> None:
    pytest.importorskip("cupy")
    backend = PackedBackend(torch.device("cuda", torch.cuda.current_device()))
    fmt = TensorFormat.parse(text)
    x = torch.randn(512, 1024, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[0, :32], x[1, 5] = 0.0, 300.0
    found = backend.quantize(x.cuda(), fmt, seed=7)
    assert found.shape == x.shape
    for out in (torch.bfloat16, torch.float32):
        expected = TWIN.quantize(x, fmt, seed=7).dequantize(out)
        assert torch.equal(backend.dequantize(found, out).cpu(), expected)
    if "+sr" not in text:
        turned = backend.quantize_directions(x.cuda(), fmt).turned
        assert turned is not None
        expected = TWIN.quantize(x.t(), fmt).dequantize(torch.bfloat16)
        assert torch.equal(backend.dequantize(turned, torch.bfloat16).cpu(), expected)


def test_the_rehearsal_runs_on_the_kernels(tmp_path: Path) -> None:
    pytest.importorskip("cupy")
    output = tmp_path / "record.json"
    words = ["--smoke", "--device", "cuda", "--processes", "4", "--time-limit", "8m"]
    words += ["--recipes", "bf16,fp32,jetfire,mxfp6-e3m2,mxfp8-e4m3,int8-row"]
    assert main([*words, "--state", str(tmp_path / "state"), "--output", str(output)]) == 0
    runs = {one["recipe"]: one for one in json.loads(output.read_text())["runs"]}
    assert {name: (one["status"], one["reason"]) for name, one in runs.items()} == dict.fromkeys(
        runs, ("finished", "")
    )
    for name, one in runs.items():
        assert one["loss"] == pytest.approx(runs["fp32"]["loss"], rel=0.01), name
    assert runs["jetfire"]["unserved"] == {}
    assert runs["mxfp6-e3m2"]["backend"] == PackedBackend.name
