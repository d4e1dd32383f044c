"""The accuracy check of a huge product fits beside it: its temporaries go by chunks of rows."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402 - torch is optional

from tiles.kernels import accuracy, output_tiles  # noqa: E402
from tiles.kernels.arithmetic import gemm_arithmetic  # noqa: E402
from tiles.problems import parse_problem  # noqa: E402

M, N, K = 7, 600, 900
PROBLEM = parse_problem(f"gemm:{M}x{N}x{K}:bf16:bf16")
CHUNK = output_tiles.TILE * K


class Allocations(TorchDispatchMode):
    """Elements of the largest fp64 tensor that an operation makes anew."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, torch.Tensor) and one.dtype == torch.float64:
                storage = one.untyped_storage()
                if storage.data_ptr() not in known:
                    self.largest = max(self.largest, storage.nbytes() // 8)
        return made


def _operands() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(M, K, generator=generator, dtype=torch.float64)
    b = torch.randn(N, K, generator=generator, dtype=torch.float64)
    b[500, 3], b[3, 7], b[9, 9] = 1e4, torch.inf, torch.nan
    return a, b


def test_no_temporary_is_as_large_as_an_operand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_tiles, "_CHUNK_ELEMENTS", CHUNK)
    a, b = _operands()
    with Allocations() as seen:
        accuracy.gemm_reference(a, b, gemm_arithmetic(PROBLEM, decode=False))
    assert M * N <= seen.largest <= CHUNK < b.numel() / 4


def test_chunks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _operands()
    arithmetic = gemm_arithmetic(PROBLEM, decode=False)
    whole = accuracy.gemm_reference(a, b, arithmetic)
    monkeypatch.setattr(output_tiles, "_CHUNK_ELEMENTS", CHUNK)
    parts = accuracy.gemm_reference(a, b, arithmetic)
    for name in ("exact", "bound", "tile_rms_limit"):
        torch.testing.assert_close(
            getattr(parts, name), getattr(whole, name), rtol=0, atol=0, equal_nan=True
        )
