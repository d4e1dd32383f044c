"""The layers' operators on the kernels of ``tiles.kernels``, launched on torch's current stream.

What no kernel serves is computed by the reference twin, on the GPU and slowly; ``unserved`` lists
it with the reasons.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows
from tiles.kernels.cupy_views import cupy_view
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.triton import activation_tiles, norm_gradient, residual_tiles
from tiles.problems import Dataflow
from workbench.nn.backend import Attended, Normalized, NormGradients
from workbench.nn.choices import Choice
from workbench.nn.codes import Codes
from workbench.nn.cuda_assembly import stored_tensors
from workbench.nn.cuda_products import CudaProducts
from workbench.nn.cuda_quantizer import PLAIN, ROW_STEP, square_side
from workbench.nn.prepared import DataflowLaunch, TritonLaunch
from workbench.nn.seeds import derived

__all__ = ["CudaBackend"]

#: Widths of heads that FlashAttention takes: multiples of a step, up to the largest.
FLASH_STEP = 8
FLASH_WIDTH = 256
#: Sides of the blocks whose activations have a gradient from numbers in one pass.
MIN_SIDE, MAX_SIDE = 32, 128
_NO_GATE = "no kernel multiplies the two: fp32 matrices of the hidden size in torch"
_GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": functional.relu,
}


class CudaBackend(CudaProducts):
    """Kernels for everything that a family serves; see the module's docstring."""

    def _dataflow(
        self, op: str, out: TensorFormat, first: Codes, second: Codes | None = None
    ) -> tuple[Dataflow, Choice] | None:
        """The problem and its kernel, if all matrices are of one format and no block fell back.

        Found once for every shape and format: who asks again gets the same objects.
        """
        key = ("dataflow", op, out, *((x.shape, x.format, x.fallback is None) for x in
               (first, second) if x is not None))  # fmt: skip
        if key not in self._prepared:
            self._prepared[key] = self._found(op, out, first, second)
        found: tuple[Dataflow, Choice] | None = self._prepared[key]
        return found

    def _found(
        self, op: str, out: TensorFormat, first: Codes, second: Codes | None
    ) -> tuple[Dataflow, Choice] | None:
        read = [x for x in (first, second) if x is not None]
        same = all((x.format.element, x.format.scaling) == (out.element, out.scaling) for x in read)
        if not same or any(x.fallback is not None for x in read):
            self.unserved[f"{op} to {out}"] = "operands of another format, or with fallback"
            return None
        rows, cols = first.shape
        problem = Dataflow(rows=rows, cols=cols, op=op, target=out)
        choice = self._choice(problem)
        return None if choice is None else (problem, choice)

    def _launch(
        self, problem: Dataflow, choice: Choice, tensors: Mapping[str, torch.Tensor], **rest: Any
    ) -> None:
        keys = {name: rest.pop(name) for name in ("seed", "mask_seed") if name in rest}
        # `problem` is one object for each of its kind, kept by `_dataflow`.
        key = self._key(
            "launch", tuple(tensors.values()), id(problem), tuple(tensors), *rest.values()
        )
        if known := self._prepared.get(key) if key is not None else None:
            with self._current():
                known(tensors, self._stream(), **keys)
            return
        blocks = choice.family == "cuda_dataflow_blocks"
        launch = dataflow_blocks.launch if blocks else dataflow_rows.launch
        views = {name: cupy_view(tensor.detach()) for name, tensor in tensors.items()}
        options = rest | {
            "op": problem.op,
            "element": problem.target.element.name,
            "block": launch_block(problem.target),
            "stochastic": problem.target.rounding is Rounding.STOCHASTIC,
            "config": choice.config.to_dict(),
        }
        with self._current():
            launch(**views, **options, **keys, stream=self._stream())
            if key is not None:
                self._prepared[key] = DataflowLaunch(views, options, rows=not blocks)

    def _vector(self, *shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=torch.float32, device=self.device)

    def gate(self, op: str, gate: Codes, up: Codes, *, out: TensorFormat, share: float) -> Codes:
        self.unserved["gate"] = _NO_GATE
        values = _GATES[op](self.dequantize(gate, torch.float32))
        values.mul_(self.dequantize(up, torch.float32))
        return self.quantize(values, out, share=share)

    def gate_backward(
        self, op: str, gate: Codes, up: Codes, dy: Codes, *, out: TensorFormat, seed: int
    ) -> tuple[Codes, Codes]:
        self.unserved["gate-bwd"] = _NO_GATE
        grad = self.dequantize(dy, torch.float32)
        with torch.enable_grad():
            x = self.dequantize(gate, torch.float32).requires_grad_()
            opened = _GATES[op](x)
        # Each is quantised before the next is made: a matrix here is four times that of codes.
        beside = self.quantize(grad * opened.detach(), out, seed=derived(seed, 0))
        grad.mul_(self.dequantize(up, torch.float32))
        (through,) = torch.autograd.grad(opened, x, grad)
        return self.quantize(through, out, seed=seed), beside

    def elementwise(
        self,
        op: str,
        x: Codes,
        *,
        out: TensorFormat,
        dy: Codes | None = None,
        seed: int = 0,
        share: float = 0.0,
    ) -> Codes:
        found = None if share else self._dataflow(op, out, x, dy)
        if found is None:
            return super().elementwise(op, x, out=out, dy=dy, seed=seed, share=share)
        made = self._empty(*x.shape, out)
        tensors = _named("x", x) | _written(made)
        if dy is not None:
            tensors |= _named("dy", dy)
        self._launch(*found, tensors, seed=seed)
        return Codes(main=made)

    def activate_backward(
        self, op: str, x: Codes, dy: torch.Tensor, *, out: TensorFormat, seed: int
    ) -> Codes:
        scaling, scales = x.format.scaling, x.main.scales
        same = (x.format.element, scaling) == (out.element, out.scaling) and x.fallback is None
        square = scaling is not None and scaling.plain and scaling.rows == scaling.cols
        side = scaling.rows if scaling is not None and scaling.rows else 0
        if not same or not square or not MIN_SIDE <= side <= MAX_SIDE or side & (side - 1):
            twin = self._by_twin(f"{op}-bwd of numbers", f"codes of {x.format} to {out}")
            return twin.activate_backward(op, x, dy, out=out, seed=seed)
        assert scales is not None
        made, dy = self._bare(*x.shape, out), dy.contiguous()
        assert made.scales is not None
        tensors = {"x": x.main.codes, "x_scales": scales, "dy": dy}
        key = self._key("activate", tuple(tensors.values()), op, out)
        tensors["x"] = x.main.codes.view(torch.uint8)
        tensors |= {"codes": made.codes.view(torch.uint8), "scales": made.scales}
        rounded = seed if out.rounding is Rounding.STOCHASTIC else None
        with self._current():
            if known := self._prepared.get(key) if key is not None else None:
                known(tensors, rounded)
                return Codes(main=made)
            # 32 elements a thread.
            rest: dict[str, Any] = {"op": op, "block": side, "seed": rounded}
            rest["num_warps"] = max(1, side * side // 1024)
            activation_tiles.launch(*tensors.values(), **rest)
            if key is not None:
                call = activation_tiles._call(*tensors.values(), **rest)
                self._prepared[key] = TritonLaunch([call], tensors)
        return Codes(main=made)

    def add(
        self,
        x: torch.Tensor,
        y: torch.Tensor | Codes,
        out: TensorFormat | None = None,
        *,
        both: bool = False,
        seed: int = 0,
    ) -> tuple[torch.Tensor, Codes | None]:
        formats = [y.format] if isinstance(y, Codes) else []
        formats += [] if out is None else [out]
        sides = {square_side(fmt) for fmt in formats}
        plain = not isinstance(y, Codes) or y.fallback is None
        if len(sides) != 1 or 0 in sides or not plain or x.dtype not in PLAIN:
            return super().add(x, y, out, both=both, seed=seed)
        rows, cols = x.shape
        tensors = {"x": x.contiguous()}
        if isinstance(y, Codes):
            tensors |= {"y": y.main.codes.view(torch.uint8), "y_scales": _scales_of(y)}
        else:
            tensors["y"] = y.contiguous()
        key = self._key("add", tuple(tensors.values()), out, both)
        total = tensors["total"] = torch.empty_like(tensors["x"])
        made = None if out is None else self._bare(rows, cols, out)
        # Rows of the transposed codes begin at multiples of 16 bytes: the products' loads need it.
        turns = both and made is not None and rows % ROW_STEP == 0
        turned = self._bare(cols, rows, made.format) if turns and made is not None else None
        tensors |= stored_tensors(made) | stored_tensors(turned, "_t")
        rounded = None if out is None or out.rounding is not Rounding.STOCHASTIC else seed
        codes = None if made is None else Codes(main=made, turned=turned)
        with self._current():
            if known := self._prepared.get(key) if key is not None else None:
                known(tensors, rounded)
                return total, codes
            given = [tensors.get(name) for name in residual_tiles.TENSORS]
            rest: dict[str, Any] = {"block": sides.pop(), "seed": rounded}
            residual_tiles.launch(*given, **rest)
            if key is not None:
                call = residual_tiles._call(*given, **rest)  # type: ignore[arg-type]
                self._prepared[key] = TritonLaunch([call], tensors)
        return total, codes

    def dropout(
        self,
        x: Codes,
        *,
        out: TensorFormat,
        probability: float,
        mask_seed: int,
        seed: int = 0,
        share: float = 0.0,
    ) -> Codes:
        found = None if share else self._dataflow("dropout", out, x)
        if found is None:
            return super().dropout(
                x, out=out, probability=probability, mask_seed=mask_seed, seed=seed, share=share
            )
        made = self._empty(*x.shape, out)
        tensors = _named("x", x) | _written(made)
        self._launch(*found, tensors, seed=seed, mask_seed=mask_seed, probability=probability)
        return Codes(main=made)

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
        tensors = _named("x", x) | _written(made)
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
        covered = dataflow_rows.geometry(
            op=problem.op,
            shape=problem.shape,
            block=launch_block(out),
            config=choice.config.to_dict(),
        )
        work = {"partials": self._vector(covered.clusters, 2, cols)}
        tensors = _named("x", x) | _named("other", dy) | _written(made) | sums | work
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
        tensors = {"x": x.main.codes.view(torch.uint8), "x_scales": _scales_of(x)}
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

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
    ) -> Attended:
        width = q.shape[-1]
        if width > FLASH_WIDTH:
            twin = self._by_twin("attention", f"heads of {width}: up to {FLASH_WIDTH}")
            return twin.attend(q, k, v, causal=causal)
        operands = (_filled(x) for x in (q, k, v))
        out, log_sum = flash_forward(*operands, causal=causal, scale=width**-0.5)
        return Attended(out=out[..., :width], log_sum=log_sum)

    def attend_backward(
        self,
        dy: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attended: Attended,
        *,
        causal: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        width = q.shape[-1]
        if width > FLASH_WIDTH:
            twin = self._by_twin("attention", f"heads of {width}: up to {FLASH_WIDTH}")
            return twin.attend_backward(dy, q, k, v, attended, causal=causal)
        backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
        tokens = (q.shape[2], k.shape[2])
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # dropout's, and there is none
        operands = (_filled(x) for x in (dy, q, k, v, attended.out))
        d_q, d_k, d_v = backward(
            *operands, attended.log_sum, None, None, *tokens, 0.0, causal, state, state,
            scale=width**-0.5,
        )  # fmt: skip
        return d_q[..., :width], d_k[..., :width], d_v[..., :width]


def flash_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Torch's FlashAttention: output and the logarithms of its sums."""
    forward = torch.ops.aten._scaled_dot_product_flash_attention
    out, log_sum = forward(q, k, v, 0.0, causal, scale=scale)[:2]
    return out, log_sum


def _filled(x: torch.Tensor) -> torch.Tensor:
    """Heads as wide as FlashAttention takes them, zeros behind their end, as torch's own has it."""
    pad = -x.shape[-1] % FLASH_STEP
    return functional.pad(x, (0, pad)) if pad else x


def _scales_of(x: Codes) -> torch.Tensor:
    assert x.main.scales is not None
    return x.main.scales


def _named(name: str, x: Codes) -> dict[str, torch.Tensor]:
    assert x.main.scales is not None
    return {name: x.main.codes, f"{name}_scales": x.main.scales}


def _written(made: QuantizedTensor) -> dict[str, torch.Tensor]:
    assert made.scales is not None
    return {"out": made.codes, "out_scales": made.scales}
