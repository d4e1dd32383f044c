"""A tuned product of an emitted package: its operands, and its launches."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import torch

from tiles.problems import Gemm
from workbench.verification.operands import Matrix, Pattern, draw, draw_pair

__all__ = ["HOPPER", "TRITON", "GemmEntry"]

TRITON = "triton_gemm"
#: The products in CUDA C++.
HOPPER = ("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmEntry:
    """A tuned product of the package."""

    problem: Gemm
    config: Mapping[str, int | bool]
    package: ModuleType
    device: str
    seed: int
    kernel: str = TRITON

    @property
    def lookup(self) -> Any:
        """The package's lookup module."""
        return self.package._lookup

    @property
    def layout(self) -> Any:
        """The package's layout of the operands."""
        return self.lookup.layouts(TRITON)[self.problem.recipe.name, self.problem.out]

    @property
    def hopper_obstacle(self) -> str:
        """Why the CUDA C++ kernel cannot run here, or ''."""
        obstacle: str = self.package._hopper_gemm.obstacle(torch.device(self.device))
        return obstacle

    def choice(self, problem: Gemm) -> Any:
        """What the package would run for a shape."""
        name, _ = self.package._torch_device.device_facts(torch.device(self.device))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.lookup.choose(
                TRITON,
                (problem.recipe.name, problem.out),
                (problem.n, problem.k),
                problem.m,
                name,
                HOPPER,
            )

    def operands(self, problem: Gemm, pattern: Pattern) -> tuple[Matrix, Matrix]:
        """A and B of a shape."""
        recipe = problem.recipe
        a, b = draw_pair(problem.shape, recipe, pattern, self.seed, self.device)
        if pattern is Pattern.SUBNORMAL and recipe.weight.element.name == "bf16":
            # The product of two bf16 subnormals underflows fp32; one of them is enough.
            generator = torch.Generator(self.device).manual_seed(self.seed + 1)
            b = draw(problem.n, problem.k, recipe.weight, Pattern.RANDOM, generator, self.device)
            large = b.codes * 2.0**100
            b = replace(b, codes=large, values=large.double())
        return a, b

    def call(self, a: Matrix, b: Matrix, out: torch.Tensor) -> None:
        """The public function."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an untuned shape warns
            self.package.gemm(
                a.codes,
                b.codes,
                a.scales,
                b.scales,
                recipe=self.problem.recipe.name,
                out_dtype=out.dtype,
                out=out,
            )

    def launch(self, a: Matrix, b: Matrix, out: torch.Tensor) -> None:
        """The template with the tuned configuration, whatever the shape."""
        choice = self.choice(self.problem)
        self.launch_choice(replace(choice, config=self.config), a, b, out)

    def launch_stand_in(self, a: Matrix, b: Matrix, out: torch.Tensor) -> None:
        """The default of the Triton template that runs where the tuned configuration cannot."""
        self.launch_choice(self.stand_in(), a, b, out)

    def stand_in(self) -> Any:
        """What the package runs for the tuned shape where the tuned configuration cannot."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuned = self.choice(self.problem)
            return self.lookup.stand_in(tuned, TRITON, self.problem.m, "verification")

    def launch_choice(self, choice: Any, a: Matrix, b: Matrix, out: torch.Tensor) -> None:
        """The template with a configuration of the package, whatever the shape."""
        if choice.file.kernel in HOPPER:
            launch = self.package._hopper_gemm.launch
            launch(choice, a.codes, b.codes, a.scales, b.scales, out)
            return
        _, num_sms = self.package._torch_device.device_facts(out.device)
        extents = (out.shape[0], out.shape[1], a.codes.shape[1])
        config, workspace = self.package._gemm._shared(choice.config, extents, out.device, num_sms)
        self.lookup.template(choice).launch(
            a.codes,
            b.codes,
            out,
            a.scales,
            b.scales,
            a_block=self.layout["a_block"],
            b_block=self.layout["b_block"],
            config=config,
            decode=self.layout["decode"],
            num_sms=num_sms,
            workspace=workspace,
        )
