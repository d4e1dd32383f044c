"""Scaled matrix products of CuPy arrays on GPUs of capability 9.0; needs NumPy and CuPy alone."""

from typing import Any

import cupy

from ._lookup import choose, layouts, template

__all__ = ["gemm"]

KERNELS = ("hopper_gemm", "hopper_block_gemm", "hopper_skinny_gemm")
CAPABILITY = "90"
#: CuPy has no bfloat16: its bits travel as uint16.
_OUTPUTS = {"bf16": "uint16", "fp16": "float16", "fp32": "float32"}


def _takes(kernel: str, formats: tuple[str, ...]) -> bool:
    """Whether a kernel has the formats, and float32 scales: MX bytes are ``gemm_packed``'s."""
    layout = layouts(kernel).get(formats)
    return layout is not None and layout["scales"] != "mx"


#: The kernels of the package by formats, the one whose defaults count first.
_KERNELS = {
    formats: tuple(name for name in KERNELS if _takes(name, formats))
    for kernel in KERNELS
    for formats in layouts(kernel)
    if formats[1] in _OUTPUTS and _takes(kernel, formats)
}

_device_facts: dict[int, tuple[str, str]] = {}


def gemm(
    a: Any,
    b: Any,
    a_scale: Any = None,
    b_scale: Any = None,
    *,
    recipe: str,
    out_format: str = "bf16",
    out: Any = None,
    stream: Any = None,
) -> Any:
    """``C[M, N] = A[M, K] · B[N, K]^T`` of the values ``code x scale``.

    Args:
        a: (M, K), b: (N, K) CuPy arrays, K contiguous, rows at multiples of 16 bytes: int8,
            float16, or the bits of bfloat16 as uint16 and of 8-bit floats as uint8.
        a_scale, b_scale: float32, one scale a block on the recipe's grid, row-major; 1xB scales of
            A, and of B where both have them, have M (N) contiguous and columns at multiples of 16
            bytes.  ``None`` where the recipe has no scales.  A NaN scale makes every product of
            its block NaN.
        recipe: a recipe that the package was emitted with for this kernel.
        out_format: "bf16", "fp16" or "fp32", one that the package was emitted with.
        out: (M, N) array to write into, bfloat16 as uint16; any content is overwritten.
        stream: CuPy stream; default the current one.
    Returns:
        C (M, N), or ``out``.
    Raises:
        ValueError: unknown recipe or output, wrong shape, strides or device, or a GPU of another
            capability.
        TypeError: wrong dtype, or no CuPy array.
    """
    kernels = _KERNELS.get((recipe, out_format))
    if kernels is None:
        known = ", ".join(f"{name} -> {plain}" for name, plain in _KERNELS)
        raise ValueError(
            f"no gemm for recipe {recipe!r} and output {out_format!r}: there is {known}"
        )
    given = {"a_scale": a_scale, "b_scale": b_scale, "out": out}
    optional = {name: operand for name, operand in given.items() if operand is not None}
    for name, operand in {"a": a, "b": b, **optional}.items():
        if not isinstance(operand, cupy.ndarray):
            raise TypeError(f"{name} is {type(operand).__name__}: it must be a CuPy array")
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"gemm takes a (M, K) and b (N, K), got {a.shape} and {b.shape}")
    device, capability = _facts(a.device.id)
    if capability != CAPABILITY:
        raise ValueError(
            f"{device} has capability {capability}, this kernel is for {CAPABILITY}: use the torch "
            "function gemm, which has another one"
        )
    (m, k), n = a.shape, b.shape[0]
    with a.device:
        if out is None:
            out = cupy.empty((m, n), _OUTPUTS[out_format])
        if m:
            first, *others = kernels
            choice = choose(first, (recipe, out_format), (n, k), m, device, tuple(others))
            layout = choice.file.layout
            template(choice).launch(
                a,
                b,
                out,
                a_scale,
                b_scale,
                element=layout["a_element"],
                out=out_format,
                scales=layout["scales"],
                config=choice.config,
                stream=stream,
            )
    return out


def _facts(device: int) -> tuple[str, str]:
    """The driver's name of a device, and its capability."""
    facts = _device_facts.get(device)
    if facts is None:
        properties = cupy.cuda.runtime.getDeviceProperties(device)
        capability = cupy.cuda.Device(device).compute_capability
        facts = _device_facts[device] = (properties["name"].decode(), capability)
    return facts
