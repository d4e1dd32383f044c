"""Stand-ins of the launchers: they check their real arguments, then the twin answers.

Each launch is replaced by the launcher's own checks and the reference's result for the operands
that it was given, so operands in each other's place, a forgotten transposition or another key show.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nn_cases import normal

from sim import load_gpu
from tiles.formats import TensorFormat
from tiles.formats.torch_codec import QuantizedTensor
from tiles.formats.torch_encode import CODE_DTYPES
from tiles.kernels.cuda import (
    dataflow_blocks,
    dataflow_rows,
    gemm_hopper,
    gemm_hopper_blocks,
    quantize_blocks,
)
from tiles.kernels.triton import (
    activation_tiles,
    dequantize_tiles,
    gemm_scaled,
    norm_gradient,
    placed_tiles,
    quantize_tiles,
    residual_tiles,
    rounded_tiles,
    transpose_codes,
    turned_tiles,
)
from tiles.kernels.triton.dequantize_tiles_arguments import request as dequantize_request
from tiles.kernels.triton.quantize_tiles_arguments import request as quantize_request
from workbench.nn import Codes, ReferenceBackend, TransformerBlock, training_runtime
from workbench.nn import cuda_assembly as assembly_module
from workbench.nn import cuda_dataflow as dataflow_module
from workbench.nn import cuda_products as products_module
from workbench.nn.cuda_backend import CudaBackend

__all__ = ["CPU", "LIMITS", "TWIN", "Launches", "cuda", "launches", "trained", "view"]

LIMITS = load_gpu("h200").limits
CPU = torch.device("cpu")
TWIN = ReferenceBackend()


#: As CuPy holds them: bf16 and 8-bit floats as unsigned patterns.
NUMPY = {
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.float8_e4m3fn: "uint8",
    torch.float8_e5m2: "uint8",
    torch.bfloat16: "uint16",
    torch.float16: "float16",
    torch.float32: "float32",
}


class FakeDevice:
    """A device that is current for nothing."""

    id = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeDevice)

    __hash__ = None  # type: ignore[assignment]  # as CuPy's devices compare


def view(tensor: torch.Tensor) -> Any:
    """What launchers look at in a CuPy array, with the tensor beside it."""
    return SimpleNamespace(
        shape=tuple(tensor.shape),
        ndim=tensor.ndim,
        dtype=np.dtype(NUMPY[tensor.dtype]),
        strides=tuple(s * tensor.element_size() for s in tensor.stride()),
        flags=SimpleNamespace(c_contiguous=tensor.is_contiguous()),
        data=SimpleNamespace(ptr=tensor.data_ptr()),
        device=FakeDevice(),
        tensor=tensor,
    )


def codes(x: Any, scales: Any, fmt: str) -> Codes:
    main = QuantizedTensor(codes=x.tensor, scales=scales.tensor, format=TensorFormat.parse(fmt))
    return Codes(main=main)


def write(found: Codes, out: Any, scales: Any) -> None:
    out.tensor.copy_(found.main.codes)
    scales.tensor.copy_(found.main.scales)


def spread(x: torch.Tensor, scale: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """What codes stand for, float64; 0 for a whole extent under a scale."""
    high, wide = (n or extent for n, extent in zip(block, x.shape, strict=True))
    grid = scale.double().repeat_interleave(high, 0).repeat_interleave(wide, 1)
    return x.double() * grid[: x.shape[0], : x.shape[1]]


class Launches:
    """The launchers' stand-ins; counts what was launched."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def blocks(self, *, stream: Any, **given: Any) -> None:
        dataflow_blocks.prepare(**given)
        op, (rows, cols) = given["op"], given["block"]
        self.seen.append(op)
        plain = f"{given['element']}.b{rows}x{cols}"
        out = TensorFormat.parse(plain + "+sr" * given["stochastic"])
        x = codes(given["x"], given["x_scales"], plain)
        if op == "dropout":
            found = TWIN.dropout(
                x, out=out, probability=given["probability"], mask_seed=given["mask_seed"],
                seed=given["seed"],
            )  # fmt: skip
        else:
            dy = codes(given["dy"], given["dy_scales"], plain) if "dy" in given else None
            found = TWIN.elementwise(op, x, dy=dy, out=out, seed=given["seed"])
        write(found, given["out"], given["out_scales"])

    def rows(self, *, stream: Any, **given: Any) -> None:
        dataflow_rows.prepare(**given)
        op, (rows, cols) = given["op"], given["block"]
        self.seen.append(op)
        plain = f"{given['element']}.b{rows}x{cols}"
        x = codes(given["x"], given["x_scales"], plain)
        gamma, mean, variance = (given[n].tensor for n in ("gamma", "mean", "variance"))
        if not op.endswith("-bwd"):
            beta = given["beta"].tensor if "beta" in given else None
            forward = TWIN.normalize(
                op, x, gamma, beta, epsilon=given["epsilon"], out=TensorFormat.parse(plain)
            )
            mean.copy_(forward.mean)
            variance.copy_(forward.variance)
            write(forward.y, given["out"], given["out_scales"])
            return
        out = TensorFormat.parse(plain + "+sr" * given["stochastic"])
        dy = codes(given["other"], given["other_scales"], plain)
        back = TWIN.normalize_backward(
            op.removesuffix("-bwd"), x, dy, mean, variance, gamma,
            epsilon=given["epsilon"], out=out, seed=given["seed"],
        )  # fmt: skip
        write(back.dx, given["out"], given["out_scales"])
        given["d_gamma"].tensor.copy_(back.d_gamma)
        if back.d_beta is not None:
            given["d_beta"].tensor.copy_(back.d_beta)

    def hopper(self, *operands: Any, config: Any, seed: int, stream: Any, **formats: Any) -> None:
        gemm_hopper_blocks.check_operands(*operands, **formats)
        gemm_hopper_blocks.options(**formats, config=config)
        self.seen.append(f"hopper {formats['out']}")
        a, b, c, a_scale, b_scale, c_scale = operands
        fmt = f"{formats['element']}.{formats['scales']}"
        left, right = codes(a, a_scale, fmt), codes(b, b_scale, fmt)
        if c_scale is None:
            c.tensor.copy_(TWIN.product(left, right, dtype=c.tensor.dtype))
        else:
            out = TensorFormat.parse(formats["out"])
            write(TWIN.coded_product(left, right, out=out, seed=seed), c, c_scale)

    def plain(self, *operands: Any, config: Any, stream: Any, **formats: Any) -> None:
        gemm_hopper.check_operands(*operands, **formats)
        gemm_hopper.options(**formats, config=config)
        self.seen.append(f"hopper plain {formats['out']}")
        a, b, c, a_scale, b_scale = (None if x is None else x.tensor for x in operands)
        a_block, b_block = {
            "tensor": ((0, 0), (0, 0)),
            "row": ((1, 0), (1, 0)),
            "b1x128": ((1, 128), (128, 128)),
            "b128x128": ((128, 128), (128, 128)),
        }[formats["scales"]]
        c.copy_(spread(a, a_scale, a_block) @ spread(b, b_scale, b_block).t())

    def scaled(self, a: Any, b: Any, c: Any, a_scale: Any, b_scale: Any, **given: Any) -> None:
        gemm_scaled.arguments(a, b, c, a_scale, b_scale, **given)
        self.seen.append("triton gemm")
        a_block, b_block = given["a_block"], given["b_block"]
        c.copy_((spread(a, a_scale, a_block) @ spread(b, b_scale, b_block).t()).float())

    def quantize(
        self,
        x: Any,
        out: Any,
        scales: Any,
        *,
        seed: int | None,
        stored: str,
        codes_t: Any = None,
        scales_t: Any = None,
        **given: Any,
    ) -> None:
        quantize_request(
            x, out, scales, stored=stored, tensor_scale=None, seed=seed, swizzled=False,
            codes_t=codes_t, scales_t=scales_t, **given,
        )  # fmt: skip
        self.seen.append("quantize" if codes_t is None else "quantize both")
        rows, cols = given["block"]
        shape = "tensor" if not rows else f"b{rows}x{cols}" if cols else "row"
        shape = f"mx+{given['rule']}" if stored == "e8m0fnu" else shape
        fmt = TensorFormat.parse(f"{given['element']}.{shape}{'' if seed is None else '+sr'}")
        found = TWIN.quantize(x, fmt, seed=seed or 0)
        assert found.main.scales is not None
        out.copy_(found.main.codes.view(torch.uint8))
        scales.copy_(found.main.scales if stored == "fp32" else found.main.scale_bits)
        if codes_t is not None:
            other = TWIN.quantize(x.t(), fmt).main if rows != cols else None
            turned = found.main.codes.t() if other is None else other.codes
            codes_t.copy_(turned.contiguous().view(torch.uint8))
        if scales_t is not None:
            if other is None:
                scales_t.copy_(found.main.scales.t())
            else:
                assert other.scales is not None
                scales_t.copy_(other.scales if stored == "fp32" else other.scale_bits)

    def dequantize(self, x: Any, scales: Any, out: Any, *, stored: str, **given: Any) -> None:
        dequantize_request(
            x, scales, out, stored=stored, tensor_scale=None, swizzled=False, **given
        )
        self.seen.append("dequantize")
        rows, cols = given["block"]
        fmt = TensorFormat.parse(f"{given['element']}.{f'b{rows}x{cols}' if rows else 'tensor'}")
        if stored == "e8m0fnu":
            fmt = TensorFormat.parse(f"{given['element']}.mx")
            scales = 2.0 ** (scales.float() - 127)
        values = x.view(CODE_DTYPES.get(given["element"], torch.uint8))
        found = Codes(main=QuantizedTensor(codes=values, scales=scales, format=fmt))
        out.copy_(found.dequantize(out.dtype))

    def activate(self, *tensors: Any, op: str, block: int, seed: int | None, **given: Any) -> None:
        activation_tiles._call(*tensors, op=op, block=block, seed=seed, **given)
        self.seen.append(f"{op}-bwd of numbers")
        x, x_scales, dy, out, scales = tensors
        fmt = TensorFormat.parse(f"int8.b{block}x{block}{'' if seed is None else '+sr'}")
        main = QuantizedTensor(codes=x.view(torch.int8), scales=x_scales, format=fmt)
        found = TWIN.activate_backward(op, Codes(main=main), dy, out=fmt, seed=seed or 0)
        out.copy_(found.main.codes.view(torch.uint8))
        scales.copy_(found.main.scales)

    def add(self, *given: Any, block: int, seed: int | None) -> None:
        residual_tiles._call(*given, block=block, seed=seed)
        named = dict(zip(residual_tiles.TENSORS, given, strict=False))
        x, y, y_scales = (named.get(name) for name in ("x", "y", "y_scales"))
        made = [named.get(n) for n in ("codes", "scales", "codes_t", "scales_t")]
        kinds = (y_scales, "add codes"), (made[0], "to codes"), (made[2], "both")
        self.seen.append(" ".join(name for one, name in kinds if one is not None))
        if y_scales is not None:
            plain = TensorFormat.parse(f"int8.b{block}x{block}")
            main = QuantizedTensor(codes=y.view(torch.int8), scales=y_scales, format=plain)
            y = Codes(main=main)
        fmt = TensorFormat.parse(f"int8.b{block}x{block}{'' if seed is None else '+sr'}")
        total, found = TWIN.add(x, y, fmt, seed=seed or 0)
        assert found is not None
        named["total"].copy_(total)
        wanted = (found.main.bits, found.main.scales) * 2
        for at, (one, other) in enumerate(zip(made, wanted, strict=True)):
            if one is not None:
                assert other is not None
                one.copy_(other if at < 2 else other.t())

    def rounded(self, x: Any, out: Any, scales: Any, numbers: Any, *, block: int) -> None:
        rounded_tiles._call(x, out, scales, numbers, block=block)
        self.seen.append("quantize rounded")
        found = TWIN.quantize(x, TensorFormat.parse(f"int8.b{block}x{block}"))
        out.copy_(found.main.bits)
        scales.copy_(found.main.scales)
        numbers.copy_(found.dequantize(numbers.dtype))

    def norm(self, *given: Any, op: str, epsilon: float, block: int) -> None:
        norm_gradient._call(*given, op=op, epsilon=epsilon, block=block)
        x, x_scales, dy, mean, variance, gamma, total, partials, *onto = given
        self.seen.append(f"{op}-bwd of numbers")
        plain = TensorFormat.parse(f"int8.b{block}x{block}")
        main = QuantizedTensor(codes=x.view(torch.int8), scales=x_scales, format=plain)
        found, *sums = TWIN.normalize_gradient(
            op, Codes(main=main), dy, mean, variance, gamma, epsilon=epsilon, dtype=total.dtype,
            onto=onto[0] if onto else None,
        )  # fmt: skip
        total.copy_(found)
        partials.zero_()
        for at in range(partials.shape[1]):
            partials[-1, at] = sums[at]

    def turned(self, x: Any, out: Any, scales: Any, *, block: int, config: Any) -> None:
        turned_tiles._call(x, out, scales, block=block, config=config)
        self.seen.append("quantize turned")
        found = TWIN.quantize(x.t(), TensorFormat.parse(f"int8.b{block}x{block}")).main
        out.copy_(found.codes.view(torch.uint8))
        scales.copy_(found.scales)

    def placed(self, x: Any, *made: Any, place: tuple[int, int], **given: Any) -> None:
        placed_tiles._call(x, *made, place=place, **given)
        codes, *rest = made
        self.put(x, codes.view(torch.int8), *rest, place=place, **given)

    def part(
        self, *, stream: Any, place: tuple[int, int], block: tuple[int, int], seed: int | None,
        **given: Any,
    ) -> None:  # fmt: skip
        quantize_blocks.prepare(place=place, block=block, seed=seed, **given)
        names = ("x", "codes", "scales", "codes_t", "scales_t")
        tensors = (given[name].tensor for name in names if name in given)
        self.put(*tensors, place=place, block=block[0], seed=seed)

    def put(self, x: Any, *made: Any, place: tuple[int, int], block: int, seed: int | None) -> None:
        self.seen.append("quantize part" if len(made) == 2 else "quantize part both")
        fmt = TensorFormat.parse(f"int8.b{block}x{block}{'' if seed is None else '+sr'}")
        # The random bits are those of the whole.
        whole = torch.zeros(made[0].shape, dtype=x.dtype)
        part = tuple(slice(at, at + size) for at, size in zip(place, x.shape, strict=True))
        blocks = tuple(slice(p.start // block, -(-p.stop // block)) for p in part)
        whole[part] = x
        found = TWIN.quantize(whole, fmt, seed=seed or 0).main
        assert found.scales is not None
        codes = found.codes.view(torch.int8)
        made[0][part] = codes[part]
        made[1][blocks] = found.scales[blocks]
        if len(made) > 2:
            made[2].view(torch.int8).t()[part] = codes[part]
            made[3].t()[blocks] = found.scales[blocks]

    def transpose(self, x: torch.Tensor, out: torch.Tensor, *, config: Any) -> None:
        self.seen.append("transpose")
        assert (out.shape, x.is_contiguous()) == (x.t().shape, True)
        out.copy_(x.t())


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    made = Launches()
    for module in (assembly_module, dataflow_module, products_module):
        monkeypatch.setattr(module, "cupy_view", view)
    monkeypatch.setattr(CudaBackend, "_stream", lambda self: None)
    monkeypatch.setattr(CudaBackend, "attend", ReferenceBackend.attend)
    monkeypatch.setattr(CudaBackend, "attend_backward", ReferenceBackend.attend_backward)
    for module, stand_in in (
        (dataflow_blocks, made.blocks),
        (dataflow_rows, made.rows),
        (gemm_hopper_blocks, made.hopper),
        (gemm_hopper, made.plain),
        (gemm_scaled, made.scaled),
        (quantize_tiles, made.quantize),
        (dequantize_tiles, made.dequantize),
        (transpose_codes, made.transpose),
        (activation_tiles, made.activate),
        (turned_tiles, made.turned),
        (placed_tiles, made.placed),
        (quantize_blocks, made.part),
        (norm_gradient, made.norm),
        (rounded_tiles, made.rounded),
        (residual_tiles, made.add),
    ):
        monkeypatch.setattr(module, "launch", stand_in)
    return made


def cuda() -> CudaBackend:
    return CudaBackend(CPU, limits=LIMITS)


def trained(backend: ReferenceBackend, recipe: str, **options: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = TransformerBlock(64, 4, training_runtime(recipe, backend=backend, seed=3), **options)
    x = normal(2, 40, 64, dtype=torch.bfloat16).requires_grad_()
    y = model(x)
    y.float().pow(2).mean().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {"y": y.detach(), "x": x.grad}  # type: ignore[dict-item]
