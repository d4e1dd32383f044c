"""Kernels that begin early read what the launch before wrote, and write where it has read."""

from collections.abc import Callable

import pytest
import torch

from sim import load_gpu
from tiles.kernels import kernel
from tiles.kernels.cuda import gemm_hopper_blocks, quantize_blocks, transpose_codes
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.problems import parse_problem

pytestmark = pytest.mark.gpu

SIDE = 1024
STEPS = 24
Pause = Callable[[], None]


def config(family: str, problem: str) -> dict[str, int | bool]:
    found = kernel(family)
    return found.default(parse_problem(problem), load_gpu("h200").limits).to_dict()


class Turns:
    """Codes that go to and fro, one more in every step: an old one anywhere shows at the end."""

    def __init__(self) -> None:
        self.codes = torch.zeros(4 * SIDE, SIDE, dtype=torch.int8, device="cuda")
        self.turned = torch.empty(SIDE, 4 * SIDE, dtype=torch.int8, device="cuda")
        self.back = torch.empty_like(self.codes)
        self.there = config("cuda_transpose", f"transpose:{4 * SIDE}x{SIDE}:int8")
        self.again = config("cuda_transpose", f"transpose:{SIDE}x{4 * SIDE}:int8")

    def __call__(self) -> None:
        stream = cupy_stream("cuda")
        codes, turned, back = map(cupy_view, (self.codes, self.turned, self.back))
        for _ in range(STEPS):
            transpose_codes.launch(codes, turned, config=self.there, stream=stream)
            transpose_codes.launch(turned, back, config=self.again, stream=stream)
            torch.add(self.back, 1, out=self.codes)

    def right(self, calls: int) -> bool:
        return bool((self.codes == (calls * STEPS + 128) % 256 - 128).all())


class Products:
    """A matrix, quantised and multiplied again and again."""

    def __init__(self) -> None:
        draw = torch.Generator("cuda").manual_seed(5)
        self.begin = torch.randn(SIDE, SIDE, generator=draw, device="cuda").bfloat16()
        self.x = self.begin.clone()
        self.c = torch.empty_like(self.x)
        self.a, self.b = (torch.empty(SIDE, SIDE, dtype=torch.int8, device="cuda") for _ in "ab")
        self.a_scale, self.b_scale = (
            torch.empty(SIDE // 128, SIDE // 128, device="cuda") for _ in "ab"
        )
        self.blocks = config("cuda_quantize", f"quantize:{SIDE}x{SIDE}:int8.b128x128:bf16")
        self.product = config("hopper_block_gemm", f"gemm:{SIDE}x{SIDE}x{SIDE}:int8-b128:bf16")
        self._quantise(self.begin, self.b, self.b_scale)

    def _quantise(self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
        quantize_blocks.launch(
            *map(cupy_view, (x.view(torch.uint16), codes, scales)),
            source="bf16", target="int8", block=(128, 128), config=self.blocks, seed=None,
            stream=cupy_stream("cuda"),
        )  # fmt: skip

    def __call__(self, pause: Pause = lambda: None) -> None:
        self.x.copy_(self.begin)
        for _ in range(STEPS):
            self._quantise(self.x, self.a, self.a_scale)
            pause()
            operands = (self.a, self.b, self.c.view(torch.uint16), self.a_scale, self.b_scale)
            gemm_hopper_blocks.launch(
                *map(cupy_view, operands),
                element="int8", out="bf16", scales="b128x128", config=self.product,
                stream=cupy_stream("cuda"),
            )  # fmt: skip
            pause()
            torch.mul(self.c, 1 / 32, out=self.x)


def test_a_chain_is_the_chain_that_waits() -> None:
    chain = Products()
    chain(torch.cuda.synchronize)
    wanted = chain.x.clone()
    assert wanted.isfinite().all()
    assert wanted.float().std() > 1e-3
    for _ in range(4):
        chain()
        torch.cuda.synchronize()
        assert torch.equal(chain.x, wanted)


def test_what_is_read_is_not_overwritten_too_early() -> None:
    turns = Turns()
    for _ in range(4):
        turns()
    torch.cuda.synchronize()
    assert turns.right(4)


def test_a_graph_whose_branches_meet_keeps_the_order() -> None:
    turns, chain = Turns(), Products()
    turns()
    chain()
    torch.cuda.synchronize()
    wanted = chain.x.clone()
    graph, beside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.graph(graph):
        turns()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            chain()
        turns()
        torch.cuda.current_stream().wait_stream(beside)
        turns()
    for replay in range(1, 4):
        chain.x.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(chain.x, wanted)
        assert turns.right(1 + 3 * replay)
