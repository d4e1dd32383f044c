"""Checks of emitted quantisation: codes and scales bit for bit those of the reference."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.quantize_torch import quantize_torch
from tiles.problems import Quantize
from workbench.verification.defaults import default_choices, default_name
from workbench.verification.quantize_entry import CUDA, TRITON, QuantizeEntry
from workbench.verification.quantize_launcher import judge_quantize_launcher
from workbench.verification.recorder import Recorder, Report
from workbench.verification.torch_checks import (
    judge_captured,
    judge_compiled,
    judge_registration,
)

__all__ = ["check_quantize", "check_quantize_defaults", "check_quantize_operator"]

#: Codes before a launch: a kernel that forgets some leaves this behind.
CODE_POISON = 0x55
#: No block has a negative scale.
SCALE_POISON = -1.0


def _random(entry: QuantizeEntry, problem: Quantize) -> torch.Tensor:
    generator = torch.Generator(entry.device).manual_seed(entry.seed)
    x = torch.randn(problem.rows, problem.cols, generator=generator, device=entry.device)
    return x.to(CODE_DTYPES[problem.source])


def _nasty(entry: QuantizeEntry, problem: Quantize) -> torch.Tensor:
    """Zero blocks, outliers, subnormals, NaN and infinities, each in rows of their own."""
    x = _random(entry, problem)
    rows, cols = x.shape
    x[0] = 0
    x[rows // 5 :: 7, :: max(1, cols // 3)] *= 1e3
    # Triton's interpreter misreads bf16 subnormals; there the row stays among the smallest normals.
    normal = 256 if entry.device == "cpu" and x.dtype == torch.bfloat16 else 1
    x[rows // 3] *= torch.finfo(x.dtype).tiny * normal
    x[rows // 2, cols // 2] = torch.nan
    x[2 * rows // 3, cols - 1] = torch.inf
    x[rows - 1, 0] = -torch.inf
    return x


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.int8 else tensor.view(torch.uint8)


def _judge(
    check: Recorder,
    entry: QuantizeEntry,
    x: torch.Tensor,
    run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None],
) -> None:
    """Quantise into poisoned outputs and compare with the reference, bit for bit."""
    scaling = entry.problem.target.scaling
    assert scaling is not None
    expected_codes, expected_scales = quantize_torch(x, entry.problem.target)
    assert expected_scales is not None
    codes = torch.empty_like(expected_codes)
    _bits(codes).fill_(CODE_POISON)
    if entry.on_cupy:
        scales = torch.empty(expected_scales.shape, dtype=torch.float32, device=x.device)
    else:
        scales = empty_scales(x.shape[0], x.shape[1], scaling, x.device)
    scales.fill_(SCALE_POISON)
    with entry.exact():
        run(x, codes, scales)
    same = (scales == expected_scales) | (scales.isnan() & expected_scales.isnan())
    if not bool(same.all()):
        i, j = (int(v) for v in torch.nonzero(~same)[0])
        got, wanted = float(scales[i, j]), float(expected_scales[i, j])
        check.expect(False, f"scale ({i}, {j}) is {got:.9g}, reference {wanted:.9g}")
    if entry.exact_codes:
        wrong = torch.nonzero(_bits(codes) != _bits(expected_codes))
        if len(wrong):
            i, j = (int(v) for v in wrong[0])
            got, wanted = int(_bits(codes)[i, j]), int(_bits(expected_codes)[i, j])
            check.expect(False, f"code ({i}, {j}) is {got:#x}, reference {wanted:#x}")
    what = "codes and scales" if entry.exact_codes else "scales (codes cannot be, see not checked)"
    check.note(f"{x.shape[0]}x{x.shape[1]}: {what} bit for bit")


def check_quantize(entry: QuantizeEntry, report: Report, *, seen: str = "") -> None:
    """Every check of one tuned quantisation.

    Args:
        entry: the quantisation.
        report: takes the results.
        seen: an entry already checked whose answers here would come from the very same launches.
    """
    problem = entry.problem
    label = entry.label
    if entry.on_cupy and entry.obstacle:
        with Recorder(report, label) as check:
            check.skip(entry.obstacle)
        return
    with Recorder(report, f"{label}: configuration") as check:
        choice = entry.choice(problem)
        runs = (choice.file.kernel, choice.config)
        check.expect(runs == (entry.kernel, entry.config), f"the package runs {runs[0]} {runs[1]}")
        check.note("the package runs the configuration of the evidence")
    if seen:
        with Recorder(report, f"{label}: answers") as check:
            check.note(f"formats, configuration and small shapes are those of {seen}")
        return
    if entry.obstacle:
        _check_stand_in(entry, report)
        return
    full, odd = problem, _odd(entry)
    run = entry.call
    if entry.device == "cpu":
        full = replace(problem, rows=min(problem.rows, 40), cols=min(problem.cols, 128))
        # The public function would take the default for a shape this small.
        run = entry.launch
    with Recorder(report, f"{label}: random") as check:
        _judge(check, entry, _random(entry, full), run)
    with Recorder(report, f"{label}: nasty values") as check:
        _judge(check, entry, _nasty(entry, full), run)
    with Recorder(report, f"{label}: untuned odd extents") as check:
        check.expect(not entry.choice(odd).tuned, "the package calls this shape tuned")
        _judge(check, entry, _nasty(entry, odd), entry.call)
    if entry.device == "cuda" and not entry.on_cupy:
        x, target = _random(entry, problem), str(problem.target)

        def call() -> Any:
            return entry.package.quantize(x, target)

        with Recorder(report, f"{label}: torch.compile fullgraph") as check:
            judge_compiled(check, call)
        with Recorder(report, f"{label}: CUDA graph") as check:
            judge_captured(check, call)


def check_quantize_operator(entry: QuantizeEntry, report: Report) -> None:
    """The operator of ``quantize``, by torch's ``opcheck``, on extents that nothing was tuned for.

    Args:
        entry: of the formats.
        report: takes the result.
    """
    target = str(entry.problem.target)
    with Recorder(report, f"operator quantize {target} {entry.problem.source}: opcheck") as check:
        with entry.exact(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an untuned shape warns
            arguments = (_random(entry, _odd(entry)), target)
            judge_registration(check, entry.package, "quantize", arguments)


def _check_stand_in(entry: QuantizeEntry, report: Report) -> None:
    """What can be said of a kernel that cannot run here: what the package runs in its place."""
    choice, scaling = entry.choice(entry.problem), entry.problem.target.scaling
    assert scaling is not None
    with Recorder(report, f"{entry.label}: launcher") as check:
        template = entry.package._lookup.template(choice)
        columns = scaling.rows == 1 and scaling.cols is not None
        judge_quantize_launcher(check, template, entry.problem, choice, columns=columns)
    with Recorder(report, f"{entry.label}: answers") as check:
        check.skip(entry.obstacle)
    instead = entry.stand_in()
    with Recorder(report, f"{entry.label}: stand-in: configuration") as check:
        check.expect(instead.file.kernel == TRITON, f"{instead.file.kernel} stands in")
        check.expect(not instead.tuned, "the stand-in is a tuned entry")
        check.note(f"{TRITON}, default for M = {instead.m}")
    small = replace(entry.problem, rows=min(entry.problem.rows, 40))
    held = replace(entry, config=instead.config)
    for name, draw, problem in (
        ("random", _random, small),
        ("nasty values", _nasty, small),
        ("untuned odd extents", _nasty, _odd(entry)),
    ):
        with Recorder(report, f"{entry.label}: stand-in: {name}") as check:
            # The columns are the tuned ones, so the public function has to step back by itself.
            _judge(check, held, draw(entry, problem), entry.call)


def _odd(entry: QuantizeEntry) -> Quantize:
    """Extents that nothing was tuned for, and that no alignment helps."""
    rows, cols = (37, 77) if entry.device == "cpu" else (67, 333)
    return replace(entry.problem, rows=rows, cols=cols)


def check_quantize_defaults(entry: QuantizeEntry, report: Report) -> None:
    """Every default configuration for the entry's formats gives the right answer once."""
    if entry.on_cupy and entry.obstacle:
        return
    family = CUDA if entry.on_cupy else TRITON
    formats = (str(entry.problem.target), entry.problem.source)
    x = _nasty(entry, _odd(entry))
    for choice in default_choices(entry.package._lookup, family, formats):
        name = f"{family} {' '.join(formats)}: {default_name(choice)}"
        with Recorder(report, name) as check:
            configured = replace(entry, config=choice.config)
            _judge(check, configured, x, partial(entry.launch_choice, choice))
