"""The layers' operators on the kernels of ``tiles.kernels``, launched on torch's current stream.

What no kernel serves is computed by the reference twin, on the GPU and slowly; ``unserved`` lists
it with the reasons.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar

import torch

from sim import gpu_names, load_gpu
from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import CODE_DTYPES, QuantizedTensor, empty_scales
from tiles.kernels.base import Limits
from tiles.kernels.cuda import dataflow_blocks, dataflow_rows
from tiles.kernels.cupy_views import cupy_stream, cupy_view
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.triton import dequantize_tiles, quantize_tiles, transpose_codes
from tiles.problems import Dataflow, Dequantize, Problem, Quantize, Transpose
from workbench.nn.backend import Attended, Normalized, NormGradients
from workbench.nn.choices import Choice, Choices
from workbench.nn.codes import Codes
from workbench.nn.cuda_products import Operand, launch_product, product_problem
from workbench.nn.reference_backend import ReferenceBackend

__all__ = ["CudaBackend", "limits_of"]

#: Element names of torch's dtypes.
PLAIN = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
#: Rows of codes begin at multiples of 16 bytes in the products' loads.
ROW_STEP = 16


def limits_of(device: torch.device) -> Limits:
    """Limits of a CUDA device, of the GPU file that names it.

    Raises:
        ValueError: there is no such device, no CuPy, or no GPU file for it.
    """
    if not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch sees no CUDA device here; train on 'cpu'")
    if find_spec("cupy") is None:
        raise ValueError("cupy is missing: pip install 'tile-workbench[cuda]'")
    name = torch.cuda.get_device_name(device)
    for known in map(load_gpu, gpu_names()):
        if known.matches(name):
            return known.limits
    raise ValueError(f"no GPU file names {name!r}: the known ones are {', '.join(gpu_names())}")


class CudaBackend(ReferenceBackend):
    """Kernels for everything that a family serves; see the module's docstring."""

    name: ClassVar[str] = "cuda"

    def __init__(
        self,
        device: torch.device,
        *,
        tuned: Mapping[str, Choice] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Serve a device.

        Args:
            tuned: problem's text to kernel and configuration; others take a family's default.
            limits: of the GPU; default: those of its GPU file.
        Raises:
            ValueError: as :func:`limits_of` and :class:`Choices`.
        """
        self.device = device
        self.choices = Choices(limits_of(device) if limits is None else limits, tuned)
        self.unserved: dict[str, str] = {}

    def _choice(self, problem: Problem) -> Choice | None:
        found = self.choices.of(problem)
        if isinstance(found, Choice):
            return found
        self.unserved[str(problem)] = found.reason
        return None

    def _stream(self) -> Any:
        return cupy_stream(str(self.device))

    def _empty(self, rows: int, cols: int, fmt: TensorFormat) -> QuantizedTensor:
        """Memory for codes and scales; scales hold zeros, codes anything."""
        assert fmt.scaling is not None
        dtype = CODE_DTYPES[fmt.element.name]
        return QuantizedTensor(
            codes=torch.empty(rows, cols, dtype=dtype, device=self.device),
            scales=empty_scales(rows, cols, fmt.scaling, self.device),
            format=fmt,
        )

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        if share or not _plain_codes(out):
            return self._by_twin(
                f"quantize {out}, fallback {share:g}", "codes and scales of other kinds"
            ).quantize(x, out, seed=seed, share=share)
        x = x.contiguous()
        problem = Quantize(rows=x.shape[0], cols=x.shape[1], target=out, source=PLAIN[x.dtype])
        choice = self._choice(problem)
        if choice is None:
            return super().quantize(x, out, seed=seed)
        made = self._empty(*problem.shape, out)
        quantize_tiles.launch(
            x,
            made.codes.view(torch.uint8),
            made.scales,
            element=out.element.name,
            block=launch_block(out),
            rule=out.scaling.rule.value if out.scaling else "absmax",
            seed=seed if out.rounding is Rounding.STOCHASTIC else None,
            config=choice.config.to_dict(),
        )
        return Codes(main=made)

    def dequantize(self, x: Codes, dtype: torch.dtype) -> torch.Tensor:
        if x.fallback is not None or dtype not in PLAIN or not _plain_codes(x.format):
            return super().dequantize(x, dtype)
        source = replace(x.format, rounding=Rounding.NEAREST_EVEN)
        rows, cols = x.shape
        choice = self._choice(Dequantize(rows=rows, cols=cols, source=source, out=PLAIN[dtype]))
        if choice is None:
            return super().dequantize(x, dtype)
        assert x.main.scales is not None
        out = torch.empty(rows, cols, dtype=dtype, device=self.device)
        dequantize_tiles.launch(
            x.main.codes.view(torch.uint8),
            x.main.scales,
            out,
            element=source.element.name,
            block=launch_block(source),
            config=choice.config.to_dict(),
        )
        return out

    def _by_twin(self, what: str, reason: str) -> ReferenceBackend:
        self.unserved[what] = reason
        return ReferenceBackend()

    def _operand(self, x: Codes, turn: bool) -> Operand:
        """Codes with K contiguous and a multiple of 16 long, zeros behind its end."""
        codes, scales = x.main.codes, x.main.scales
        if turn:
            if pad := -codes.shape[0] % ROW_STEP:
                codes = _padded(codes, (0, 0, 0, pad))
            codes = self._turned(codes)
            scales = None if scales is None else scales.t().contiguous()
        elif pad := -codes.shape[1] % ROW_STEP:
            codes = _padded(codes, (0, pad))
        return Operand(codes=codes, scales=scales, format=x.format)

    def _turned(self, codes: torch.Tensor) -> torch.Tensor:
        names = {dtype: name for name, dtype in CODE_DTYPES.items()}
        rows, cols = codes.shape
        if codes.element_size() > 1:
            return codes.t().contiguous()
        problem = Transpose(rows=rows, cols=cols, element=names[codes.dtype])
        choice = self._choice(problem)
        if choice is None:
            return codes.t().contiguous()
        out = torch.empty(cols, rows, dtype=codes.dtype, device=self.device)
        transpose_codes.launch(codes, out, config=choice.config.to_dict())
        return out

    def product(
        self,
        a: Codes,
        b: Codes,
        *,
        dtype: torch.dtype,
        bias: torch.Tensor | None = None,
        turn_a: bool = False,
        turn_b: bool = False,
    ) -> torch.Tensor:
        rest: dict[str, Any] = {
            "dtype": dtype, "bias": bias, "turn_a": turn_a, "turn_b": turn_b
        }  # fmt: skip
        if a.format.scaling is None and b.format.scaling is None:
            left, right = (x.main.codes.t() if t else x.main.codes for x, t in
                           ((a, turn_a), (b, turn_b)))  # fmt: skip
            return _with_bias(left @ right.t(), bias, dtype)
        if a.fallback is not None or b.fallback is not None:
            twin = self._by_twin("product with fallback", "no launch of it here")
            return twin.product(a, b, **rest)
        left_op, right_op = self._operand(a, turn_a), self._operand(b, turn_b)
        out = PLAIN[torch.float32 if bias is not None else dtype]
        problem = product_problem(left_op, right_op, out)
        choice = self._choice(problem)
        if choice is None:
            return super().product(a, b, **rest)
        made = torch.empty(problem.m, problem.n, dtype=CODE_DTYPES[out], device=self.device)
        launch_product(problem, choice, left_op, right_op, made, stream=self._stream())
        return _with_bias(made, bias, dtype)

    def coded_product(
        self,
        a: Codes,
        b: Codes,
        *,
        out: TensorFormat,
        bias: torch.Tensor | None = None,
        turn_b: bool = False,
        seed: int = 0,
    ) -> Codes:
        if bias is None and a.fallback is None and b.fallback is None:
            left, right = self._operand(a, False), self._operand(b, turn_b)
            problem = product_problem(left, right, str(out))
            choice = self.choices.of(problem)
            if isinstance(choice, Choice) and choice.family == "hopper_block_gemm":
                made = self._empty(problem.m, problem.n, out)
                launch_product(
                    problem, choice, left, right, made.codes,
                    scales=made.scales, seed=seed, stream=self._stream(),
                )  # fmt: skip
                return Codes(main=made)
        # Codes are those of the fp32 product, so two launches yield the same ones.
        values = self.product(a, b, dtype=torch.float32, bias=bias, turn_b=turn_b)
        return self.quantize(values, out, seed=seed)

    def _dataflow(
        self, op: str, out: TensorFormat, first: Codes, second: Codes | None = None
    ) -> tuple[Dataflow, Choice] | None:
        """The problem and its kernel, if all matrices are of one format and no block fell back."""
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
        blocks = choice.family == "cuda_dataflow_blocks"
        launch = dataflow_blocks.launch if blocks else dataflow_rows.launch
        launch(
            **{name: cupy_view(tensor.detach()) for name, tensor in tensors.items()},
            **rest,
            op=problem.op,
            element=problem.target.element.name,
            block=launch_block(problem.target),
            stochastic=problem.target.rounding is Rounding.STOCHASTIC,
            config=choice.config.to_dict(),
            stream=self._stream(),
        )

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

    def dropout(
        self, x: Codes, *, out: TensorFormat, probability: float, mask_seed: int, seed: int = 0
    ) -> Codes:
        found = self._dataflow("dropout", out, x)
        if found is None:
            return super().dropout(
                x, out=out, probability=probability, mask_seed=mask_seed, seed=seed
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
        mean, variance = (torch.empty(x.shape[0], device=self.device) for _ in range(2))
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
        sums = {"d_gamma": torch.empty(cols, device=self.device)}
        if op == "layernorm":
            sums["d_beta"] = torch.empty(cols, device=self.device)
        covered = dataflow_rows.geometry(
            op=problem.op,
            shape=problem.shape,
            block=launch_block(out),
            config=choice.config.to_dict(),
        )
        work = {"partials": torch.empty(covered.clusters, 2, cols, device=self.device)}
        tensors = _named("x", x) | _named("other", dy) | _written(made) | sums | work
        tensors |= {"mean": mean, "variance": variance, "gamma": gamma}
        self._launch(problem, choice, tensors, seed=seed, epsilon=epsilon)
        return NormGradients(
            dx=Codes(main=made), d_gamma=sums["d_gamma"], d_beta=sums.get("d_beta")
        )

    def attend(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
    ) -> Attended:
        forward = torch.ops.aten._scaled_dot_product_flash_attention
        out, log_sum = forward(q, k, v, 0.0, causal)[:2]
        return Attended(out=out, log_sum=log_sum)

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
        backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
        tokens = (q.shape[2], k.shape[2])
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # dropout's, and there is none
        d_q, d_k, d_v = backward(
            dy, q, k, v, attended.out, attended.log_sum, None, None, *tokens, 0.0, causal,
            state, state,
        )  # fmt: skip
        return d_q, d_k, d_v


def _plain_codes(fmt: TensorFormat) -> bool:
    """True for codes with fp32 scales, which kernels and layers lay out alike."""
    scaling = fmt.scaling
    stored = scaling is not None and scaling.stored.name == "fp32" and not scaling.two_level
    return stored and fmt.element.name in CODE_DTYPES and not fmt.asymmetric


def _padded(codes: torch.Tensor, pad: tuple[int, ...]) -> torch.Tensor:
    return torch.nn.functional.pad(codes.view(torch.uint8), pad).view(codes.dtype)


def _with_bias(values: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    return (values if bias is None else values.float() + bias.float()).to(dtype)


def _named(name: str, x: Codes) -> dict[str, torch.Tensor]:
    assert x.main.scales is not None
    return {name: x.main.codes, f"{name}_scales": x.main.scales}


def _written(made: QuantizedTensor) -> dict[str, torch.Tensor]:
    assert made.scales is not None
    return {"out": made.codes, "out_scales": made.scales}
