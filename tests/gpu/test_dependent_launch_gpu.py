"""Kernels that begin early read what the launch before wrote, and write where it has read."""

from collections.abc import Callable
from threading import Thread

import pytest
import torch

from sim import load_gpu
from tiles.kernels import kernel
from tiles.kernels.cuda import gemm_hopper_blocks, launches, quantize_blocks, transpose_codes
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


class Branches:
    """A long branch and a short one, each ended by a transposition, and one of each behind both."""

    def __init__(self) -> None:
        self.long = torch.zeros(16 * SIDE, 16 * SIDE, dtype=torch.int8, device="cuda")
        self.short = torch.zeros(SIDE, SIDE, dtype=torch.int8, device="cuda")
        self.turned = [torch.zeros_like(one) for one in (self.long, self.short)]
        self.back = [torch.zeros_like(one) for one in (self.long, self.short)]
        self.configs = [
            config("cuda_transpose", f"transpose:{len(one)}x{len(one)}:int8")
            for one in (self.long, self.short)
        ]

    def turn(self, which: int, source: torch.Tensor, to: torch.Tensor) -> None:
        transpose_codes.launch(
            *map(cupy_view, (source, to)), config=self.configs[which], stream=cupy_stream("cuda")
        )

    def __call__(self, beside: torch.cuda.Stream) -> None:
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self.turn(0, self.long, self.turned[0])
        self.turn(1, self.short, self.turned[1])
        torch.cuda.current_stream().wait_stream(beside)
        for which in (1, 0):  # the second one's edge to the long branch is by way of the first
            self.turn(which, self.turned[which], self.back[which])

    def right(self) -> bool:
        pairs = zip((self.long, self.short), self.back, strict=True)
        return all(torch.equal(one, back) for one, back in pairs)


@pytest.mark.parametrize("captured", [False, True], ids=["streams", "graph"])
def test_what_stands_behind_two_branches_waits_for_both(captured: bool) -> None:
    branches, beside = Branches(), torch.cuda.Stream()
    branches(beside)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    if captured:
        with torch.cuda.graph(graph):
            branches(beside)
    for value in range(1, 6):
        branches.long.fill_(value)
        branches.short.fill_(-value)
        if captured:
            graph.replay()
        else:
            branches(beside)
        torch.cuda.synchronize()
        assert branches.right()


def test_behind_a_copy_or_a_memset_a_launch_waits_likewise() -> None:
    """Edges that cannot be programmatic: what stands before is no kernel."""
    branches = Branches()
    branches.turn(0, branches.long, branches.turned[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    source = torch.empty_like(branches.long)
    with torch.cuda.graph(graph):
        branches.turn(0, branches.long, branches.turned[0])
        branches.turned[0].zero_()
        branches.turn(0, branches.turned[0], branches.back[0])
        branches.long.copy_(source)
        branches.turn(0, branches.long, branches.turned[0])
    for value in range(1, 4):
        source.fill_(value)
        branches.back[0].fill_(-1)
        graph.replay()
        torch.cuda.synchronize()
        assert not branches.back[0].any()
        assert bool((branches.turned[0] == value).all())


def test_a_thread_of_its_own_launches_too() -> None:
    turns, errors = Turns(), list[BaseException]()

    def work() -> None:
        try:
            turns()
        except BaseException as error:
            errors.append(error)

    turns()
    torch.cuda.synchronize()
    thread = Thread(target=work)
    thread.start()
    thread.join()
    torch.cuda.synchronize()
    assert not errors
    assert turns.right(2)


def test_what_the_driver_refuses_is_said_by_name() -> None:
    import cupy

    turns = Turns()
    kernel = cupy.RawKernel('extern "C" __global__ void nothing() {}', "nothing")
    with pytest.raises(cupy.cuda.driver.CUDADriverError, match="CUDA_ERROR_INVALID_VALUE"):
        launches.run(kernel, 1, 4096, (), stream=cupy_stream("cuda"))
    turns()
    torch.cuda.synchronize()
    assert turns.right(1)
