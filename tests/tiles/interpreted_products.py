"""Run batched and grouped GEMMs under Triton's interpreter, print what the check says, as JSON.

A separate program, because ``TRITON_INTERPRET`` is read when a kernel is decorated.  Input, on
stdin: a list of cases ``{problem, config, decode, seed}``, of grouped ones also ``counts`` instead
of drawn ones, ``bad`` (what lies: counts or ids) or ``again`` (seed of a second routing for the
same launch); output: a list of accuracy records.
"""

import json
import sys
from dataclasses import asdict, replace

import torch

from tiles.kernels.base import Accuracy
from tiles.kernels.batched_gemm import BatchedGemmConfig
from tiles.kernels.batched_workload import BatchedWorkload
from tiles.kernels.group_routing import Routing, draw_routing
from tiles.kernels.grouped_gemm import GroupedGemmConfig
from tiles.kernels.grouped_workload import GroupedWorkload
from tiles.kernels.triton import gemm_batched
from tiles.problems import BatchedGemm, GroupedGemm, RowOrder, parse_problem


def grouped(problem: GroupedGemm, case: dict) -> Accuracy:
    routing = None
    if "counts" in case:
        counts = torch.tensor(case["counts"])
        size = problem.layout.size
        first = torch.cumsum(counts, 0) - counts
        if problem.layout.order is RowOrder.MASKED:
            first = torch.arange(problem.experts) * size
        elif problem.layout.order is RowOrder.PADDED:
            padded = -(-counts // size) * size
            first = torch.cumsum(padded, 0) - padded
        routing = Routing(counts=counts, first=first, ids=None, top_k=1)
    workload = GroupedWorkload(
        problem, device="cpu", seed=case["seed"], decode=case["decode"], routing=routing
    )
    config = GroupedGemmConfig.from_dict(case["config"])
    if case.get("bad") == "counts":
        return beyond_memory(workload, config)
    if case.get("bad") == "ids":
        return ids_beyond_memory(workload, config)
    if "again" not in case:
        return workload.check(config)
    # One launch object, two routings: nothing of the first may be left in the second.
    run = workload.launchers(config, 1)[0]
    run()
    other = draw_routing(problem, case["again"])
    assert not torch.equal(other.counts, workload.routing.counts)
    workload.route(workload.operands, other)
    workload.operands.c.fill_(float("nan"))
    run()
    return workload.verdict(workload.operands.c, other)


def beyond_memory(workload: GroupedWorkload, config: GroupedGemmConfig) -> Accuracy:
    """Counts and offsets that lie: what is right of them is computed, nothing else written."""
    made = workload.operands
    if made.offsets is not None:
        made.offsets[-1] += 1000  # beyond the last row of A and C
    if made.counts is not None:
        made.counts[0] = -3
        made.counts[-1] = 10**6
    before = torch.full((4096,), 7.0)
    held = torch.full((made.c.numel() + 2 * len(before),), 7.0, dtype=made.c.dtype)
    inner = held[len(before) : -len(before)].view(made.c.shape)
    inner.fill_(float("nan"))
    object.__setattr__(made, "c", inner)
    workload._launcher(made, config)()
    untouched = bool((held[: len(before)] == 7).all() and (held[-len(before) :] == 7).all())
    if not untouched:
        return Accuracy(ok=False, max_error_over_bound=0, relative_rms=0, reason="wrote outside")
    if made.counts is None:
        return workload.verdict(made.c)
    first = made.c[0] if made.c.ndim == 3 else made.c[: int(made.offsets[1])]
    ok = bool(first.isnan().all())
    return Accuracy(ok=ok, max_error_over_bound=0, relative_rms=0, reason="" if ok else "negative")


def ids_beyond_memory(workload: GroupedWorkload, config: GroupedGemmConfig) -> Accuracy:
    """Ids that lie: their rows stay as they are, all others are what they were."""
    made = workload.operands
    found = workload.check(config)
    assert found.ok, found.reason
    assert made.ids is not None
    kept = made.c.clone()
    lies = {0: -1, 3: -(2**31), 40: len(made.c), len(made.ids) - 1: 2**31 - 1}
    for entry, wrong in lies.items():
        kept[int(made.ids[entry])] = float("nan")
        made.ids[entry] = wrong
    made.c.fill_(float("nan"))
    workload._launcher(made, config)()
    ok = bool(torch.equal(made.c.view(torch.int32), kept.view(torch.int32)))
    return replace(found, ok=ok, reason="" if ok else "other rows changed")


def batched(problem: BatchedGemm, case: dict) -> Accuracy:
    workload = BatchedWorkload(problem, device="cpu", seed=case["seed"], decode=case["decode"])
    config = BatchedGemmConfig.from_dict(case["config"])
    if not case.get("heads"):
        return workload.check(config)
    # The same matrices as heads that lie between the rows of each other.
    made = workload.operands

    def between(tensor: torch.Tensor) -> torch.Tensor:
        four = tensor.view(-1, case["heads"], *tensor.shape[1:])
        return four.transpose(1, 2).contiguous().transpose(1, 2)

    c = between(torch.full_like(made.c, float("nan")))
    arguments = workload._arguments(made, config)
    scales = {
        name: None if arguments[name] is None else between(arguments[name])
        for name in ("a_scale", "b_scale")
    }
    gemm_batched.launch(**arguments | scales | {"a": between(made.a), "b": between(made.b), "c": c})
    return workload.verdict(c.reshape(made.c.shape))


def main() -> None:
    results = []
    for case in json.load(sys.stdin):
        problem = parse_problem(case["problem"])
        if isinstance(problem, GroupedGemm):
            found = grouped(problem, case)
        else:
            assert isinstance(problem, BatchedGemm)
            found = batched(problem, case)
        results.append(asdict(found))
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
