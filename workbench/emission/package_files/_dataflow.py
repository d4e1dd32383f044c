"""Operators between products, codes in and codes out, registered as a PyTorch operator.

The kernels are CUDA C++: they see torch's memory as CuPy arrays and run on torch's current stream.
Nothing waits for the GPU, so launches join a CUDA graph that torch captures.
"""

from typing import Any

import torch
from torch import Tensor

from ._cupy_views import missing_cupy, stream, view
from ._dataflow_operands import DataflowResult, check_operands, empty, writes
from ._lookup import Choice, choose, layouts, template
from ._operands import check_seed, check_tensors
from ._operator import making
from ._torch_device import check_capability, device_facts

KERNELS = ("cuda_dataflow_blocks", "cuda_dataflow_rows")
#: Family and layout by operator and format.
_SERVED = {
    formats: (kernel, layout) for kernel in KERNELS for formats, layout in layouts(kernel).items()
}
#: First capability with conversion instructions for 8-bit floats, and that of everything else.
_CAPABILITY = {"e4m3fn": (8, 9), "int8": (8, 0)}


def dataflow(
    op: str,
    x: Tensor,
    x_scales: Tensor,
    *,
    format: str,
    other: Tensor | None = None,
    other_scales: Tensor | None = None,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    seed: int | None = None,
    probability: float = 0.0,
    mask_seed: int = 0,
    epsilon: float = 1e-5,
) -> DataflowResult:
    """Apply an operator to a quantised matrix and quantise what comes out; no derivative.

    * ``gelu``, ``silu``, ``relu``; with ``-bwd`` the gradient, of x and the gradient ``other``;
    * ``dropout``: its gradient is dropout of the gradient with the same ``mask_seed``;
    * ``residual``: x + other, with mean and variance of the rows of what is stored;
    * ``layernorm``, ``rmsnorm``: with statistics of x, or, ``-apply``, with given ones; ``-bwd``
      yields dx, d_gamma and of LayerNorm d_beta.

    A NaN or an infinity in a block makes its scale NaN, an all-zero block has codes 0 and scale 1.

    Args:
        op: an operator that the package was emitted with.
        x: (rows, cols) codes, contiguous, in the format's element.
        x_scales: fp32, one a block on the format's grid, any strides; positive.
        format: a format that the package was emitted with for this operator, e.g.
            ``"int8.b32x32+sr"``; of every matrix.
        other, other_scales: the second addend of ``residual``, or the gradient that comes back.
        mean, variance: (rows,) fp32, for ``-apply`` and the norms' ``-bwd``.
        gamma, beta: (cols,) fp32, for the norms; RMSNorm and ``-bwd`` have no beta.
        seed: 64-bit key, below 2^63, of formats that round stochastically (``+sr``).
        probability: of dropout, rounded to 1 / 65536, in [0, 1 - 2^-16].
        mask_seed: 64-bit key, below 2^63, of dropout's random bits.
        epsilon: added to the variance, positive.
    Returns:
        Codes, scales and vectors, see :class:`DataflowResult`.
    Raises:
        ValueError: unknown operator or format, an operand missing or without need, wrong shape,
            strides, device or number, or a GPU that cannot run it; TypeError: wrong dtype, or no
            tensor; ImportError: CuPy is missing.
    """
    given = {"other": other, "other_scales": other_scales, "mean": mean, "variance": variance}
    given |= {"gamma": gamma, "beta": beta}
    check_tensors("x", x=x, x_scales=x_scales, **given)
    served = _SERVED.get((op, format))
    if served is None:
        known = ", ".join(" ".join(formats) for formats in _SERVED)
        raise ValueError(f"no operator {op!r} in {format!r}: there is {known}")
    layout = served[1]
    check_operands(x, x_scales, given, layout)
    check_seed(format, seed, stochastic=layout["stochastic"])
    if not 0 <= mask_seed < 2**63:
        raise ValueError(f"mask_seed {mask_seed}: it must lie in 0..2^63 - 1")
    if op != "dropout" and probability:
        raise ValueError(f"probability {probability}: {op} drops nothing")
    if not 0 <= probability <= 1 - 2**-16:
        raise ValueError(f"probability {probability}: it must lie in [0, 1 - 2^-16]")
    if not epsilon > 0:
        raise ValueError(f"epsilon {epsilon}: it must be positive")
    numbers = (format, seed, probability, mask_seed, epsilon)
    found = _make(op, x, x_scales, *given.values(), *numbers)
    return DataflowResult(**dict(zip(writes(op), found, strict=True)))


