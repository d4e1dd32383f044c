"""Products on a CUDA device, by three families of GEMMs."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.cuda import gemm_hopper, gemm_hopper_blocks
from tiles.kernels.cupy_views import cupy_view
from tiles.kernels.gemm_workload import launch_block, multiprocessors, must_decode
from tiles.kernels.hopper_block_rules import block_scales
from tiles.kernels.hopper_gemm import scale_mode
from tiles.kernels.triton import gemm_scaled, transpose_codes
from tiles.kernels.triton.gemm_arguments import shares_k
from tiles.kernels.triton.split_workspace import MAX_SPLIT_TILES, workspace_words
from tiles.problems import Gemm, Transpose
from workbench.emission.package_files._workspace import zeroed_words
from workbench.nn.choices import Choice, recipe_of
from workbench.nn.codes import Codes
from workbench.nn.cuda_quantizer import CudaQuantizer
from workbench.nn.kernel_formats import PLAIN, ROW_STEP
from workbench.nn.prepared import ALIGNMENT, ProductLaunch, TritonLaunch

__all__ = ["CudaProducts", "Operand", "launch_product", "product_problem"]

#: Modes of scales that the copy engine fetches: their maps are the launchers' own matter.
ROW_SCALES = ("b1x32", "b1x128")


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A product's operand, K contiguous."""

    codes: torch.Tensor  #: (rows, K)
    scales: torch.Tensor | None
    format: TensorFormat

    @property
    def nearest(self) -> TensorFormat:
        """Its format as a product takes it, which does not ask how codes were rounded."""
        return replace(self.format, rounding=Rounding.NEAREST_EVEN)


def product_problem(a: Operand, b: Operand, out: str) -> Gemm:
    """The problem of ``a · b^T``, under a recipe of its operands' formats."""
    (m, k), n = a.codes.shape, b.codes.shape[0]
    return Gemm(m=m, n=n, k=k, recipe=recipe_of(a.nearest, b.nearest), out=out)


def launch_product(
    problem: Gemm,
    choice: Choice,
    a: Operand,
    b: Operand,
    c: torch.Tensor,
    *,
    scales: torch.Tensor | None = None,
    seed: int = 0,
    stream: Any = None,
) -> None:
    """Write ``a · b^T`` to ``c``, and with codes their ``scales``.

    Raises:
        ValueError, TypeError: as of the family's launcher.
    """
    config = choice.config.to_dict()
    if choice.family == "hopper_block_gemm":
        mode = block_scales(a.nearest, b.nearest)
        assert mode is not None  # else the family refuses
        assert a.scales is not None
        assert b.scales is not None
        # The launcher knows codes of mxint8 as integers, torch has bit patterns of them.
        left, right = (
            x.codes.view(torch.int8) if x.codes.dtype is torch.uint8 else x.codes for x in (a, b)
        )
        gemm_hopper_blocks.launch(
            cupy_view(left),
            cupy_view(right),
            cupy_view(c),
            cupy_view(a.scales),
            cupy_view(b.scales),
            None if scales is None else cupy_view(scales),
            element=a.format.element.name,
            out=problem.out,
            scales=mode,
            config=config,
            seed=seed,
            stream=stream,
        )
        return
    if choice.family == "hopper_gemm":
        chosen = scale_mode(a.nearest, b.nearest)
        assert chosen is not None  # else the family refuses
        views = (None if s is None else cupy_view(s) for s in (a.scales, b.scales))
        gemm_hopper.launch(
            *(cupy_view(x) for x in (a.codes, b.codes, c)),
            *views,
            element=a.format.element.name,
            out=problem.out,
            scales=chosen,
            config=config,
            stream=stream,
        )
        return
    processors = multiprocessors(str(c.device))
    words = workspace_words(config, *problem.shape, processors) if shares_k(config) else 0
    gemm_scaled.launch(
        a.codes,
        b.codes,
        c,
        a.scales,
        b.scales,
        a_block=launch_block(a.format),
        b_block=launch_block(b.format),
        config=config,
        decode=must_decode(problem.recipe, str(c.device)),
        num_sms=processors,
        workspace=zeroed_words(words, MAX_SPLIT_TILES, c.device) if words else None,
    )


