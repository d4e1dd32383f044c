"""Peers of the table of ratios: their operands, their refusals, and answers that are wrong."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from bench import reach
from bench.deep_gemm_peer import aligned_scales, version
from bench.jetfire_peer import released_us
from bench.reach_peers import Peer, Recorded, Refused, copied_pair, open_peer
from tiles.problems import BatchedGemm, Gemm, GroupedGemm, parse_problem

SEED = 5


def opened(name: str, text: str) -> Peer | Recorded | Refused:
    problem = parse_problem(text)
    workload: Any = SimpleNamespace(device="cpu")
    return open_peer(name, problem, workload, SEED)


@pytest.mark.parametrize("size", [171966468, 201588736, 2])
def test_a_copy_reads_and_writes_whole_pages(size: int) -> None:
    """NVFP4 at 8192 x 8192 is 4 bytes more than a multiple of 16: an odd number of lines each."""
    read, written = copied_pair(size, "meta")
    assert read.numel() == written.numel()
    assert 0 <= read.numel() + written.numel() - size < 2 * 4096
    assert written.storage_offset() % 4096 == 0


def _spread(scales: torch.Tensor, rows: int, shape: torch.Size) -> torch.Tensor:
    wide = scales.repeat_interleave(rows, -2)[..., : shape[-2], :]
    return wide.repeat_interleave(128, -1)[..., : shape[-1]]


def _check_scales(scales: torch.Tensor) -> None:
    """What the library's tensor maps load; it would copy anything else on every call."""
    padded = -(-scales.shape[-2] // 4) * 4
    assert scales.dtype is torch.float32
    assert scales.stride()[-2:] == (1, padded)
    if scales.dim() == 3:
        assert scales.stride(0) == padded * scales.shape[-1]


class FakeDeepGemm(ModuleType):
    """The library's functions on a CPU, as strict about layouts as they are."""

    __version__ = "1.0.0"

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__("deep_gemm")
        self.factor = factor
        self.outputs: list[int] = []

    def _product(self, lhs: Any, rhs: Any) -> torch.Tensor:
        (a, a_scale), (b, b_scale) = lhs, rhs
        assert a.dtype is b.dtype is torch.float8_e4m3fn
        _check_scales(a_scale)
        assert b_scale.is_contiguous()
        left = a.float() * _spread(a_scale, 1, a.shape)
        right = b.float() * _spread(b_scale, 128, b.shape)
        return (left @ right.mT * self.factor).to(torch.bfloat16)

    def gemm_fp8_fp8_bf16_nt(self, lhs: Any, rhs: Any, out: torch.Tensor) -> None:
        self.outputs.append(out.data_ptr())
        out.copy_(self._product(lhs, rhs))

    def m_grouped_gemm_fp8_fp8_bf16_nt_contiguous(
        self, lhs: Any, rhs: Any, out: torch.Tensor, m_indices: torch.Tensor
    ) -> None:
        assert m_indices.dtype is torch.int32
        assert len(m_indices) == len(out) == len(lhs[0])
        assert len(out) % 128 == 0
        for expert in range(len(rhs[0])):
            product = self._product(lhs, (rhs[0][expert], rhs[1][expert]))
            out[m_indices == expert] = product[m_indices == expert]

    def m_grouped_gemm_fp8_fp8_bf16_nt_masked(
        self, lhs: Any, rhs: Any, out: torch.Tensor, masked_m: torch.Tensor, expected_m: int
    ) -> None:
        assert masked_m.dtype is torch.int32
        product = self._product(lhs, rhs)
        for expert, rows in enumerate(masked_m.tolist()):
            out[expert, :rows] = product[expert, :rows]
        assert expected_m == -(-int(masked_m.sum()) // len(out))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], FakeDeepGemm]:
    def install(factor: float = 1.0) -> FakeDeepGemm:
        fake = FakeDeepGemm(factor)
        monkeypatch.setitem(sys.modules, "deep_gemm", fake)
        return fake

    return install


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (reach.MATMUL, "gemm:24x96x160:int8-b128:bf16"),
        (reach.TENSOR, "gemm:32x96x160:mxfp8-e4m3:bf16"),
        (reach.INT_MM, "gemm:24x96x160:int8-row:bf16"),
        (reach.MATMUL_WGRAD, "gemm:24x96x160:int8-b128:fp32"),
    ],
)
def test_peers_are_right_and_rotate_their_operands(name: str, text: str) -> None:
    peer = opened(name, text)
    assert isinstance(peer, Peer), peer
    assert peer.name == name
    launches = peer.launchers(3)
    assert len(launches) == 3
    for launch in launches:
        launch()
    assert peer.set_bytes > 0


