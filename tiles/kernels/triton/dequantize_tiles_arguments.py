"""What a launch of the dequantisation takes: checked once, before anything is compiled or run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .launch_checks import (
    check_fields,
    check_given,
    check_matrix,
    check_memory,
    check_power_of_two,
    power_of_two,
)
from .tile_checks import (
    WHOLE,
    check_codes,
    check_levels,
    check_names,
    check_reach,
    check_scales,
    check_tensor_scale,
    check_whole,
    whole_words,
)
from .tile_elements import constants
from .tile_packing import WORD_CODES

__all__ = ["FIELDS", "Request", "kernel_constants", "request"]

OUTPUTS = (torch.bfloat16, torch.float16, torch.float32)
FIELDS = ("block_rows", "block_cols", "num_warps", "software_cast")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Arguments of a launch that fit together."""

    codes: torch.Tensor
    scales: torch.Tensor
    out: torch.Tensor
    tensor_scale: torch.Tensor | None
    element: str
    block: tuple[int, int]
    stored: str
    swizzled: bool
    config: Mapping[str, int | bool]

    @property
    def scale_strides(self) -> tuple[int, int]:
        """Row and column strides of the scales; 0 where they are swizzled."""
        if self.swizzled:
            return 0, 0
        return self.scales.stride(0), self.scales.stride(1)


def request(
    codes: torch.Tensor,
    scales: torch.Tensor,
    out: torch.Tensor,
    *,
    element: str,
    block: tuple[int, int],
    stored: str = "fp32",
    tensor_scale: torch.Tensor | None = None,
    swizzled: bool = False,
    config: Mapping[str, int | bool],
) -> Request:
    """Check the arguments of ``dequantize_tiles.launch``, which describes them.

    Raises:
        ValueError: shapes, strides, devices, overlap, names or the configuration do not fit.
        TypeError: dtypes.
    """
    check_fields(config, FIELDS)
    for name in FIELDS[:3]:
        check_power_of_two(name, config[name])
    check_names(element, stored)
    check_levels(stored, tensor_scale)
    for name, tensor in (("codes", codes), ("scales", scales), ("out", out)):
        check_given(name, tensor)
    if out.dtype not in OUTPUTS:
        raise TypeError(f"out has dtype {out.dtype}: it must be bfloat16, float16 or float32")
    check_matrix("out", out)
    block = (block[0], block[1])
    if not all(extent == 0 or power_of_two(extent) for extent in block):
        raise ValueError(f"block = {block}: extents are powers of two, or 0 for a whole extent")
    if swizzled and (stored not in ("e8m0fnu", "e4m3fn") or 0 in block):
        raise ValueError(f"swizzled: only one-byte scales of blocks are, not {stored} of {block}")
    rows, cols = out.shape
    check_codes("codes", codes, rows, cols, element)
    check_whole("out", (rows, cols), block)
    check_scales("scales", scales, (rows, cols), block, stored, swizzled)
    read = {"codes": codes, "scales": scales}
    if tensor_scale is not None:
        check_tensor_scale(tensor_scale)
        read["tensor_scale"] = tensor_scale
    check_memory({"out": out}, read)
    tile = (config["block_rows"], config["block_cols"])
    least = WORD_CODES.get(int(constants(element)["BITS"]), 1)
    if tile[1] < least:
        raise ValueError(f"block_cols = {tile[1]}: packed codes of {element} take at least {least}")
    check_reach(tile, (rows, cols), transposed=False)
    return Request(
        codes=codes.view(torch.uint8),
        scales=scales,
        out=out,
        tensor_scale=tensor_scale,
        element=element,
        block=block,
        stored=stored,
        swizzled=swizzled,
        config=config,
    )


def kernel_constants(asked: Request) -> dict[str, Any]:
    """Constants that ``_dequantize_tiles`` is compiled with."""
    rows, cols = asked.out.shape
    own = constants(asked.element)
    tile = (asked.config["block_rows"], asked.config["block_cols"])
    scale_rows, scale_cols = (extent or WHOLE for extent in asked.block)
    return own | {
        "TILE_ROWS": tile[0],
        "TILE_COLS": tile[1],
        "SCALE_ROWS": scale_rows,
        "SCALE_COLS": scale_cols,
        "BLOCK_ROWS": min(tile[0], scale_rows),
        "BLOCK_COLS": min(tile[1], scale_cols),
        "EVEN": rows % tile[0] == 0 and cols % tile[1] == 0,
        "WORDS": whole_words(asked.codes, cols, int(own["BITS"])),
        "SWIZZLED": asked.swizzled,
        "STORED": asked.stored,
        "TWO_LEVEL": asked.tensor_scale is not None,
        "SOFTWARE": bool(asked.config["software_cast"]),
        "num_warps": asked.config["num_warps"],
    }
