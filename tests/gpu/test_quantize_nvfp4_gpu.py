"""The NVFP4 quantisation in CUDA C++ on a GPU, bit for bit against the codec in torch."""

from typing import Any

import pytest
import torch

from tiles.formats import TensorFormat
from tiles.formats.packing import pack_codes
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels import kernel
from tiles.kernels.cuda import quantize_nvfp4
from tiles.kernels.cuda_quantize_nvfp4 import CudaQuantizeNvfp4Config
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.problems import parse_problem

pytestmark = pytest.mark.gpu

NVFP4 = TensorFormat.parse("nvfp4")
#: One launch and two, few and many warps, nothing said to the L2 and much.
CONFIGS = [
    {"num_warps": 16, "stages": 6, "held": 3, "fused": True, "kept_mib": 0},
    {"num_warps": 8, "stages": 3, "held": 0, "fused": True, "kept_mib": 32},
    {"num_warps": 16, "stages": 3, "held": 0, "fused": False, "kept_mib": 0},
    {"num_warps": 32, "stages": 2, "held": 0, "fused": False, "kept_mib": 16},
]


def outputs(rows: int, cols: int) -> dict[str, torch.Tensor]:
    """What a launch writes, poisoned; zeros of the workspace."""
    return {
        "codes": torch.full((rows, cols // 2), 0x55, dtype=torch.uint8, device="cuda"),
        "scales": torch.full((rows, cols // 16), 0x55, dtype=torch.uint8, device="cuda"),
        "tensor_scale": torch.full((1,), -1.0, device="cuda"),
        "workspace": torch.zeros(3, dtype=torch.int32, device="cuda"),
    }


def launch(x: torch.Tensor, written: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    views = {name: cupy_view(tensor) for name, tensor in written.items()}
    quantize_nvfp4.launch(cupy_view(x), **views, config=config, stream=cupy_stream("cuda"))


def check(x: torch.Tensor, written: dict[str, torch.Tensor]) -> None:
    coded = quantize_tensor(x, NVFP4)
    assert coded.tensor_scale is not None
    assert torch.equal(written["scales"], coded.scale_bits)
    assert torch.equal(written["codes"], pack_codes(coded.bits, 4))
    assert written["tensor_scale"].item() == coded.tensor_scale.item()
    assert not written["workspace"].any()


def drawn(rows: int, cols: int, largest: float) -> torch.Tensor:
    """Numbers of many sizes, exact ties, zeros, NaN and infinity among them."""
    made = torch.Generator("cuda").manual_seed(rows * 7919 + cols)
    x = torch.randn(rows, cols, generator=made, device="cuda")
    x *= 2.0 ** torch.randint(-9, 9, (rows, cols), generator=made, device="cuda")
    x *= largest / x.abs().max()
    x[0, : cols // 2] = torch.arange(cols // 2, device="cuda") * (largest / 2**10)
    x[rows // 2, : cols // 2] = 0.0
    x[rows - 1, 0], x[rows // 3, cols - 1], x[0, cols - 1] = torch.nan, -torch.inf, -0.0
    return x.bfloat16()


@pytest.mark.parametrize("config", CONFIGS, ids=["fused", "fused kept", "two", "two kept"])
@pytest.mark.parametrize("shape", [(4, 16), (129, 272), (1000, 4096), (8192, 8192)])
def test_equals_the_codec_bit_for_bit(shape: tuple[int, int], config: dict[str, Any]) -> None:
    for largest in (2688.0, 5.3125, 1e-36):
        x, written = drawn(*shape, largest), outputs(*shape)
        for _ in range(3):  # the workspace serves again
            launch(x, written, config)
        check(x, written)


@pytest.mark.parametrize("fused", [True, False])
def test_replays_from_a_graph(fused: bool) -> None:
    config = CONFIGS[0] | {"fused": fused, "held": 3 * fused}
    x, written = drawn(512, 4096, 3.0), outputs(512, 4096)
    launch(x, written, config)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(x, written, config)
    x.copy_(drawn(512, 4096, 77.0))
    for _ in range(3):
        graph.replay()
    check(x, written)


def test_workload_checks_itself() -> None:
    family, problem = kernel("cuda_quantize_nvfp4"), parse_problem("quantize:2048x4096:nvfp4:bf16")
    workload = family.workload(problem, device="cuda", seed=3)
    for config in CONFIGS:
        found = workload.check(CudaQuantizeNvfp4Config(**config))
        assert found.ok, found.reason
