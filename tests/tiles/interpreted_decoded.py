"""Run decoded products under Triton's interpreter and print what the check says, as JSON.

A separate program, because ``TRITON_INTERPRET`` is read when a kernel is decorated.  Input, on
stdin: a list of cases ``{shape, formats, out, config, seed, data, again}``, data normal, nasty,
codes, or far (scales of columns 2^30 bytes apart); output: a list of
records of the accuracy, which rows and columns of the output are nothing but NaN, and, where asked
``again``, whether a second launch repeats the first bit for bit.
"""

import json
import mmap
import sys
from dataclasses import asdict, replace

import torch

from tiles.formats import ElementFormat, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, quantize_tensor
from tiles.formats.torch_encode import pattern_dtype
from tiles.kernels.decoded_gemm import DecodedGemmConfig
from tiles.kernels.decoded_workload import DecodedGemmWorkload
from tiles.kernels.triton.decoded_operand import StoredMatrix
from tiles.problems import Gemm
from tiles.recipes import Recipe


def _nasty(rows: int, k: int, fmt: TensorFormat, seed: int) -> QuantizedTensor:
    """Zero rows and blocks, an outlier, tiny values, a NaN and an infinite one."""
    x = torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))
    x[0] = 0
    x[1, : k // 2] = 0
    x[2, 3] = 30000.0
    x[3] *= 1e-36 if fmt.scaling is not None and fmt.scaling.stored.name == "e8m0fnu" else 1e-3
    if fmt.scaling is None or fmt.scaling.rows is not None:
        x[4, k - 1] = torch.nan
        x[5, 0] = torch.inf
    return quantize_tensor(x, fmt, seed=seed)


def _codes(rows: int, k: int, element: ElementFormat) -> QuantizedTensor:
    """Every code in every place of a word, unscaled."""
    count = 1 << element.bits
    row, col = torch.arange(rows)[:, None], torch.arange(k)[None, :]
    codes = ((31 * row + col) % count).to(pattern_dtype(element))
    fmt = TensorFormat(element=element)
    like = quantize_tensor(torch.zeros(rows, k), fmt)
    return replace(like, codes=codes.view(like.codes.dtype))


def _identity(rows: int, k: int, fmt: TensorFormat) -> QuantizedTensor:
    x = torch.zeros(rows, k)
    x.fill_diagonal_(1.0)
    return quantize_tensor(x, fmt)


def operands(case: dict, problem: Gemm) -> tuple[QuantizedTensor, QuantizedTensor] | None:
    """Operands of a case; None: those that the workload draws."""
    recipe = problem.recipe
    if case["data"] == "nasty":
        return (
            _nasty(problem.m, problem.k, recipe.activation, 5),
            _nasty(problem.n, problem.k, recipe.weight, 6),
        )
    if case["data"] == "codes":
        return (
            _identity(problem.m, problem.k, recipe.activation),
            _codes(problem.n, problem.k, recipe.weight.element),
        )
    return None


def far_apart(side: StoredMatrix) -> StoredMatrix:
    """The same operand with a GiB from each column of scales to the next, and their rows together.

    Only the pages that are touched take memory.
    """
    assert side.scales is not None
    rows, columns = side.scales.shape
    held = mmap.mmap(-1, (columns << 30) + rows, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view = torch.frombuffer(held, dtype=torch.uint8).as_strided((rows, columns), (1, 1 << 30))
    return replace(side, scales=view.copy_(side.scales))


def main() -> None:
    results = []
    for case in json.load(sys.stdin):
        activation, weight = case["formats"]
        pair = Recipe.of("pair", activation=activation, weight=weight, source="a test")
        m, n, k = case["shape"]
        problem = Gemm(m=m, n=n, k=k, recipe=pair, out=case["out"])
        workload = DecodedGemmWorkload(problem, device="cpu", seed=case["seed"])
        if (drawn := operands(case, problem)) is not None:
            workload.__dict__["drawn"] = drawn
        config = DecodedGemmConfig.from_dict(case["config"])
        if case["data"] == "far":
            a, b, c = workload.operands
            workload.__dict__["operands"] = (far_apart(a), far_apart(b), c)
        record = asdict(workload.check(config))
        c = workload.operands[2]
        first = c.clone()
        if case["again"]:
            workload.launchers(config, 1)[0]()
            record["repeats"] = bool(torch.equal(first, c))
        record["nan_rows"] = first.isnan().all(dim=1).nonzero().flatten().tolist()
        record["nan_columns"] = first.isnan().all(dim=0).nonzero().flatten().tolist()
        results.append(record)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
