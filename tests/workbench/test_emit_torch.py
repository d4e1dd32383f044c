"""The emitted functions as PyTorch operators, under Triton's interpreter in another process."""

import os
import subprocess
import sys
from pathlib import Path

from emit_runs import run_of, study

from workbench.emission import emit

#: Runs with the emitted module on sys.path[0]; prints nothing and exits 0 when all holds.
SCRIPT = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore", DeprecationWarning)
import torch
import tile_pack

m, n, k = 40, 64, 256
a = torch.randn(m, k).to(torch.float8_e4m3fn)
b = torch.randn(n, k).to(torch.float8_e4m3fn)
a_scale, b_scale = torch.rand(m, 1) + 0.5, torch.rand(n, 1) + 0.5

def product(a, a_scale):
    return tile_pack.gemm(a, b, a_scale, b_scale, recipe="e4m3-row") * 2

def into(a, a_scale, out):
    return tile_pack.gemm(a, b, a_scale, b_scale, recipe="e4m3-row", out=out) * 2

warnings.simplefilter("ignore")
compiled = torch.compile(product, fullgraph=True, backend="aot_eager", dynamic=True)
eager = product(a, a_scale)
assert torch.equal(compiled(a, a_scale), eager)
assert torch.equal(compiled(a[:24].clone(), a_scale[:24].clone()), eager[:24])
out = torch.full((m, n), torch.nan, dtype=torch.bfloat16)
again = torch.compile(into, fullgraph=True, backend="aot_eager")(a, a_scale, out)
assert torch.equal(again, eager) and torch.equal(out * 2, eager)
exact = (a.double() * a_scale) @ (b.double() * b_scale).T
assert (eager.double() / 2 - exact).norm() < 0.01 * exact.norm()

# Rows that start off a 16-byte boundary run the default, with one warning.
wide = torch.zeros(m, k + 16, dtype=torch.float8_e4m3fn)
wide.view(torch.uint8)[:, 1 : k + 1] = a.view(torch.uint8)
shifted = wide[:, 1 : k + 1]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert torch.equal(product(shifted, a_scale), eager)
    product(shifted, a_scale)
told = [w for w in caught if "do not start at multiples of 16 bytes" in str(w.message)]
assert [w.filename for w in told] == ["<string>"], told

assert tile_pack.gemm(a[:0], b, a_scale[:0], b_scale, recipe="e4m3-row").shape == (0, n)

def refused(kind, words, *arguments, **keywords):
    try:
        tile_pack.gemm(*arguments, **{"recipe": "e4m3-row", **keywords})
    except kind as error:
        assert words in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")

refused(ValueError, "no gemm for recipe", a, b, a_scale, b_scale, recipe="int8-row")
refused(ValueError, "no gemm for recipe", a, b, a_scale, b_scale, out_dtype=torch.float16)
refused(ValueError, "gemm takes a (M, K)", a, b[:, :-1], a_scale, b_scale)
refused(TypeError, "a must be torch.float8_e4m3fn", a.float(), b, a_scale, b_scale)
refused(ValueError, "a_scale is missing", a, b)
refused(ValueError, "b_scale must be (64, 1)", a, b, a_scale, b_scale[:-1])
refused(TypeError, "b_scale must be torch.float32", a, b, a_scale, b_scale.double())
refused(ValueError, "out must be (40, 64)", a, b, a_scale, b_scale, out=out[:-1])
refused(TypeError, "out holds", a, b, a_scale, b_scale, out=out.float())
i8 = torch.zeros(1, 133145, dtype=torch.int8)
one = torch.ones(1, 1)
refused(ValueError, "the int32 accumulator could overflow", i8, i8, one, one, recipe="int8-row",
        out_dtype=torch.float32)
"""


def test_functions_compile_validate_and_fall_back(tmp_path: Path) -> None:
    tuned = (study("gemm:40x64x256:e4m3-row:bf16"), study("gemm:16x64x256:int8-row:fp32"))
    assert tuned[0].trials[0].config.to_dict()["tma"]
    package = emit(run_of(*tuned), tmp_path / "out", name="tile_pack")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(package.folder / "src")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
