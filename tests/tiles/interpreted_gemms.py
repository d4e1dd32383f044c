"""Run scaled GEMMs under Triton's interpreter and print what the accuracy check says, as JSON.

A separate program, because ``TRITON_INTERPRET`` is read when a kernel is decorated.  Input, on
stdin: a list of cases ``{problem, formats, config, decode, seed}``; ``formats``, where not null,
stand in for those of the problem's recipe; output: a list of accuracy records.
"""

import json
import sys
from dataclasses import asdict, replace

from tiles.kernels.gemm import GemmConfig
from tiles.kernels.gemm_workload import GemmWorkload
from tiles.problems import Gemm, parse_problem
from tiles.recipes import Recipe


def main() -> None:
    results = []
    for case in json.load(sys.stdin):
        problem = parse_problem(case["problem"])
        assert isinstance(problem, Gemm)
        if case["formats"]:
            activation, weight = case["formats"]
            pair = Recipe.of("pair", activation=activation, weight=weight, source="a test")
            problem = replace(problem, recipe=pair)
        workload = GemmWorkload(problem, device="cpu", seed=case["seed"], decode=case["decode"])
        results.append(asdict(workload.check(GemmConfig.from_dict(case["config"]))))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
