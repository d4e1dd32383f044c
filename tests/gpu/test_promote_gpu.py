"""Promotion on a GPU: a genuinely better and a genuinely worse entry, of one family and of two."""

from pathlib import Path

import numpy as np
import pytest

import tuning
from sim import Gpu, price
from tiles.kernels import kernel
from tiles.problems import parse_problem
from tuning.promotion.contest import Contender, Contest, Status
from tuning.promotion.run import plan_of, promote

# Who is the better one is decided by times.
pytestmark = [pytest.mark.gpu, pytest.mark.alone]

PROBLEMS = (
    "gemm:4096x4096x4096:bf16:bf16",
    "gemm:4096x2048x4096:e4m3-row:bf16",
    "gemm:16x4096x4096:int8-row:bf16",
    "quantize:4096x4096:e4m3fn.b1x128:bf16",
)


def ranked(text: str, family: str, gpu: Gpu, share: float) -> Contender:
    """Of the family's legal configurations the one at a share of the model's ranking."""
    problem, one = parse_problem(text), kernel(family)
    table = one.legal_space(problem, gpu.limits).accepted
    order = np.argsort(price(problem, one, table, gpu).time_us, kind="stable")
    return Contender(kernel=family, config=table.config(int(order[int(share * (len(order) - 1))])))


def family_of(text: str) -> str:
    return "triton_gemm" if text.startswith("gemm") else "triton_quantize"


@pytest.mark.parametrize("text", PROBLEMS)
def test_the_better_of_two_stays_whichever_is_new(gpu: Gpu, text: str, tmp_path: Path) -> None:
    problem = parse_problem(text)
    good, bad = (ranked(text, family_of(text), gpu, share) for share in (0.0, 0.95))
    for place, (old, new, status) in enumerate(
        ((bad, good, Status.PROMOTED), (good, bad, Status.REFUSED))
    ):
        contest = Contest(problem=problem, old=old, new=(new,))
        folder = tmp_path / str(place)
        plan = plan_of([contest], gpu, folder, simulate=False, cache="cold", seed=0)
        (verdict,) = promote(plan, [contest], 0.03).verdicts
        assert verdict.status is status, verdict.reason
        for side in (verdict.old, verdict.new):
            assert side is not None
            assert len(side.samples_us) >= 4
        (study,) = tuning.load_run(folder).studies
        assert study.best is not None
        assert study.best.config == good.config
        assert study.best.measurement.timing.endswith("-interleaved")


def test_of_two_near_ties_at_most_one_replaces_the_other(gpu: Gpu, tmp_path: Path) -> None:
    """Neighbours that the model cannot tell apart: noise alone does not bring in who is new."""
    text = PROBLEMS[0]
    good = ranked(text, "triton_gemm", gpu, 0.0)
    values = good.config.to_dict()
    same = Contender(
        kernel="triton_gemm",
        config=type(good.config).from_dict(
            {**values, "group_m": 8 if values["group_m"] < 8 else 4}
        ),
    )
    told = []
    for place, (old, new) in enumerate(((good, same), (same, good))):
        contest = Contest(problem=parse_problem(text), old=old, new=(new,))
        folder = tmp_path / str(place)
        plan = plan_of([contest], gpu, folder, simulate=False, cache="cold", seed=0)
        (verdict,) = promote(plan, [contest], 0.03).verdicts
        assert verdict.gain is not None, verdict.reason
        if verdict.gain < 0.03:
            assert verdict.status is Status.REFUSED, verdict.reason
        told.append(verdict)
    promoted = [one for one in told if one.status is Status.PROMOTED]
    assert len(promoted) <= 1, [one.reason for one in told]


def test_families_take_turns_in_one_process(gpu: Gpu, tmp_path: Path) -> None:
    pytest.importorskip("cupy")
    text = PROBLEMS[0]
    if kernel("hopper_gemm").refusal(parse_problem(text), gpu.limits) is not None:
        pytest.skip("hopper_gemm needs capability 9.0")
    contest = Contest(
        problem=parse_problem(text),
        old=ranked(text, "triton_gemm", gpu, 0.95),
        new=(ranked(text, "hopper_gemm", gpu, 0.0),),
    )
    plan = plan_of([contest], gpu, tmp_path / "run", simulate=False, cache="cold", seed=0)
    done = promote(plan, [contest], 0.03)
    (verdict,) = done.verdicts
    assert verdict.status is Status.PROMOTED, verdict.reason
    best = {study.kernel: study.best for study in done.run.studies}
    assert best["triton_gemm"] is None
    assert best["hopper_gemm"] is not None
