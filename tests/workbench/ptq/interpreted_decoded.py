"""Run under TRITON_INTERPRET: layers by ``triton_decoded_gemm``, judged; prints JSON.

Arguments: recipes.  Output: what is wrong with each, "" where nothing is.
"""

import json
import sys

import torch
from torch import nn

from sim import load_gpu
from tiles.kernels.accuracy import compare, gemm_reference
from tiles.kernels.arithmetic import gemm_arithmetic
from tiles.kernels.decoded_formats import inner_problem, wide_name
from tiles.kernels.decoded_workload import multiplied_values
from tiles.kernels.quantize_interpreter import exact_interpreter
from tiles.kernels.triton import tile_scales
from workbench.ptq import quantize
from workbench.ptq.decoded_route import DecodedRoute
from workbench.ptq.linear import QuantizedLinear
from workbench.ptq.routes import problem_of

LIMITS = load_gpu("h200").limits


def wrong(recipe: str, rows: int) -> str:
    """Why a layer's output lies outside the bounds of its operands; empty where it does not."""
    torch.manual_seed(0)
    x = torch.randn(rows, 128)
    made = quantize(nn.Linear(128, 48, bias=False), recipe, calibration=[x])
    layer = made.model
    assert isinstance(layer, QuantizedLinear)
    assert layer.codes is not None
    operand = layer.operator.operands["input"]
    with exact_interpreter(tile_scales):
        y = DecodedRoute(LIMITS).product(operand, x, layer.codes, None, {})
    problem = problem_of(rows, layer.codes, operand.format, torch.float32)
    wide = wide_name(problem.recipe)
    a, b = (multiplied_values(one, wide) for one in (operand.codes(x), layer.codes))
    arithmetic = gemm_arithmetic(inner_problem(problem), decode=True, interpreted=True)
    return compare(y, gemm_reference(a, b, arithmetic)).reason


if __name__ == "__main__":
    print(json.dumps({name: wrong(name, 5) or wrong(name, 300) for name in sys.argv[1:]}))
