"""Which kernel and configuration serves a problem."""

import pytest
from cuda_stand_ins import LIMITS

from sim import load_gpu, price
from tiles.kernels import kernel
from tiles.problems import parse_problem
from workbench.nn.choices import FAMILIES, Choice, Choices, NoKernel

TUNED = "gemm:512x512x512:jetfire:int8.b32x32"


def test_a_tuned_configuration_comes_before_the_default() -> None:
    problem, family = parse_problem(TUNED), kernel("hopper_block_gemm")
    space = family.legal_space(problem, LIMITS).accepted
    tuned = Choice(family="hopper_block_gemm", config=space.config(len(space) - 1))
    assert tuned.config != family.default(problem, LIMITS)
    choices = Choices(LIMITS, {TUNED: tuned})
    assert choices.of(problem) == tuned
    other = choices.of(problem.resized(256, 512, 512))
    assert isinstance(other, Choice)
    assert other.config == family.default(problem.resized(256, 512, 512), LIMITS)


@pytest.mark.parametrize("text", ["gemm:8192x4096x4096:int8-b128:bf16", TUNED])
def test_a_product_takes_the_fastest_predicted_configuration_of_all_families(text: str) -> None:
    gpu, problem = load_gpu("h200"), parse_problem(text)
    found = Choices(LIMITS, gpu=gpu).of(problem)
    assert isinstance(found, Choice)
    served = [kernel(name) for name in FAMILIES["gemm"]]
    times = {
        family.name: price(problem, family, family.legal_space(problem, LIMITS).accepted, gpu)
        for family in served
        if family.refusal(problem, LIMITS) is None
    }
    least = min(float(table.time_us.min()) for table in times.values())
    assert times[found.family].best().config == found.config
    assert times[found.family].best().time_us == least
    default = Choices(LIMITS).of(problem)
    assert isinstance(default, Choice)
    assert default.config == kernel(default.family).default(problem, LIMITS)


def test_refuses_a_tuned_configuration_that_does_not_fit() -> None:
    legal = kernel("triton_transpose")
    config = legal.default(parse_problem("transpose:64x64:int8"), LIMITS)
    with pytest.raises(ValueError, match="triton_transpose is not launched here, hopper_gemm"):
        Choices(LIMITS, {TUNED: Choice(family="triton_transpose", config=config)})
    a100 = load_gpu("a100").limits
    found = Choices(a100).of(parse_problem(TUNED))
    assert isinstance(found, NoKernel)
    assert "hopper_block_gemm" in found.reason
