"""Problems, configurations and operands of the Hopper GEMM, for tests without a GPU."""

from pathlib import Path
from typing import Any

from cupy_arrays import array

from sim import load_gpu
from tiles.kernels.cuda import gemm_hopper
from tiles.kernels.hopper_gemm import HopperGemm, HopperGemmConfig, scale_mode
from tiles.problems import Gemm, parse_problem

SOURCE = Path(gemm_hopper.__file__).with_suffix(".cu")
FAMILY = HopperGemm()
H200 = load_gpu("h200").limits
#: A recipe for every pair of element and scale mode that a recipe names.
RECIPES = (
    "bf16",
    "fp16",
    "unit-scaling",
    "e4m3-tensor",
    "e4m3-row",
    "deepseek-fp8",
    "e5m2-tensor",
    "e5m2-row",
    "e5m2-b128",
    "e4m3-b128",
    "int8-tensor",
    "int8-row",
    "int8-b128",
)
THREADS = 384


def gemm(text: str) -> Gemm:
    problem = parse_problem(text)
    assert isinstance(problem, Gemm)
    return problem


def config(**fields: int | bool) -> HopperGemmConfig:
    plain = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
    return HopperGemmConfig.from_dict(plain | {"pingpong": False, "store_buffers": 1} | fields)


def options(problem: Gemm, one: HopperGemmConfig) -> tuple[str, ...]:
    """What the launcher would compile."""
    activation, weight = problem.recipe.activation, problem.recipe.weight
    scales = scale_mode(activation, weight)
    assert scales is not None
    return gemm_hopper.options(
        element=activation.element.name, out=problem.out, scales=scales, config=one.to_dict()
    )


def of_recipe(name: str, shape: str = "4096x4096x4096") -> Gemm:
    out = ("bf16", "fp16", "fp32")[RECIPES.index(name) % 3]
    return gemm(f"gemm:{shape}:{name}:{out}")


GOOD: dict[str, Any] = {
    "a": array((64, 256), "uint8"),
    "b": array((128, 256), "uint8"),
    "c": array((64, 128), "uint16"),
    "a_scale": array((64, 2), "float32", strides=(4, 256)),
    "b_scale": array((1, 2), "float32"),
    "element": "e4m3fn",
    "out": "bf16",
    "scales": "b1x128",
    "config": config().to_dict(),
}
#: The first address of the last row of C.
OVER_C = GOOD["c"].data.ptr + 63 * 256


ROW: dict[str, Any] = {
    "scales": "row",
    "a_scale": array((64, 1), "float32"),
    "b_scale": array((128, 1), "float32"),
}
