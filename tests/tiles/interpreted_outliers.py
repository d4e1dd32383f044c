"""Run products with outliers apart under Triton's interpreter, print what the check says, as JSON.

A separate program, because ``TRITON_INTERPRET`` is read when a kernel is decorated.  Input, on
stdin: a list of cases ``{shape, formats, outliers, out, config, data}``; ``outliers`` is a
threshold and a 16-bit format, or a share.  Data: normal; nasty; none or all (columns over the
threshold); crowded (more of them than memory); garbage (in memory that is not in use),
with a block of zeros or without; lying
(counts, offsets and columns beyond the tensors); again (the same launch after other counts).
Output: a list of records of the accuracy and which rows of the output are nothing but NaN.
"""

import functools
import json
import sys
from dataclasses import asdict, replace
from typing import Any

import torch

from tiles.formats import element
from tiles.kernels.accuracy import compare
from tiles.kernels.outlier_gemm import OutlierGemmConfig
from tiles.kernels.outlier_workload import OutlierGemmWorkload
from tiles.kernels.triton.outlier_operands import FallbackBlocks, KeptColumns
from tiles.problems import Gemm
from tiles.recipes import OutlierBlocks, OutlierColumns, Recipe


def problem_of(case: dict[str, Any]) -> Gemm:
    activation, weight = case["formats"]
    apart: OutlierColumns | OutlierBlocks
    if isinstance(case["outliers"], list):
        threshold, kept = case["outliers"]
        apart = OutlierColumns(threshold=threshold, kept=element(kept))
    else:
        apart = OutlierBlocks(share=case["outliers"])
    pair = Recipe.of("pair", activation=activation, weight=weight, outliers=apart, source="a test")
    m, n, k = case["shape"]
    return Gemm(m=m, n=n, k=k, recipe=pair, out=case["out"])


def drawn(problem: Gemm, data: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Operands of a case; None: those that the workload draws."""
    m, n, k = problem.shape
    generator = torch.Generator().manual_seed(7)
    x, w = (torch.randn(rows, k, generator=generator) for rows in (m, n))
    match data:
        case "nasty":
            x[0], x[1, : k // 2], x[3] = 0, 0, x[3] * 1e-38
            x[2, 3] = 30000.0
            x[4, k - 1] = torch.nan
            x[5, 0] = torch.inf
            w[0], w[1] = 0, w[1] * 1e-30
        case "garbage, a zero block":
            x[0:32, 0:64] = 0  # a block of zeros does not fall back
        case "none":
            x.clamp_(-5, 5)
        case "all" | "crowded":
            x += 20 * torch.sign(x)
        case _:
            return None
    return x, w


def spoil(workload: OutlierGemmWorkload) -> None:
    """Put what nobody may read into memory that is not in use."""
    outliers = workload.operands.outliers
    if isinstance(outliers, FallbackBlocks):
        used = int(outliers.offsets[-1])
        assert used < len(outliers.codes)
        outliers.codes[used:] = 77
        outliers.scales[used:] = torch.nan
        outliers.columns[used:] = 10**6
    else:
        # Zeros reach as far as an iteration may; whole iterations of NaN lie behind them.
        nan = functools.partial(torch.nn.functional.pad, pad=(0, 64), value=torch.nan)
        wider = KeptColumns(a=nan(outliers.a), b=nan(outliers.b), count=outliers.count)
        workload.__dict__["operands"] = replace(workload.operands, outliers=wider)


def lie(workload: OutlierGemmWorkload, config: OutlierGemmConfig) -> bool:
    """Counts beyond the memory do no more than all of it, and blocks off the grid add nothing."""
    made = workload.operands
    outliers, run = made.outliers, workload.launchers(config, 1)[0]
    if isinstance(outliers, KeptColumns):
        right = int(outliers.count)
        outliers.count.fill_(10**9)
        run()
        whole = made.c.clone()
        outliers.count.fill_(-5)
        run()
        nothing = made.c.clone()
        outliers.count.fill_(0)
        run()
        same = torch.equal(made.c, nothing)
        outliers.count.fill_(right)
        run()
        # Zeros lie behind the columns in use.
        return same and torch.equal(made.c, whole) and not torch.equal(nothing, whole)
    outliers.columns[0] = -1
    outliers.columns[1] = 10**6
    run()
    without = made.c.clone()
    outliers.columns[:2] = 0
    outliers.scales[:2] = 0
    run()
    same = torch.equal(made.c, without)
    outliers.offsets[0] = -(10**6)
    outliers.offsets[-1] = 10**6
    run()
    finite = bool(made.c.isfinite().all())
    # Twice these, the parts of so many blocks, are -200 and 200 in 32 bits.
    outliers.offsets[0] = 2**31 - 100
    run()
    outliers.offsets[-1] = 100 - 2**31
    run()
    return same and finite and bool(made.c.isfinite().all())


def main() -> None:
    results = []
    for case in json.load(sys.stdin):
        problem, config = problem_of(case), OutlierGemmConfig.from_dict(case["config"])
        workload = OutlierGemmWorkload(problem, device="cpu", seed=3)
        if (own := drawn(problem, case["data"])) is not None:
            workload.__dict__["drawn"] = own
        if "garbage" in case["data"]:
            spoil(workload)
        verdict = workload.check(config)
        c = workload.operands.c
        record = {**asdict(verdict), "nan_rows": c.isnan().all(dim=1).nonzero().flatten().tolist()}
        if case["data"] == "lying":
            record["ok"] &= lie(workload, config)
        if case["data"] == "again":
            # Other operands in the same memory: nothing of the first may be left in the product.
            other = OutlierGemmWorkload(problem, device="cpu", seed=4)
            for mine, its in zip(workload.operands.tensors, other.operands.tensors, strict=True):
                mine.copy_(its)
            c.fill_(float("nan"))
            workload.launchers(config, 1)[0]()
            record["ok"] &= compare(c, other.reference()).ok
        results.append(record)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
