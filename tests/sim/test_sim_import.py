"""What a prediction imports stays light."""

import json
import subprocess
import sys

import sim

HEAVY = [
    *("torch", "triton", "cupy", "optuna", "scipy", "sklearn", "plotly", "pydantic", "pandas"),
    *("pyarrow", "sim.evaluation"),
]
PROGRAM = f"""
import json, sys
import sim, tiles.formats, tiles.recipes, tiles.problems, tiles.kernels
from tiles.kernels import kernel
from tiles.problems import Gemm
from tiles.recipes import recipe
gpu = sim.load_gpu("h200")
problem = Gemm(m=64, n=4096, k=4096, recipe=recipe("int8-row"))
family = kernel("triton_gemm")
sim.price(problem, family, family.legal_space(problem, gpu.limits).accepted, gpu).best()
sim.matmul_error(problem.recipe)
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


def test_a_prediction_loads_no_heavy_package() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=900
    )
    assert json.loads(done.stdout) == []


def test_all_lists_what_is_public() -> None:
    assert sim.__all__ == sorted(sim.__all__, key=lambda name: (name.islower(), name))
    assert all(hasattr(sim, name) for name in sim.__all__)
