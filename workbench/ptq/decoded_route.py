"""Linear layers whose codes no tensor core takes, by ``triton_decoded_gemm``, packed."""

from typing import ClassVar

import torch

from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels.triton.decoded_operand import StoredMatrix
from workbench.ptq.operand import Operand
from workbench.ptq.routes import FamilyRoute, Held, problem_of

__all__ = ["DecodedRoute"]


class DecodedRoute(FamilyRoute):
    """Both operands in codes of up to 8 bits, decoded to 16 bits on the way to the tensor cores."""

    name: ClassVar[str] = "triton_decoded_gemm"

    def product(
        self,
        operand: Operand,
        x: torch.Tensor,
        weight: QuantizedTensor,
        bias: torch.Tensor | None,
        held: Held,
    ) -> torch.Tensor:
        """``x · W^T + bias`` in the dtype of ``x``; the bias is added to fp32 sums."""
        from tiles.kernels.decoded_workload import stored_matrix
        from tiles.kernels.gemm_workload import multiprocessors
        from tiles.kernels.triton import gemm_decoded
        from tiles.kernels.triton.decoded_staging import workspace_bytes

        b = held.get(self.name)
        if b is None:
            b = held[self.name] = stored_matrix(weight)
        assert isinstance(b, StoredMatrix)
        problem = problem_of(len(x), weight, operand.format, torch.float32)
        config = self.family.default(problem, self.limits).to_dict()
        made = torch.empty(problem.m, problem.n, dtype=torch.float32, device=x.device)
        size = workspace_bytes(config, *problem.shape)
        gemm_decoded.launch(
            stored_matrix(operand.codes(x)),
            b,
            made,
            config=config,
            workspace=torch.empty(size, dtype=torch.uint8, device=x.device) if size else None,
            num_sms=multiprocessors(str(x.device)),
        )
        return (made if bias is None else made + bias.float()).to(x.dtype)
