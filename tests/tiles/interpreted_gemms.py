"""Run scaled GEMMs under Triton's interpreter and print what the accuracy check says, as JSON.

A separate program, because ``TRITON_INTERPRET`` is read when a kernel is decorated.  Input, on
stdin: a list of cases ``{problem, formats, config, decode, seed, guarded}``; ``formats``, where not
null, stand in for those of the problem's recipe; ``guarded`` scales end where no memory follows, so
that reading beyond them ends the program; output: a list of accuracy records.
"""

import ctypes
import json
import mmap
import sys
from dataclasses import asdict, replace

import numpy as np
import torch

from tiles.kernels.gemm import GemmConfig
from tiles.kernels.gemm_workload import GemmWorkload
from tiles.problems import Gemm, parse_problem
from tiles.recipes import Recipe

SCALES = ("a_scale", "b_scale")


def guarded(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A copy whose last element is followed by a page that may not be read."""
    if tensor is None:
        return None
    pages = -(-tensor.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(begin + pages), mmap.PAGESIZE, 0)
    flat = np.frombuffer(memory, np.float32, tensor.numel(), pages - tensor.nbytes)
    return torch.from_numpy(flat).view(tensor.shape).copy_(tensor)


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
        if case["guarded"]:
            scales = {name: guarded(getattr(workload.operands, name)) for name in SCALES}
            workload.operands = replace(workload.operands, **scales)
        results.append(asdict(workload.check(GemmConfig.from_dict(case["config"]))))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