class CudaProducts(CudaQuantizer):
    """Multiplies by kernels."""

    def _operand(self, x: Codes, turn: bool) -> Operand:
        """Codes with K contiguous and a multiple of 16 long, zeros behind its end."""
        codes, scales = x.main.codes, x.main.scales
        if turn and x.turned is not None:
            return Operand(codes=x.turned.codes, scales=x.turned.scales, format=x.format)
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
        if codes.dtype not in names or codes.element_size() > 1:
            return codes.t().contiguous()
        key = self._key("transpose", (codes,)) if codes.is_contiguous() else None
        if known := self._prepared.get(key) if key is not None else None:
            out = torch.empty(cols, rows, dtype=codes.dtype, device=self.device)
            with self._current():
                known({"codes": codes.view(torch.uint8), "out": out.view(torch.uint8)})
            return out
        problem = Transpose(rows=rows, cols=cols, element=names[codes.dtype])
        choice = self._choice(problem)
        if choice is None:
            return codes.t().contiguous()
        out = torch.empty(cols, rows, dtype=codes.dtype, device=self.device)
        config = choice.config.to_dict()
        with self._current():
            transpose_codes.launch(codes, out, config=config)
            if key is not None:
                programs, arguments, constants = transpose_codes._call(codes, out, config)
                call = (transpose_codes._transpose_codes, programs, arguments, constants)
                self._prepared[key] = TritonLaunch([call], {"codes": codes, "out": out})
        return out

    def _multiplied(
        self,
        left: Operand,
        right: Operand,
        c: torch.Tensor,
        out: str,
        *,
        c_scale: torch.Tensor | None = None,
        seed: int = 0,
    ) -> bool:
        """Launch a product that was launched before; false where none was of its kind."""
        key = self._product_key(left, right, out)
        known = None if key is None else self._prepared.get(key)
        if known is None or c.data_ptr() % ALIGNMENT:
            return False
        with self._current():
            known(
                *(left.codes, right.codes, c, left.scales, right.scales, self._stream()),
                c_scale=c_scale,
                seed=seed,
            )
        return True

    def _product_key(self, left: Operand, right: Operand, out: str) -> tuple[object, ...] | None:
        whole = left.codes.is_contiguous() and right.codes.is_contiguous()
        if not whole or 1 in (left.codes.shape[0], right.codes.shape[0]):
            return None
        tensors = (left.codes, right.codes, left.scales, right.scales)
        return self._key("product", tensors, left.format, right.format, out)

    def _prepare(self, problem: Gemm, choice: Choice, left: Operand, right: Operand) -> None:
        """Keep a launch for :meth:`_multiplied`, where its family's arguments are known here."""
        key = self._product_key(left, right, problem.out)
        blocks = choice.family == "hopper_block_gemm"
        name = block_scales if blocks else scale_mode
        scales = name(left.nearest, right.nearest)
        if key is None or choice.family == "triton_gemm" or scales in (None, *ROW_SCALES):
            return
        assert scales is not None
        with self._current():
            self._prepared[key] = ProductLaunch(
                problem.shape,
                device=left.codes.device.index,
                blocks=blocks,
                element=left.format.element.name,
                out=problem.out,
                scales=scales,
                config=choice.config.to_dict(),
            )

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
        m, n = left_op.codes.shape[0], right_op.codes.shape[0]
        made = torch.empty(m, n, dtype=CODE_DTYPES[out], device=self.device)
        if self._multiplied(left_op, right_op, made, out):
            return _with_bias(made, bias, dtype)
        problem = product_problem(left_op, right_op, out)
        choice = self._choice(problem)
        if choice is None:
            return self._emulated(a, b, **rest)
        with self._current():
            launch_product(problem, choice, left_op, right_op, made, stream=self._stream())
        self._prepare(problem, choice, left_op, right_op)
        return _with_bias(made, bias, dtype)

    def _emulated(
        self,
        a: Codes,
        b: Codes,
        *,
        dtype: torch.dtype,
        bias: torch.Tensor | None,
        turn_a: bool,
        turn_b: bool,
    ) -> torch.Tensor:
        """The product of what codes stand for in bf16, summed in fp32.

        Exact but for the order of the sum where a code times its scale has eight bits, as under
        E8M0 scales; other scales cost 2^-9 of a number.
        """
        left, right = (self.dequantize(x, torch.bfloat16) for x in (a, b))
        left, right = left.t() if turn_a else left, right if turn_b else right.t()
        if self.device.type == "cuda":
            values = torch.mm(left, right, out_dtype=torch.float32)
        else:  # torch's CPU has no such product
            values = left.float() @ right.float()
        return _with_bias(values, bias, dtype)

    def coded_product(
        self,
        a: Codes,
        b: Codes,
        *,
        out: TensorFormat,
        bias: torch.Tensor | None = None,
        turn_b: bool = False,
        seed: int = 0,
        share: float = 0.0,
    ) -> Codes:
        if bias is None and not share and a.fallback is None and b.fallback is None:
            left, right = self._operand(a, False), self._operand(b, turn_b)
            made = self._bare(left.codes.shape[0], right.codes.shape[0], out)
            text = _text(out)
            if self._multiplied(left, right, made.codes, text, c_scale=made.scales, seed=seed):
                return Codes(main=made)
            problem = product_problem(left, right, text)
            choice = self.choices.of(problem)
            if isinstance(choice, Choice) and choice.family == "hopper_block_gemm":
                with self._current():
                    launch_product(
                        problem, choice, left, right, made.codes,
                        scales=made.scales, seed=seed, stream=self._stream(),
                    )  # fmt: skip
                self._prepare(problem, choice, left, right)
                return Codes(main=made)
            del made
        # Codes are those of the fp32 product, so two launches yield the same ones.
        values = self.product(a, b, dtype=torch.float32, bias=bias, turn_b=turn_b)
        return self.quantize(values, out, seed=seed, share=share)


@cache
def _text(fmt: TensorFormat) -> str:
    return str(fmt)


def _padded(codes: torch.Tensor, pad: tuple[int, ...]) -> torch.Tensor:
    return torch.nn.functional.pad(codes.view(torch.uint8), pad).view(codes.dtype)


def _with_bias(values: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    return (values if bias is None else values.float() + bias.float()).to(dtype)
