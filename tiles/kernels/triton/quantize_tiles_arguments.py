"""What a launch of the tile quantisation takes: checked before anything is compiled or run."""

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
    STORED,
    check_codes,
    check_levels,
    check_names,
    check_reach,
    check_scales,
    check_tensor_scale,
    whole_words,
)
from .tile_elements import constants
from .tile_packing import WORD_CODES
from .tile_random import seed_words

__all__ = ["FIELDS", "Request", "kernel_constants", "request"]

SOURCES = (torch.bfloat16, torch.float16, torch.float32)
FIELDS = ("block_rows", "block_cols", "num_warps", "software_cast")
RULES = {"e8m0fnu": ("floor", "ceil", "rceil", "even"), "e4m3fn": ("absmax",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Arguments of a launch that fit together."""

    x: torch.Tensor
    codes: torch.Tensor
    scales: torch.Tensor
    codes_t: torch.Tensor | None
    scales_t: torch.Tensor | None
    tensor_scale: torch.Tensor | None
    element: str
    block: tuple[int, int]  #: as given: 0 for a whole extent
    stored: str
    rule: str
    seed: int | None
    swizzled: bool
    config: Mapping[str, int | bool]

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a program's tile."""
        return self.config["block_rows"], self.config["block_cols"]

    @property
    def one_scale(self) -> bool:
        """True where one scale serves the whole tensor."""
        return self.block == (0, 0)

    @property
    def shared(self) -> bool:
        """True where the transposed copy has the same codes and scales."""
        return self.one_scale or self.block[0] == self.block[1]

    @property
    def padded_scales(self) -> list[torch.Tensor]:
        """Swizzled scales with padding in their tiles, which no program writes."""
        found = []
        rows, cols = self.x.shape
        for scales, shape in ((self.scales, (rows, cols)), (self.scales_t, (cols, rows))):
            if self.swizzled and scales is not None:
                grid = [
                    -(-extent // under) for extent, under in zip(shape, self.block, strict=True)
                ]
                if scales.numel() != grid[0] * grid[1]:
                    found.append(scales)
        return found

    @property
    def scale_strides(self) -> tuple[int, int, int, int]:
        """Row and column strides of both scale tensors; 0 where they are swizzled or not there."""
        strides: list[int] = []
        for scales in (self.scales, self.scales_t):
            strides += [0, 0] if scales is None or scales.ndim != 2 else scales.stride()
        return strides[0], strides[1], strides[2], strides[3]

    @property
    def seed_words(self) -> tuple[int, int]:
        """The seed as two signed 32-bit integers."""
        return seed_words(self.seed or 0)


def _held_block(block: tuple[int, int], tile: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns under one scale as powers of two that a tile consists of."""
    if block == (0, 0):
        return tile
    return block[0], block[1] or tile[1]


def _check_config(config: Mapping[str, int | bool]) -> None:
    check_fields(config, FIELDS)
    for name in FIELDS[:3]:
        check_power_of_two(name, config[name])


def _check_blocks(asked: Request) -> None:
    block, tile = asked.block, asked.tile
    shape = (asked.x.shape[0], asked.x.shape[1])
    whole_row = block == (1, 0)
    if not (asked.one_scale or whole_row or all(map(power_of_two, block))):
        raise ValueError(
            f"block = {block}: extents are powers of two, (1, 0) for a row, (0, 0) for all"
        )
    if whole_row and tile[1] < shape[1]:
        raise ValueError(f"block_cols = {tile[1]}: a tile must hold whole rows of {shape[1]}")
    if asked.one_scale or whole_row:
        fits = True
    else:
        both = [block] if asked.codes_t is None else [block, (block[1], block[0])]
        fits = all(tile[0] % rows == 0 and tile[1] % cols == 0 for rows, cols in both)
    if not fits:
        raise ValueError(
            f"tile {tile[0]}x{tile[1]} does not consist of whole {block[0]}x{block[1]} blocks: "
            "choose block_rows and block_cols accordingly"
        )
    if whole_row and asked.codes_t is not None:
        raise ValueError("a scale a row has no transposed copy in one pass: columns are not held")
    bits = int(constants(asked.element)["BITS"])
    least = WORD_CODES.get(bits, 1)
    if min(tile if asked.codes_t is not None else tile[1:]) < least:
        raise ValueError(f"tile {tile[0]}x{tile[1]}: codes of {bits} bits take at least {least}")
    check_reach(tile, shape, transposed=asked.codes_t is not None)


def request(
    x: torch.Tensor,
    codes: torch.Tensor,
    scales: torch.Tensor,
    *,
    element: str,
    block: tuple[int, int],
    stored: str = "fp32",
    rule: str = "absmax",
    tensor_scale: torch.Tensor | None = None,
    seed: int | None = None,
    swizzled: bool = False,
    codes_t: torch.Tensor | None = None,
    scales_t: torch.Tensor | None = None,
    config: Mapping[str, int | bool],
) -> Request:
    """Check the arguments of ``quantize_tiles.launch``, which describes them.

    Raises:
        ValueError: shapes, strides, devices, overlap, names or the configuration do not fit.
        TypeError: dtypes.
    """
    _check_config(config)
    check_names(element, stored)
    rules = RULES.get(stored, ("absmax", "pow2"))
    if rule not in rules:
        raise ValueError(f"rule {rule!r} of {stored} scales: choose one of {', '.join(rules)}")
    check_levels(stored, tensor_scale)
    for name, tensor in (("x", x), ("codes", codes), ("scales", scales)):
        check_given(name, tensor)
    if x.dtype not in SOURCES:
        raise TypeError(f"x has dtype {x.dtype}: it must be bfloat16, float16 or float32")
    check_matrix("x", x)
    rows, cols = x.shape
    block = (block[0], block[1])
    if (0 in block and block not in ((0, 0), (1, 0))) or min(block) < 0:
        raise ValueError(
            f"block = {block}: extents are powers of two, (1, 0) for a row, (0, 0) for all"
        )
    if swizzled and (STORED[stored] != torch.uint8 or 0 in block):
        raise ValueError(f"swizzled: only one-byte scales of blocks are, not {stored} of {block}")
    if codes_t is None and scales_t is not None:
        raise ValueError("scales_t without codes_t: pass both")
    if codes_t is not None and (scales_t is None) != (block == (0, 0)):
        raise ValueError("codes_t takes scales_t, except where one scale serves the tensor")
    check_codes("codes", codes, rows, cols, element)
    check_scales("scales", scales, (rows, cols), block, stored, swizzled)
    read, written = {"x": x}, {"codes": codes, "scales": scales}
    if codes_t is not None:
        check_codes("codes_t", codes_t, cols, rows, element)
        written["codes_t"] = codes_t
    if scales_t is not None:
        check_scales("scales_t", scales_t, (cols, rows), block, stored, swizzled)
        written["scales_t"] = scales_t
    if tensor_scale is not None:
        check_tensor_scale(tensor_scale)
        written["tensor_scale"] = tensor_scale
    check_memory(written, read)
    if seed is not None:
        seed_words(seed)
    asked = Request(
        x=x,
        codes=codes.view(torch.uint8),
        scales=scales,
        codes_t=None if codes_t is None else codes_t.view(torch.uint8),
        scales_t=scales_t,
        tensor_scale=tensor_scale,
        element=element,
        block=block,
        stored=stored,
        rule=rule,
        seed=seed,
        swizzled=swizzled,
        config=config,
    )
    _check_blocks(asked)
    return asked


def kernel_constants(asked: Request) -> dict[str, Any]:
    """Constants that ``_quantize_tiles`` is compiled with."""
    rows, cols = asked.x.shape
    tile = asked.tile
    own = constants(asked.element)
    block = _held_block(asked.block, tile)
    bits = int(own["BITS"])
    top = float(own["CODE_MAX"])
    word = int(torch.tensor(top, dtype=torch.float32).view(torch.int32).item())
    words_t = asked.codes_t is not None and whole_words(asked.codes_t, rows, bits)
    return own | {
        "TILE_ROWS": tile[0],
        "TILE_COLS": tile[1],
        "BLOCK_ROWS": block[0],
        "BLOCK_COLS": block[1],
        "EVEN": rows % tile[0] == 0 and cols % tile[1] == 0,
        "WORDS": whole_words(asked.codes, cols, bits),
        "GROUPED": cols % 8 == 0 and tile[1] % 8 == 0,
        "WORDS_T": words_t,
        "GROUPED_T": rows % 8 == 0 and tile[0] % 8 == 0,
        "TRANSPOSED": asked.codes_t is not None,
        "SHARED": asked.shared,
        "SWIZZLED": asked.swizzled,
        "STORED": asked.stored,
        "RULE": asked.rule,
        "ONE_SCALE": asked.one_scale,
        "TWO_LEVEL": asked.tensor_scale is not None,
        "SHORT": asked.x.dtype != torch.float32,
        "CODE_EXPONENT": (word >> 23) - 127,
        "CODE_MANTISSA": word & 0x7FFFFF,
        # Of an integer, the bits below the leading one of the largest.
        "KEPT_MANTISSA": bits - 2 if own["INTEGER"] else own["MANTISSA"],
        "STOCHASTIC": asked.seed is not None,
        "ASSEMBLY": asked.x.device.type != "cpu",  # Triton's interpreter runs no PTX
        "SOFTWARE": bool(asked.config["software_cast"]),
        # Of bf16 and fp16, fp32 absmax scales leave no quotient so far beyond the largest integer
        # that it is rounded to another.
        "CLAMP": not (asked.stored == "fp32" and asked.x.dtype != torch.float32),
        "num_warps": asked.config["num_warps"],
    }
