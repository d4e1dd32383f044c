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
from tiles.kernels.triton import activation_tiles, placed_tiles

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
@pytest.mark.parametrize("script", ["interpreted_turned.py", "interpreted_placed.py"])
def test_codes_of_transposes_and_of_parts_are_the_codecs(script: str) -> None:
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
