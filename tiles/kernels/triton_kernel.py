"""What families whose templates are Triton share: launching on no device compiles them."""

from typing import ClassVar

from tiles.kernels.base import Backend, Kernel, Limits, Workload
from tiles.kernels.compile_facts import CompileFacts
from tiles.kernels.config import TileConfig
from tiles.problems import Problem

__all__ = ["TritonKernel"]


class TritonKernel(Kernel):
    """A family in Triton."""

    backend: ClassVar[Backend] = Backend.TRITON

    def blank_workload(self, problem: Problem, limits: Limits) -> Workload:
        """The problem on tensors without memory, for which a launch compiles what a GPU would run.

        Args:
            limits: of that GPU, which need not be there.
        """
        from tiles.kernels.offline_triton import META

        return self.workload(problem, device=META, seed=0)

    def compile_offline(
        self, problem: Problem, config: TileConfig, limits: Limits
    ) -> CompileFacts | None:
        from tiles.kernels.offline_triton import facts_of

        workload = self.blank_workload(problem, limits)
        return facts_of(lambda: workload.compile(config), limits)
