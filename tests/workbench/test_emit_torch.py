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
refused(TypeError, "a is str: it must be a torch tensor", "x", b)
refused(TypeError, "b_scale is float: it must be a torch tensor", a, b, a_scale, 1.0)
refused(TypeError, "out is list: it must be a torch tensor", a, b, a_scale, b_scale, out=[out])
refused(ValueError, "out must be (40, 64)", a, b, a_scale, b_scale, out=out[:-1])
refused(TypeError, "out holds", a, b, a_scale, b_scale, out=out.float())
i8 = torch.zeros(1, 133145, dtype=torch.int8)
one = torch.ones(1, 1)
refused(ValueError, "the int32 accumulator could overflow", i8, i8, one, one, recipe="int8-row",
        out_dtype=torch.float32)
"""


#: The same module without the interpreter, as a user without a GPU meets it.
NO_GPU = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import tile_pack

def refused(kind, words, function, *arguments, **keywords):
    try:
        function(*arguments, **keywords)
    except kind as error:
        assert words in str(error) and "\\n" not in str(error), error
    else:
        raise AssertionError(f"not refused: {words}")

a = torch.zeros(16, 256, dtype=torch.int8)
b = torch.zeros(64, 256, dtype=torch.int8)
a_scale, b_scale = torch.ones(16, 1), torch.ones(64, 1)
product = dict(recipe="int8-row", out_dtype=torch.float32)
advice = "lies on cpu: move it to a GPU, or set TRITON_INTERPRET=1"
refused(ValueError, "a " + advice, tile_pack.gemm, a, b, a_scale, b_scale, **product)
x = torch.zeros(64, 256, dtype=torch.bfloat16)
refused(ValueError, "x " + advice, tile_pack.quantize, x, "int8.row")
codes, scales = torch.zeros(64, 256, dtype=torch.int8), torch.ones(64, 1)
for wrong in ((codes,), codes, (codes, scales, scales), 3):
    refused(TypeError, "must be a pair", tile_pack.quantize, x, "int8.row", out=wrong)
refused(TypeError, "scales of out is NoneType", tile_pack.quantize, x, "int8.row",
        out=(codes, None))
refused(TypeError, "x is list: it must be a torch tensor", tile_pack.quantize, [1], "int8.row")
# Shapes alone need no GPU.
meta = [t.to("meta") for t in (a, b, a_scale, b_scale)]
assert tile_pack.gemm(*meta, **product).shape == (16, 64)
"""


def _run(script: str, package: Path, **environment: str) -> None:
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(package / "src")],
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_cannot_run_is_refused_in_one_line(tmp_path: Path) -> None:
    made = (
        study("gemm:16x64x256:int8-row:fp32"),
        study("quantize:64x256:int8.row:bf16", family="triton_quantize"),
    )
    _run(NO_GPU, emit(run_of(*made), tmp_path / "out", name="tile_pack").folder)


def test_functions_compile_validate_and_fall_back(tmp_path: Path) -> None:
    tuned = (study("gemm:40x64x256:e4m3-row:bf16"), study("gemm:16x64x256:int8-row:fp32"))
    assert tuned[0].trials[0].config.to_dict()["tma"]
    package = emit(run_of(*tuned), tmp_path / "out", name="tile_pack")
    _run(SCRIPT, package.folder, TRITON_INTERPRET="1")
