"""Products whose output is codes and block scales, registered as a PyTorch operator."""

import torch
from torch import Tensor

from ._lookup import Choice, choose, layouts, stand_in, template
from ._operands import check_operand, check_scale, check_seed, check_tensors, scale_grid
from ._operator import making
from ._quantize_packed import run as run_quantize
from ._torch_device import (
    DTYPES,
    aligned_rows,
    check_device,
    current,
    decodes,
    device_facts,
)

KERNEL = "hopper_block_gemm"
#: What stands in: a product in fp32, and the quantisation of it.
PRODUCT, QUANTIZE = "triton_gemm", "triton_quantize_tiles"
UNALIGNED = "rows of an operand or of the codes do not start at multiples of 16 bytes"
#: Recipe and output format; products into plain elements are another function's.
_LAYOUTS = {formats: layout for formats, layout in layouts(KERNEL).items() if "." in formats[1]}


def gemm_quantized(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    *,
    recipe: str,
    format: str,
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Codes and scales of ``A[M, K] · B[N, K]^T``, quantised from the fp32 product.

    On a GPU of capability 9.0 the product is quantised before it leaves the multiprocessor;
    elsewhere it is made in fp32 and quantised in a second pass, with one warning.  The operator has
    no derivative: it is meant for the forward and backward products themselves.

    Args:
        a: (M, K), b: (N, K), K contiguous, in the recipe's elements.
        a_scale, b_scale: fp32, one scale a block on the recipe's grid, any strides.
        recipe: a recipe that the package was emitted with, e.g. ``"jetfire"``.
        format: an output format that the package was emitted with, e.g. ``"int8.b32x32"``.
        seed: 64-bit key, below 2^63, of formats that round stochastically (``+sr``).
    Returns:
        Codes (M, N) and fp32 scales on the format's grid, row-major.
    Raises:
        ValueError: unknown recipe or format, wrong shape, device or stride, seed missing or beside
            a format that rounds to nearest.
        TypeError: wrong dtype, or no tensor.
    """
    check_tensors("a", a=a, b=b, a_scale=a_scale, b_scale=b_scale)
    layout = _LAYOUTS.get((recipe, format))
    if layout is None:
        known = ", ".join(f"{name} -> {target}" for name, target in _LAYOUTS)
        raise ValueError(f"no product for recipe {recipe!r} into {format!r}: there is {known}")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in b.shape:
        raise ValueError(
            f"gemm_quantized takes a (M, K) and b (N, K), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    for name, operand, scale in (("a", a, a_scale), ("b", b, b_scale)):
        check_operand(name, operand, layout["a_element"])
        check_scale(name, scale, operand.shape, layout["a_block"])
    check_seed(format, seed, stochastic=layout["stochastic"])
    codes, scales = _make(a, b, a_scale, b_scale, recipe, format, seed)
    return codes, scales


def _empty(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    recipe: str,
    format: str,
    seed: int | None,
) -> tuple[Tensor, Tensor]:
    layout = _LAYOUTS[recipe, format]
    m, n, side = a.shape[0], b.shape[0], layout["out_block"]
    codes = a.new_empty((m, n), dtype=DTYPES[layout["out_element"]])
    return codes, a.new_empty(scale_grid(m, n, (side, side)), dtype=torch.float32)


def fallback(choice: Choice, m: int, why: str) -> Choice:
    """The product in fp32 that runs where the tuned kernel cannot, with one warning."""
    return stand_in(choice, PRODUCT, m, why, (choice.file.formats[0], "fp32"))


def _launch(
    a: Tensor,
    b: Tensor,
    a_scale: Tensor,
    b_scale: Tensor,
    recipe: str,
    format: str,
    seed: int | None,
    codes: Tensor,
    scales: Tensor,
) -> None:
    from . import _hopper_gemm

    check_device("a", a)
    m, k = a.shape
    if m == 0:
        return
    device, _ = device_facts(a.device)
    choice = choose(KERNEL, (recipe, format), (b.shape[0], k), m, device)
    aligned = all(aligned_rows(tensor) for tensor in (a, b, codes))
    if obstacle := _hopper_gemm.obstacle(a.device) if aligned else UNALIGNED:
        choice = fallback(choice, m, obstacle)
    run(choice, (a, b, a_scale, b_scale), (codes, scales), format, seed)


def run(
    choice: Choice,
    operands: tuple[Tensor, Tensor, Tensor, Tensor],
    outputs: tuple[Tensor, Tensor],
    format: str,
    seed: int | None,
) -> None:
    """Launch a configuration of the kernel, or of the product that stands in for it."""
    a, b, a_scale, b_scale = operands
    codes, scales = outputs
    if choice.file.kernel == KERNEL:
        from . import _hopper_gemm

        _hopper_gemm.launch(
            choice, *operands, codes, format, c_scale=scales, seed=0 if seed is None else seed
        )
        return
    layout = choice.file.layout
    decode = decodes(a.device) if layout["decode"] is None else layout["decode"]
    _, num_sms = device_facts(a.device)
    product = torch.empty(codes.shape, dtype=torch.float32, device=a.device)
    with current(a.device):
        template(choice).launch(
            a,
            b,
            product,
            a_scale,
            b_scale,
            a_block=layout["a_block"],
            b_block=layout["b_block"],
            config=choice.config,
            decode=decode,
            num_sms=num_sms,
        )
    second = stand_in(choice, QUANTIZE, codes.shape[0], "", (format, "fp32"))
    run_quantize(second, product, {"codes": codes, "scales": scales}, seed)


_make = making(
    "gemm_quantized",
    "(Tensor a, Tensor b, Tensor a_scale, Tensor b_scale, str recipe, str format, SymInt? seed) "
    "-> (Tensor, Tensor)",
    empty=_empty,
    launch=_launch,
)
