"""LayerNorm and RMSNorm on codes, forward and backward, on kernels."""

from typing import Any

import torch

from tiles.formats import TensorFormat
from tiles.kernels.cuda import dataflow_rows
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.triton import norm_gradient
from workbench.nn.backend import Normalized, NormGradients
from workbench.nn.codes import Codes
from workbench.nn.cuda_dataflow import CudaDataflow, named, scales_of, written
from workbench.nn.kernel_formats import square_side
from workbench.nn.prepared import TritonLaunch

__all__ = ["CudaNorms"]


class CudaNorms(CudaDataflow):
    """Rows normalised in and out of codes."""

    def normalize(
        self,
        op: str,
        x: Codes,
        gamma: torch.Tensor,
        beta: torch.Tensor | None,
        *,
        epsilon: float,
        out: TensorFormat,
        share: float = 0.0,
    ) -> Normalized:
        found = None if share else self._dataflow(op, out, x)
        if found is None:
            return super().normalize(op, x, gamma, beta, epsilon=epsilon, out=out, share=share)
        made = self._empty(*x.shape, out)
        mean, variance = (self._vector(x.shape[0]) for _ in range(2))
        tensors = named("x", x) | written(made)
        tensors |= {"mean": mean, "variance": variance, "gamma": gamma}
        if beta is not None:
            tensors["beta"] = beta
        self._launch(*found, tensors, epsilon=epsilon)
        return Normalized(y=Codes(main=made), mean=mean, variance=variance)

    def normalize_backward(
        self,
        op: str,
        x: Codes,
        dy: Codes,
        mean: torch.Tensor,
        variance: torch.Tensor,
        gamma: torch.Tensor,
        *,
        epsilon: float,
        out: TensorFormat,
        seed: int,
    ) -> NormGradients:
        found = self._dataflow(f"{op}-bwd", out, x, dy)
        if found is None:
            return super().normalize_backward(
                op, x, dy, mean, variance, gamma, epsilon=epsilon, out=out, seed=seed
            )
        problem, choice = found
        made, cols = self._empty(*x.shape, out), x.shape[1]
        sums = {"d_gamma": self._vector(cols)}
        if op == "layernorm":
            sums["d_beta"] = self._vector(cols)
        sums_shape = dataflow_rows.partial_sums(
            op=problem.op,
            shape=problem.shape,
            block=launch_block(out),
            config=choice.config.to_dict(),
        )
        work = {"partials": self._vector(*sums_shape)}
        tensors = named("x", x) | named("other", dy) | written(made) | sums | work
        tensors |= {"mean": mean, "variance": variance, "gamma": gamma}
        self._launch(problem, choice, tensors, seed=seed, epsilon=epsilon)
        return NormGradients(
            dx=Codes(main=made), d_gamma=sums["d_gamma"], d_beta=sums.get("d_beta")
        )

    def normalize_gradient(
        self,
        op: str,
        x: Codes,
        dy: torch.Tensor,
        mean: torch.Tensor,
        variance: torch.Tensor,
        gamma: torch.Tensor,
        *,
        epsilon: float,
        dtype: torch.dtype,
        onto: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        (rows, cols), side = x.shape, square_side(x.format)
        if not side or x.fallback is not None or cols > norm_gradient.MAX_COLS:
            twin = self._by_twin(
                f"{op}-bwd of numbers", f"codes of {x.format}, {cols} columns: in square blocks of "
                f"int8, up to {norm_gradient.MAX_COLS}"
            )  # fmt: skip
            return twin.normalize_gradient(
                op, x, dy, mean, variance, gamma, epsilon=epsilon, dtype=dtype, onto=onto
            )
        tensors = {"x": x.main.codes.view(torch.uint8), "x_scales": scales_of(x)}
        tensors |= {"dy": dy.contiguous(), "mean": mean, "variance": variance, "gamma": gamma}
        more = {} if onto is None else {"onto": onto.contiguous()}
        key = self._key("norm", (*tensors.values(), *more.values()), op, epsilon, dtype, not more)
        total = tensors["total"] = torch.empty(rows, cols, dtype=dtype, device=self.device)
        sums = tensors["partials"] = self._vector(*norm_gradient.partial_sums(rows, cols, op))
        tensors |= more
        with self._current():
            if known := self._prepared.get(key) if key is not None else None:
                known(tensors)
            else:
                rest: dict[str, Any] = {"op": op, "epsilon": epsilon, "block": side}
                norm_gradient.launch(*tensors.values(), **rest)
                if key is not None:
                    call = norm_gradient._call(*tensors.values(), **rest)
                    self._prepared[key] = TritonLaunch([call], tensors)
        d_gamma, *d_beta = sums.sum(dim=0)
        return total, d_gamma, d_beta[0] if d_beta else None
