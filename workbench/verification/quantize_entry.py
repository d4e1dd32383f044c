"""A tuned quantisation of a package: what the package runs for it, and on what."""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Any

import torch

from tiles.formats import IntElement
from tiles.problems import Quantize

__all__ = ["CUDA", "TRITON", "QuantizeEntry"]

TRITON, CUDA = "triton_quantize", "cuda_quantize"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeEntry:
    """A tuned quantisation of the package."""

    kernel: str  #: "triton_quantize" or "cuda_quantize"
    problem: Quantize
    config: Mapping[str, int | bool]
    package: ModuleType
    device: str
    seed: int
    on_cupy: bool = False  #: by ``quantize_cuda.quantize``, on CuPy arrays

    @property
    def label(self) -> str:
        """Of its checks."""
        by = " by quantize_cuda" if self.on_cupy else ""
        return f"{self.kernel} {self.problem}{by}"

    @property
    def obstacle(self) -> str:
        """Why the tuned kernel cannot run here, or ''."""
        if self.kernel != CUDA or self.device == "cuda":
            return ""
        return "CuPy kernels have no interpreter: needs a GPU"

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
                CUDA if self.on_cupy else TRITON,
                (str(problem.target), problem.source),
                (problem.cols,),
                problem.rows,
                name,
                () if self.on_cupy else (CUDA,),
            )

    def call(self, x: torch.Tensor, codes: torch.Tensor, scales: torch.Tensor) -> None:
        """The public function."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an untuned shape warns
            if self.on_cupy:
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
        if self.on_cupy:
            launch = partial(
                template.launch,
                source=self.problem.source,
                target=layout["element"],
                block=layout["block"],
                config=choice.config,
            )
            _with_cupy(launch, x, codes, scales)
        else:
            self.package._quantize.run(choice, x, codes, scales)

    def stand_in(self) -> Any:
        """What runs in the place of a kernel in CUDA C++."""
        tuned = self.choice(self.problem)
        return self.package._lookup.stand_in(tuned, TRITON, self.problem.rows, "")

    def exact(self) -> contextlib.AbstractContextManager[None]:
        """Makes Triton's interpreter divide as exactly as the hardware; nothing on a GPU."""
        if self.device == "cuda":
            return contextlib.nullcontext()
        from tiles.kernels.quantize_interpreter import exact_interpreter

        run = self.stand_in() if self.kernel == CUDA else self.choice(self.problem)
        return exact_interpreter(self.package._lookup.template(run))


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
