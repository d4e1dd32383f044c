"""What launchers refuse whatever they launch: configurations, devices, overlap, unaligned rows."""

from collections.abc import Mapping, Sequence

import torch
import triton.language as tl

__all__ = [
    "MAX_INT32_K",
    "OUTPUTS",
    "check_aligned_rows",
    "check_current_device",
    "check_fields",
    "check_given",
    "check_integer_sums",
    "check_matrix",
    "check_memory",
    "check_numbers",
    "check_one_device",
    "check_overlap",
    "check_power_of_two",
    "check_tile_config",
    "power_of_two",
]

#: Triton's types of the outputs that products have.
OUTPUTS = {
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
    torch.float32: tl.float32,
}
#: Products of int8 codes, [-127, 127], that an int32 sum surely holds.
MAX_INT32_K = (2**31 - 1) // 127**2


def power_of_two(extent: int) -> bool:
    """True for 1, 2, 4, ..."""
    return extent > 0 and extent & (extent - 1) == 0


def check_power_of_two(name: str, value: int, least: int = 1) -> None:
    """Refuse an extent that is no power of two, or too small.

    Raises:
        ValueError: names it.
    """
    if not power_of_two(value) or value < least:
        beside = f", at least {least}" if least > 1 else ""
        raise ValueError(f"{name} = {value}: it must be a power of two{beside}")


def check_fields(config: Mapping[str, int | bool], fields: Sequence[str]) -> None:
    """Refuse a configuration with other fields than the kernel has.

    Raises:
        ValueError: names the first one.
    """
    if set(config) != set(fields):
        wrong = sorted(set(config) ^ set(fields))
        raise ValueError(f"config: wrong or missing field {wrong[0]!r}, need {', '.join(fields)}")


def check_tile_config(config: Mapping[str, int | bool], least: Mapping[str, int]) -> None:
    """Refuse tiles, warps and stages that no kernel is compiled with.

    Args:
        least: the smallest extent by the field's name; extents are powers of two.
    Raises:
        ValueError: names the field.
    """
    for name, smallest in {**least, "num_warps": 1}.items():
        check_power_of_two(name, int(config[name]), smallest)
    for name in ("group_m", "num_stages"):
        if int(config[name]) < 1:
            raise ValueError(f"{name} = {config[name]}: it must be at least 1")


def check_given(name: str, value: object) -> None:
    """Refuse what is no tensor, or is missing.

    Raises:
        TypeError: names it.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is {type(value).__name__}: it must be a torch tensor")


def check_matrix(name: str, tensor: torch.Tensor) -> None:
    """Refuse what is no contiguous matrix.

    Raises:
        TypeError: no tensor; ValueError: names it.
    """
    check_given(name, tensor)
    if tensor.ndim != 2 or tensor.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: it must be a non-empty matrix")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} has strides {tensor.stride()}: it must be contiguous")


def check_numbers(name: str, tensor: torch.Tensor) -> None:
    """Refuse what is no contiguous matrix of numbers that kernels read and write.

    Raises:
        TypeError: no tensor, or its dtype; ValueError: shape or strides.
    """
    check_given(name, tensor)
    if tensor.dtype not in OUTPUTS:
        raise TypeError(f"{name} has dtype {tensor.dtype}: it must be bfloat16, float16 or float32")
    check_matrix(name, tensor)


def check_integer_sums(
    dtype: torch.dtype, k: int, a_block: tuple[int, int] | None, b_block: tuple[int, int] | None
) -> None:
    """Refuse int8 products whose int32 sums could overflow; promoted ones begin anew every block.

    Raises:
        ValueError: K is too long.
    """
    promoted = any(block is not None and block[1] for block in (a_block, b_block))
    if dtype == torch.int8 and not promoted and k > MAX_INT32_K:
        raise ValueError(
            f"K = {k}: int32 sums of int8 products could overflow past {MAX_INT32_K}, take scales "
            "of blocks along K"
        )


def check_current_device(name: str, tensor: torch.Tensor) -> None:
    """Refuse memory of another GPU than the current one, where Triton launches.

    Raises:
        ValueError: names both.
    """
    device = tensor.device
    if device.type == "cuda" and device.index != (current := torch.cuda.current_device()):
        raise ValueError(
            f"{name} lies on {device}, the current device is cuda:{current}: launch within "
            f"torch.cuda.device({device.index})"
        )


def check_one_device(named: Mapping[str, torch.Tensor]) -> None:
    """Refuse tensors on several devices, or on another GPU than the current one.

    Raises:
        ValueError: names them all.
    """
    devices = {name: tensor.device for name, tensor in named.items()}
    if len(set(devices.values())) > 1:
        text = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"{text}: they must share one device")
    for name, tensor in named.items():
        check_current_device(name, tensor)


def check_memory(
    written: Mapping[str, torch.Tensor | None], read: Mapping[str, torch.Tensor | None]
) -> None:
    """Refuse tensors on other devices, and outputs that share memory; ``None`` is absent.

    Raises:
        ValueError: names them.
    """
    given = {**read, **written}
    check_one_device({name: tensor for name, tensor in given.items() if tensor is not None})
    check_overlap(written, read)


def check_overlap(
    written: Mapping[str, torch.Tensor | None], read: Mapping[str, torch.Tensor | None]
) -> None:
    """Refuse outputs whose addresses meet an input's, each other's, or their own elsewhere.

    Those of meta mean nothing.

    Raises:
        ValueError: names one or two of them.
    """
    for name, tensor in written.items():
        if tensor is not None and _folded(tensor):
            raise ValueError(
                f"{name} of shape {tuple(tensor.shape)} has strides {tensor.stride()}: its "
                "elements overlap, what is written needs memory of its own"
            )
    spans = {
        name: _span(tensor)
        for name, tensor in (*read.items(), *written.items())
        if tensor is not None and tensor.device.type != "meta" and tensor.numel()
    }
    for name in written:
        for other in spans:
            if name not in spans or name == other:
                continue
            if spans[name][0] < spans[other][1] and spans[other][0] < spans[name][1]:
                raise ValueError(
                    f"{name} overlaps {other} in its range of addresses: what is written needs "
                    "memory of its own"
                )


def _folded(tensor: torch.Tensor) -> bool:
    """True where two elements may share an address: one extent reaches into the next one's step."""
    reach = 0
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent > 1:
            if stride <= reach:
                return True
            reach += (extent - 1) * stride
    return False


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Addresses from the first byte of a tensor to behind its last."""
    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    return start, start + (reach + 1) * tensor.element_size()


def check_aligned_rows(name: str, tensor: torch.Tensor) -> None:
    """Refuse rows that a tensor-memory-access descriptor cannot address.

    Raises:
        ValueError: rows do not start at multiples of 16 bytes.
    """
    row_bytes = tensor.stride(-2) * tensor.element_size()
    if tensor.data_ptr() % 16 or row_bytes % 16:
        raise ValueError(
            f"{name}: rows start {row_bytes} B apart from address {tensor.data_ptr():#x}; "
            "tma needs multiples of 16 B, take a config without tma"
        )