def _launch(
    op: str,
    x: Tensor,
    x_scales: Tensor,
    other: Tensor | None,
    other_scales: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    format: str,
    seed: int | None,
    probability: float,
    mask_seed: int,
    epsilon: float,
    *outputs: Tensor,
) -> None:
    kernel, layout = _SERVED[op, format]
    if x.device.type != "cuda":
        raise ValueError(f"x lies on {x.device}: move it to a GPU, no interpreter runs {kernel}")
    check_capability(f"{kernel} runs on", x.device, _CAPABILITY[layout["element"]])
    if reason := missing_cupy():
        raise ImportError(f"{kernel}: {reason}")
    rows, cols = x.shape
    if rows == 0:
        for sums in outputs[2:]:
            sums.zero_()
        return
    device, _ = device_facts(x.device)
    free = (rows, 1 << (cols - 1).bit_length())
    choice = choose(kernel, (op, format), (cols,), free, device)
    read = {"x": x, "x_scales": x_scales, "other": other, "other_scales": other_scales}
    read |= {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}
    numbers = {"seed": 0 if seed is None else seed, "epsilon": epsilon}
    if op == "dropout":
        numbers |= {"probability": probability, "mask_seed": mask_seed}
    held = {name: tensor for name, tensor in read.items() if tensor is not None}
    run(choice, held, dict(zip(writes(op), outputs, strict=True)), numbers)


def run(
    choice: Choice,
    read: dict[str, Tensor],
    written: dict[str, Tensor],
    numbers: dict[str, Any],
) -> None:
    """Launch a configuration, whatever it was tuned for.

    Args:
        choice: of the family that has the operator.
        read: what the operator reads, by the names of :func:`dataflow`.
        written: what it writes, by the names of :class:`DataflowResult`.
        numbers: seeds and the rest.
    """
    layout, module = choice.file.layout, template(choice)
    op, x = layout["op"], read["x"]
    block = tuple(layout["block"])
    tensors = {**read, **written}
    tensors["out"], tensors["out_scales"] = tensors.pop("codes"), tensors.pop("scales")
    if choice.file.kernel == KERNELS[0]:
        names = {"other": "dy", "other_scales": "dy_scales"}
        tensors = {names.get(name, name): tensor for name, tensor in tensors.items()}
    elif op.endswith("-bwd"):
        shape = (x.shape[0], x.shape[1])
        work = module.partial_sums(op=op, shape=shape, block=block, config=choice.config)
        tensors["partials"] = torch.empty(work, dtype=torch.float32, device=x.device)
    with torch.cuda.device(x.device):
        module.launch(
            **{name: view(tensor) for name, tensor in tensors.items()},
            op=op,
            element=layout["element"],
            block=block,
            stochastic=layout["stochastic"],
            config=choice.config,
            stream=stream(x.device),
            **numbers,
        )


def _empty(op: str, x: Tensor, *told: Any) -> list[Tensor]:
    # Behind the other seven tensors stands the format.
    return empty(x, _SERVED[op, told[7]][1])


_make = making(
    "dataflow",
    "(str op, Tensor x, Tensor x_scales, Tensor? other, Tensor? other_scales, Tensor? mean, "
    "Tensor? variance, Tensor? gamma, Tensor? beta, str format, SymInt? seed, float probability, "
    "SymInt mask_seed, float epsilon) -> Tensor[]",
    empty=_empty,
    launch=_launch,
)
