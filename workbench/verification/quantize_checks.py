"""Checks of emitted quantisation: codes and scales bit for bit those of the reference."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch

from tiles.formats import IntElement
from tiles.formats.torch_codec import empty_scales
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.quantize_torch import quantize_torch
from tiles.problems import Quantize
from workbench.verification.defaults import default_choices, default_name
from workbench.verification.recorder import Recorder, Report

__all__ = ["QuantizeEntry", "check_quantize", "check_quantize_defaults"]

#: Codes before a launch: a kernel that forgets some leaves this behind.
CODE_POISON = 0x55
#: No block has a negative scale.
SCALE_POISON = -1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeEntry:
    """A tuned quantisation of the package."""

    kernel: str  #: "triton_quantize" or "cuda_quantize"
    problem: Quantize
    config: Mapping[str, int | bool]
    package: ModuleType
    device: str
    seed: int

    @property
    def exact_codes(self) -> bool:
        """False where Triton's interpreter casts to 8-bit floats, unlike any hardware."""
        integer = isinstance(self.problem.target.element, IntElement)
        return self.device == "cuda" or integer or bool(self.config.get("software_cast"))

    def choice(self, problem: Quantize) -> Any:
        """What the package would run for a shape."""
        name = "cpu"
        if self.device == "cuda":
            name = torch.cuda.get_device_name(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.package._lookup.choose(
                self.kernel,
                (str(problem.target), problem.source),
                (problem.cols,),
                problem.rows,
                name,
            )

    def call(self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
        """The public function."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an untuned shape warns
            if self.kernel == "cuda_quantize":
                quantize, target = self.package.quantize_cuda.quantize, str(self.problem.target)
                _with_cupy(lambda s, c, g: quantize(s, target, out=(c, g)), x, codes, scales)
            else:
                self.package.quantize(x, str(self.problem.target), out=(codes, scales))

    def launch(self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
        """The template with the tuned configuration, whatever the shape."""
        self.launch_choice(replace(self.choice(self.problem), config=self.config), x, codes, scales)

    def launch_choice(
        self, choice: Any, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor
    ) -> None:
        """The template with a configuration of the package, whatever the shape."""
        template, layout = self.package._lookup.template(choice), choice.file.layout
        if self.kernel == "cuda_quantize":
            launch = partial(
                template.launch,
                source=self.problem.source,
                target=layout["element"],
                block=layout["block"],
                config=choice.config,
            )
            _with_cupy(launch, x, codes, scales)
        else:
            template.launch(x, codes, scales, block=layout["block"], config=choice.config)

    def exact(self) -> contextlib.AbstractContextManager[None]:
        """Makes Triton's interpreter divide as exactly as the hardware; nothing on a GPU."""
        if self.device == "cuda":
            return contextlib.nullcontext()
        from tiles.kernels.quantize_interpreter import exact_interpreter

        return exact_interpreter(self.package._lookup.template(self.choice(self.problem)))


def _with_cupy(
    run: Callable[[Any, Any, Any], object],
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
) -> None:
    """Run a function of CuPy arrays on the tensors' memory, and wait for it."""
    import cupy

    source = cupy.from_dlpack(x.view(torch.int16) if x.dtype == torch.bfloat16 else x)
    if x.dtype == torch.bfloat16:
        source = source.view(cupy.uint16)
    bits = codes if codes.dtype == torch.int8 else codes.view(torch.uint8)
    targets = (cupy.from_dlpack(bits), cupy.from_dlpack(scales))
    torch.cuda.synchronize()
    run(source, *targets)
    cupy.cuda.runtime.deviceSynchronize()


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
    if entry.kernel == "cuda_quantize":
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
    label = f"{entry.kernel} {problem}"
    if entry.kernel == "cuda_quantize" and entry.device == "cpu":
        with Recorder(report, label) as check:
            check.skip("CuPy kernels have no interpreter: needs a GPU")
        return
    with Recorder(report, f"{label}: configuration") as check:
        choice = entry.choice(problem)
        check.expect(choice.config == entry.config, f"the package runs {choice.config}")
        check.note("the package runs the configuration of the evidence")
    if seen:
        with Recorder(report, f"{label}: answers") as check:
            check.note(f"formats, configuration and small shapes are those of {seen}")
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


def _odd(entry: QuantizeEntry) -> Quantize:
    """Extents that nothing was tuned for, and that no alignment helps."""
    rows, cols = (37, 77) if entry.device == "cpu" else (67, 333)
    return replace(entry.problem, rows=rows, cols=cols)


def check_quantize_defaults(entry: QuantizeEntry, report: Report) -> None:
    """Every default configuration for the entry's formats gives the right answer once."""
    if entry.kernel == "cuda_quantize" and entry.device == "cpu":
        return
    formats = (str(entry.problem.target), entry.problem.source)
    x = _nasty(entry, _odd(entry))
    for choice in default_choices(entry.package._lookup, entry.kernel, formats):
        name = f"{entry.kernel} {' '.join(formats)}: {default_name(choice)}"
        with Recorder(report, name) as check:
            configured = replace(entry, config=choice.config)
            _judge(check, configured, x, partial(entry.launch_choice, choice))