def test_a_weight_gradient_reads_both_operands_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    layouts = []
    real = torch.matmul

    def matmul(a: torch.Tensor, b: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
        layouts.append((a.stride(), b.stride(), out.dtype))
        return real(a, b, out=out)

    monkeypatch.setattr(torch, "matmul", matmul)
    peer = opened(reach.MATMUL_WGRAD, "gemm:24x96x160:int8-b128:fp32")
    assert isinstance(peer, Peer), peer
    # dY (160, 24) transposed and X (160, 96), each row a token's.
    assert layouts == [((1, 24), (96, 1), torch.bfloat16)]


def test_what_is_missing_or_takes_no_such_problem_says_why() -> None:
    missing = opened(reach.DEEP_GEMM, "gemm:24x96x160:deepseek-fp8:bf16")
    assert missing == Refused(
        name=reach.DEEP_GEMM, reason="ModuleNotFoundError: No module named 'deep_gemm'"
    )
    block = opened(reach.BLOCK, "gemm:24x96x160:deepseek-fp8:bf16")
    assert isinstance(block, Refused)  # torch for the CPU has no such scaling
    assert block.reason


def test_the_library_gets_scales_as_it_loads_them(
    library: Callable[[float], FakeDeepGemm],
) -> None:
    fake = library(1.0)
    peer = opened(reach.DEEP_GEMM, "gemm:22x200x384:deepseek-fp8:bf16")
    assert isinstance(peer, Peer), peer
    for launch in peer.launchers(2):
        launch()
    assert len(set(fake.outputs[1:])) == 2
    assert version() == "1.0.0"


def test_a_peer_whose_answer_is_wrong_is_refused(
    library: Callable[[float], FakeDeepGemm],
) -> None:
    library(0.9)
    peer = opened(reach.DEEP_GEMM, "gemm:22x200x384:deepseek-fp8:bf16")
    assert peer == Refused(
        name=reach.DEEP_GEMM, reason="ValueError: its answer is wrong: relative error 0.1"
    )
    library(float("nan"))
    peer = opened(reach.DEEP_GEMM, "gemm:22x200x384:deepseek-fp8:bf16")
    assert isinstance(peer, Refused)
    assert peer.reason.endswith("relative error nan")


@pytest.mark.parametrize("layout", ["padded.128", "masked.128"])
@pytest.mark.parametrize("name", [reach.DEEP_GEMM, reach.DEEP_GEMM_LOOP])
def test_grouped_peers_fill_the_rows_of_every_expert(
    layout: str, name: str, library: Callable[[float], FakeDeepGemm]
) -> None:
    from tiles.kernels.grouped_workload import GroupedWorkload

    problem = parse_problem(f"grouped_gemm:3x200x96x256:deepseek-fp8:{layout}:bf16")
    assert isinstance(problem, GroupedGemm)
    workload = GroupedWorkload(problem, device="cpu", seed=SEED)
    library(1.0)
    peer = open_peer(name, problem, workload, SEED)
    assert isinstance(peer, Peer), peer
    library(1.2)
    wrong = open_peer(name, problem, workload, SEED)
    assert isinstance(wrong, Refused)
    assert "its answer is wrong: relative error 0.2" in wrong.reason


@pytest.mark.parametrize("shape", [(8, 3), (7, 3), (2, 5, 2), (1, 1)])
def test_aligned_scales_keep_values_and_start_columns_at_16_bytes(shape: tuple[int, ...]) -> None:
    scales = torch.rand(shape)
    laid = aligned_scales(scales)
    assert torch.equal(laid, scales)
    _check_scales(laid)
    assert laid.data_ptr() != scales.data_ptr()


def test_products_of_int8_experts_and_batches_are_timed_though_unscaled() -> None:
    from tiles.kernels.batched_workload import BatchedWorkload
    from tiles.kernels.grouped_workload import GroupedWorkload

    grouped = parse_problem("grouped_gemm:2x128x96x256:int8-b1x128:contiguous:bf16")
    assert isinstance(grouped, GroupedGemm)
    workload = GroupedWorkload(grouped, device="cpu", seed=SEED)
    peer = open_peer(reach.LOOP, grouped, workload, SEED)
    assert isinstance(peer, Peer), peer
    assert peer.note == "counts known on the host; writes unscaled int32, not compared"
    batched = parse_problem("batched_gemm:2x32x48x64:e4m3-tensor:nk:bf16")
    assert isinstance(batched, BatchedGemm)
    of_batch = BatchedWorkload(batched, device="cpu", seed=SEED)
    for name in (reach.BATCHED_LOOP, reach.BMM):
        peer = open_peer(name, batched, of_batch, SEED)
        assert isinstance(peer, Peer), peer
        for launch in peer.launchers(2):
            launch()


def test_4_bit_weights_of_the_peer_are_its_own_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's packing and product played by plain torch: even codes in the high nibble."""

    def convert(codes: torch.Tensor, tiles: int) -> torch.Tensor:
        assert (codes.dtype, tiles) == (torch.uint8, 8)
        return codes

    def multiply(
        x: torch.Tensor, packed: torch.Tensor, group: int, pairs: torch.Tensor
    ) -> torch.Tensor:
        codes = torch.stack([packed >> 4, packed & 15], -1).flatten(1).int()
        assert (group, pairs.shape) == (128, (codes.shape[1] // 128, codes.shape[0], 2))
        scale, zero = pairs[torch.arange(codes.shape[1]) // 128].float().unbind(-1)  # (K, N)
        return (x.float() @ ((codes.T - 8) * scale + zero) * factor).to(torch.bfloat16)

    factor = 1.0
    monkeypatch.setattr(torch, "_convert_weight_to_int4pack", convert)
    monkeypatch.setattr(torch, "_weight_int4pack_mm", multiply)
    peer = opened(reach.INT4, "gemm:5x96x256:w4a16-g128:bf16")
    assert isinstance(peer, Peer), peer
    for launch in peer.launchers(2):
        launch()
    factor = 1.1
    wrong = opened(reach.INT4, "gemm:5x96x256:w4a16-g128:bf16")
    assert isinstance(wrong, Refused)
    assert "its answer is wrong: relative error 0.1" in wrong.reason


def test_what_was_recorded_counts_on_the_same_gpu_and_shape_alone() -> None:
    square = parse_problem("gemm:4096x4096x4096:jetfire:int8.b32x32")
    assert isinstance(square, Gemm)
    time_us, note = released_us(square, "NVIDIA H200")
    assert time_us == pytest.approx(2 * 4096**3 / 228e6)
    assert "228 TFLOP/s; not in this run" in note
    with pytest.raises(ValueError, match="recorded on NVIDIA H200, the device is NVIDIA L40S"):
        released_us(square, "NVIDIA L40S")
    with pytest.raises(ValueError, match="no record of 4096x4096x4104"):
        released_us(square.resized(4096, 4096, 4104), "NVIDIA H200")
    refused = opened(reach.JETFIRE, "gemm:64x64x64:jetfire:int8.b32x32")
    assert isinstance(refused, Refused)
    assert refused.reason.endswith("the device is the CPU")
