"""Activations, gates, dropout and sums of codes on the kernels of the dataflow set."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows
from tiles.kernels.cupy_views import cupy_view
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.triton import activation_tiles, residual_tiles
from tiles.problems import Dataflow
from workbench.nn.choices import Choice
from workbench.nn.codes import Codes
from workbench.nn.cuda_assembly import stored_tensors
from workbench.nn.cuda_products import CudaProducts
from workbench.nn.kernel_formats import PLAIN, ROW_STEP, square_side
from workbench.nn.prepared import DataflowLaunch, TritonLaunch
from workbench.nn.seeds import derived

__all__ = ["CudaDataflow", "named", "scales_of", "written"]

#: Sides of the blocks whose activations have a gradient from numbers in one pass.
MIN_SIDE, MAX_SIDE = 32, 128
_NO_GATE = "no kernel multiplies the two: fp32 matrices of the hidden size in torch"
_GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "silu": functional.silu,
    "relu": functional.relu,
}


class CudaDataflow(CudaProducts):
    """Element by element, in and out of codes."""

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
        tensors = named("x", x) | written(made)
        if dy is not None:
            tensors |= named("dy", dy)
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
            tensors |= {"y": y.main.codes.view(torch.uint8), "y_scales": scales_of(y)}
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
        tensors = named("x", x) | written(made)
        self._launch(*found, tensors, seed=seed, mask_seed=mask_seed, probability=probability)
        return Codes(main=made)


def scales_of(x: Codes) -> torch.Tensor:
    """Scales of codes that have some."""
    assert x.main.scales is not None
    return x.main.scales


def named(name: str, x: Codes) -> dict[str, torch.Tensor]:
    """Codes and scales under the names of a kernel's arguments."""
    assert x.main.scales is not None
    return {name: x.main.codes, f"{name}_scales": x.main.scales}


def written(made: QuantizedTensor) -> dict[str, torch.Tensor]:
    """Likewise of what a kernel writes."""
    assert made.scales is not None
    return {"out": made.codes, "out_scales": made.scales}
