"""Kernels of training layers alone: an activation's gradient, codes of a transpose."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sim import load_gpu
from tiles.kernels.offline_triton import META, facts_of
from tiles.kernels.triton import activation_tiles, norm_gradient, placed_tiles, residual_tiles

HERE = Path(__file__).parent


def operands(rows: int, cols: int, side: int, device: str = "cpu") -> list[torch.Tensor]:
    grid = (-(-rows // side), -(-cols // side))
    made: dict[str, Any] = {"device": device}
    return [
        torch.zeros(rows, cols, dtype=torch.int8, **made),
        torch.ones(grid, **made),
        torch.zeros(rows, cols, dtype=torch.bfloat16, **made),
        torch.zeros(rows, cols, dtype=torch.int8, **made),
        torch.ones(grid, **made),
    ]


@pytest.mark.slow
def test_codes_are_those_of_the_exact_gradient_quantised_once() -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "interpreted_activations.py")],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for case, (apart, share, scales) in json.loads(done.stdout).items():
        assert apart <= 1, case  # a value on the edge of two codes falls to either side
        assert share < 2e-3, case
        assert scales < 1e-6, case


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "interpreted_turned.py",
        "interpreted_placed.py",
        "interpreted_residual.py",
        "interpreted_norm_gradient.py",
    ],
)
def test_transposes_parts_sums_and_norms_are_the_references(script: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / script)],
        env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 128])
def test_compiles_without_a_stack(side: int) -> None:
    tensors, warps = operands(1024, 2048, side, META), max(1, side * side // 1024)
    facts = facts_of(
        lambda: activation_tiles.precompile(
            *tensors, op="gelu", block=side, seed=3, num_warps=warps
        ),
        load_gpu("h200").limits,
    )
    assert facts is not None
    assert facts.stack_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 128])
def test_a_part_of_a_matrix_compiles_without_a_stack(side: int) -> None:
    made: dict[str, Any] = {"dtype": torch.int8, "device": META}
    scales = [torch.ones(1024 // side, 2048 // side, device=META) for _ in range(2)]
    codes = torch.zeros(1024, 2048, **made), torch.zeros(2048, 1024, **made)
    x = torch.zeros(512, 1024, dtype=torch.bfloat16, device=META)
    tensors = (x, codes[0], scales[0], codes[1], scales[1].t().contiguous())
    facts = facts_of(
        lambda: placed_tiles.precompile(*tensors, place=(512, 1024), block=side, seed=3),
        load_gpu("h200").limits,
    )
    assert facts is not None
    assert facts.stack_bytes == 0


def norm_operands(
    rows: int, cols: int, side: int, op: str, device: torch.device | str = "cpu"
) -> dict[str, torch.Tensor]:
    made: dict[str, Any] = {"device": device}
    numbers = {
        name: torch.zeros(rows, cols, dtype=torch.bfloat16, **made) for name in ("dy", "total")
    }
    return {
        "x": torch.zeros(rows, cols, dtype=torch.int8, **made),
        "x_scales": torch.ones(-(-rows // side), -(-cols // side), **made),
        "dy": numbers["dy"],
        "mean": torch.zeros(rows, **made),
        "variance": torch.ones(rows, **made),
        "gamma": torch.ones(cols, **made),
        "total": numbers["total"],
        "partials": torch.zeros(norm_gradient.partial_sums(rows, cols, op), **made),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("side", "cols"), [(32, 4096), (128, 4096), (128, 8192)])
@pytest.mark.parametrize("op", norm_gradient.OPS)
def test_a_norms_gradient_compiles_without_a_stack(op: str, side: int, cols: int) -> None:
    """With what is added to it; rows of 16384 are held, with a stack."""
    given = norm_operands(1024, cols, side, op, META)
    onto = torch.zeros(1024, cols, dtype=torch.bfloat16, device=META)
    facts = facts_of(
        lambda: norm_gradient.precompile(*given.values(), onto, op=op, epsilon=1e-5, block=side),
        load_gpu("h200").limits,
    )
    assert facts is not None
    assert facts.stack_bytes == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dy": torch.zeros(64, 32)}, r"dy has shape \(64, 32\): it must be 64 x 96"),
        ({"gamma": torch.zeros(64)}, r"gamma has shape \(64,\): it must be \(96,\)"),
        ({"partials": torch.zeros(64, 1, 96)}, r"it must be \(64, 2, 96\), contiguous"),
        ({"x": torch.zeros(64, 16400, dtype=torch.int8)}, "holds up to 16384 columns"),
    ],
    ids=["dy", "gamma", "partials", "x"],
)
def test_a_norms_gradient_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    given = norm_operands(64, 96, 32, "layernorm") | change
    with pytest.raises(ValueError, match=message):
        norm_gradient._call(*given.values(), op="layernorm", epsilon=1e-5, block=32)


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize("outputs", [0, 1, 2])
def test_a_sum_compiles_without_a_stack(outputs: int, side: int) -> None:
    """Of numbers and codes; alone, with its codes, with those of the transpose too."""
    x, total = (torch.zeros(1024, 2048, dtype=torch.bfloat16, device=META) for _ in range(2))
    codes = [torch.zeros(1024, 2048, dtype=torch.int8, device=META) for _ in range(2)]
    scales = [torch.ones(1024 // side, 2048 // side, device=META) for _ in range(2)]
    made = [codes[1], scales[1], codes[1].t().contiguous(), scales[1].t().contiguous()]
    tensors = (x, codes[0], total, scales[0], *made[: 2 * outputs])
    facts = facts_of(
        lambda: residual_tiles.precompile(*tensors, block=side, seed=3), load_gpu("h200").limits
    )
    assert facts is not None
    assert facts.stack_bytes == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"total": torch.zeros(64, 32)}, r"total has shape \(64, 32\) and x \(64, 96\)"),
        ({"y": torch.zeros(32, 96)}, r"y has shape"),
        ({"codes": torch.zeros(64, 96, dtype=torch.int8)}, "pass both, or none"),
        ({"codes_t": torch.zeros(96, 64), "scales_t": torch.zeros(3, 2)}, "without codes"),
    ],
    ids=["total", "y", "codes", "codes_t"],
)
def test_a_sum_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    given = {"x": torch.zeros(64, 96), "y": torch.zeros(64, 96), "total": torch.zeros(64, 96)}
    tensors = [(given | change).get(name) for name in residual_tiles.TENSORS]
    with pytest.raises(ValueError, match=message):
        residual_tiles._call(*tensors, block=32, seed=None)


@pytest.mark.parametrize(
    ("place", "shape"), [((16, 0), (32, 96)), ((0, 0), (80, 96)), ((64, 32), (64, 64))], ids=str
)
def test_a_part_lies_inside_and_consists_of_whole_blocks(
    place: tuple[int, int], shape: tuple[int, int]
) -> None:
    codes, scales = torch.zeros(100, 96, dtype=torch.int8), torch.ones(4, 3)
    with pytest.raises(ValueError, match=r"parts lie inside, and begin and end at whole blocks of"):
        placed_tiles._call(torch.zeros(shape), codes, scales, place=place, block=32, seed=None)
    last = torch.zeros(36, 96)  # ends where the matrix does
    assert placed_tiles._call(last, codes, scales, place=(64, 0), block=32, seed=None)[1] == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"op": "tanh"}, "op = 'tanh': choose one of gelu, silu, relu"),
        ({"block": 48}, "power of two"),
        ({"place": 0, "shape": (64, 32)}, "x have shape"),
        ({"place": 1, "shape": (2, 2)}, "x_scales"),
    ],
    ids=str,
)
def test_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    tensors = operands(64, 96, 32)
    if "place" in change:
        place = change["place"]
        tensors[place] = torch.zeros(change["shape"], dtype=tensors[place].dtype)
    given = {"op": change.get("op", "gelu"), "block": change.get("block", 32)}
    with pytest.raises(ValueError, match=message):
        activation_tiles._call(*tensors, **given, seed=None, num_warps=1)
