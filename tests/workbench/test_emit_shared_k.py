"""Emitted products whose programs share K find their workspace, under Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from emit_runs import run_of, study

from tiles.kernels.gemm import GemmConfig
from workbench.emission import emit

pytestmark = pytest.mark.slow

SPLIT = GemmConfig(
    block_m=32,
    block_n=32,
    block_k=32,
    group_m=1,
    num_warps=4,
    num_stages=2,
    tma=False,
    persistent=False,
    split_k=3,
)
STREAM = GemmConfig.from_dict(
    {**SPLIT.to_dict(), "split_k": 1, "persistent": True, "stream_k": True}
)

SCRIPT = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
import tile_pack

torch.manual_seed(0)
for k in (480, 512):
    a = torch.randn(40, k).to(torch.float8_e4m3fn)
    b = torch.randn(64, k).to(torch.float8_e4m3fn)
    a_scale, b_scale = torch.rand(40, 1) + 0.5, torch.rand(64, 1) + 0.5
    exact = (a.double() * a_scale) @ (b.double() * b_scale).T
    first = tile_pack.gemm(a, b, a_scale, b_scale, recipe="e4m3-row")
    assert (first.double() - exact).norm() < 0.01 * exact.norm()
    assert torch.equal(tile_pack.gemm(a, b, a_scale, b_scale, recipe="e4m3-row"), first)
    few = tile_pack.gemm(a[:7], b, a_scale[:7], b_scale, recipe="e4m3-row")
    assert (few.double() - exact[:7]).norm() < 0.01 * exact[:7].norm()
from tile_pack import _gemm
split = {"block_m": 32, "block_n": 32, "split_k": 3}
config, workspace = _gemm._shared(split, (255 * 32, 64, 480), a.device, 3)
assert config == split and workspace is not None
for rows in (256 * 32, 2**20):  # 512 tiles fill a GPU, however K is shared
    assert _gemm._shared(split, (rows, 64, 480), a.device, 3) == ({**split, "split_k": 1}, None)
"""


def test_packages_run_shared_tiles_with_a_workspace_of_their_own(tmp_path: Path) -> None:
    made = (
        study("gemm:40x64x480:e4m3-row:bf16", config=SPLIT),
        study("gemm:40x64x512:e4m3-row:bf16", config=STREAM),
    )
    package = emit(run_of(*made), tmp_path / "out", name="tile_pack")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(package.folder / "src")],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
