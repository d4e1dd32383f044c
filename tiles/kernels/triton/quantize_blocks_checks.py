"""What a launch of the block quantisation refuses before anything runs."""

import torch

from .launch_checks import (
    check_fields,
    check_given,
    check_matrix,
    check_memory,
    check_power_of_two,
)

__all__ = ["CODE_MAX", "check_arguments"]

#: Largest finite value of each code dtype.
CODE_MAX = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}
SOURCES = (torch.bfloat16, torch.float16, torch.float32)
FIELDS = ("block_rows", "block_cols", "num_warps", "num_stages", "software_cast")


def check_arguments(x, codes, scales, block, config) -> None:
    """Refuse what ``quantize_blocks.launch`` does not take.

    Raises:
        ValueError, TypeError: names the argument and the rule.
    """
    check_fields(config, FIELDS)
    for name in ("block_rows", "block_cols", "num_warps"):
        check_power_of_two(name, config[name])
    if config["num_stages"] < 1:
        raise ValueError(f"num_stages = {config['num_stages']}: it must be at least 1")
    for name, tensor in (("x", x), ("codes", codes), ("scales", scales)):
        check_given(name, tensor)
    if x.dtype not in SOURCES:
        raise TypeError(f"x has dtype {x.dtype}: it must be bfloat16, float16 or float32")
    if codes.dtype not in CODE_MAX:
        raise TypeError(
            f"codes have dtype {codes.dtype}: they must be int8, float8_e4m3fn or float8_e5m2"
        )
    if scales.dtype != torch.float32:
        raise TypeError(f"scales have dtype {scales.dtype}: they must be float32")
    check_matrix("x", x)
    if codes.shape != x.shape:
        raise ValueError(f"codes have shape {tuple(codes.shape)}: x has {tuple(x.shape)}")
    check_matrix("codes", codes)
    if min(block) < 0:
        raise ValueError(f"block = {tuple(block)}: extents are positive, or 0 for the whole extent")
    grid = tuple(-(-n // b) if b else 1 for n, b in zip(x.shape, block))  # noqa: B905
    if tuple(scales.shape) != grid:
        raise ValueError(
            f"scales have shape {tuple(scales.shape)}: blocks of {tuple(block)} on x "
            f"{tuple(x.shape)} need {grid}"
        )
    check_memory({"codes": codes, "scales": scales}, {"x": x})
