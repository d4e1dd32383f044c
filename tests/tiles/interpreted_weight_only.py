"""Run weight-only products under Triton's interpreter and print what the check says, as JSON.

A separate program, because ``TRITON_INTERPRET`` is read when a kernel is decorated.  Input, on
stdin: a list of cases ``{shape, formats, out, config, seed, data, others}``; output: a list of
records of the accuracy, whether a second launch repeats the first bit for bit, and which output
columns are nothing but NaN.  ``others``: M and N of launches before the second, in its workspace.
"""

import json
import sys
from dataclasses import asdict, replace

import torch

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels.triton import gemm_weight_only
from tiles.kernels.triton.split_workspace import workspace_words
from tiles.kernels.weight_only import WeightOnlyConfig
from tiles.kernels.weight_only_workload import WeightOnlyWorkload
from tiles.problems import Gemm
from tiles.recipes import Recipe


def nasty(workload: WeightOnlyWorkload) -> None:
    """Zero groups, a huge outlier, subnormal activations, a NaN and an infinite weight."""
    _, n, k = workload.problem.shape
    x, _ = workload.drawn
    generator = torch.Generator().manual_seed(5)
    w = torch.randn(n, k, generator=generator)
    w[0] = 0
    w[1, : k // 2] = 0
    w[2, 3] = 30000.0
    w[3] *= 1e-6
    w[4, k - 1] = torch.nan
    w[5, 0] = torch.inf
    x[0, :7] = 1e-40 if x.dtype == torch.bfloat16 else 1e-7
    x[1] = 0
    fmt: TensorFormat = workload.problem.recipe.weight
    workload.__dict__["drawn"] = (x, quantize_tensor(w, fmt, seed=1))


def between(
    workload: WeightOnlyWorkload, config: WeightOnlyConfig, others: list[tuple[int, int]]
) -> None:
    """Launch again, after launches with more and with fewer tiles in the same workspace."""
    fields, (m, n, _) = config.to_dict(), workload.problem.shape
    shapes = [(m, n), *others]
    words = max(workspace_words(fields, *shape) for shape in shapes)
    workspace = torch.zeros(words, dtype=torch.int32)
    for rows, columns in (*others, (m, n)):
        problem = replace(workload.problem, m=rows, n=columns)
        made = WeightOnlyWorkload(problem, device="cpu", seed=1).operands
        if (rows, columns) == (m, n):
            made = workload.operands
        made.c.fill_(float("nan"))
        gemm_weight_only.launch(made.x, made.weight, made.c, config=fields, workspace=workspace)
        assert not made.c.isnan().any(), f"{rows} x {columns}"


def main() -> None:
    results = []
    for case in json.load(sys.stdin):
        activation, weight = case["formats"]
        pair = Recipe.of("pair", activation=activation, weight=weight, source="a test")
        m, n, k = case["shape"]
        problem = Gemm(m=m, n=n, k=k, recipe=pair, out=case["out"])
        workload = WeightOnlyWorkload(problem, device="cpu", seed=case["seed"])
        if case["data"] == "nasty":
            nasty(workload)
        config = WeightOnlyConfig.from_dict(case["config"])
        record = asdict(workload.check(config))
        first = workload.operands.c.clone()
        run = workload.launchers(config, 1)[0]
        for _ in range(min(2, config.split_k)):  # the second one finds the counters of the first
            run()
        if case["others"]:
            between(workload, config, case["others"])
        second = workload.operands.c
        record["repeats"] = bool(torch.equal(first.nan_to_num(7.0), second.nan_to_num(7.0)))
        record["nan_columns"] = first.isnan().all(dim=0).nonzero().flatten().tolist()
        results.append(record)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
