"""All kernel families by name; others join through the ``tile_workbench.kernels`` entry point."""

import difflib
from functools import cache
from typing import Any

from tiles.entry_points import offered
from tiles.intake import check_text
from tiles.kernels.base import Kernel

__all__ = ["kernel", "kernels"]

ENTRY_POINT = "tile_workbench.kernels"


@cache
def kernels() -> dict[str, Kernel]:
    """Every kernel family, the workbench's own first.

    Raises:
        ValueError: two families share a name, or an entry point is no :class:`Kernel` or
            cannot be loaded.
    """
    from tiles.kernels.batched_gemm import TritonBatchedGemm
    from tiles.kernels.cuda_quantize import CudaQuantize
    from tiles.kernels.cuda_quantize_nvfp4 import CudaQuantizeNvfp4
    from tiles.kernels.cuda_transpose import CudaTranspose
    from tiles.kernels.dataflow_blocks import CudaDataflowBlocks
    from tiles.kernels.dataflow_rows import CudaDataflowRows
    from tiles.kernels.decoded_gemm import TritonDecodedGemm
    from tiles.kernels.dequantize import TritonDequantize
    from tiles.kernels.gemm import TritonGemm
    from tiles.kernels.grouped_gemm import TritonGroupedGemm
    from tiles.kernels.hopper_aligned_gemm import HopperAlignedGemm
    from tiles.kernels.hopper_block_gemm import HopperBlockGemm
    from tiles.kernels.hopper_gemm import HopperGemm
    from tiles.kernels.hopper_grouped_gemm import HopperGroupedGemm
    from tiles.kernels.hopper_skinny import HopperSkinnyGemm
    from tiles.kernels.hopper_weight_only import HopperWeightOnly
    from tiles.kernels.hopper_weight_prefill import HopperWeightPrefill
    from tiles.kernels.outlier_gemm import TritonOutlierGemm
    from tiles.kernels.quantize import TritonQuantize
    from tiles.kernels.quantize_tiles import TritonQuantizeTiles
    from tiles.kernels.transpose import TritonTranspose
    from tiles.kernels.weight_only import TritonWeightOnly

    found: dict[str, Kernel] = {}
    own: tuple[Kernel, ...] = (
        TritonGemm(),
        HopperGemm(),
        HopperBlockGemm(),
        HopperAlignedGemm(),
        TritonWeightOnly(),
        HopperWeightOnly(),
        HopperWeightPrefill(),
        HopperSkinnyGemm(),
        TritonDecodedGemm(),
        TritonOutlierGemm(),
        TritonQuantize(),
        CudaQuantize(),
        CudaQuantizeNvfp4(),
        TritonQuantizeTiles(),
        TritonDequantize(),
        TritonTranspose(),
        CudaTranspose(),
        CudaDataflowBlocks(),
        CudaDataflowRows(),
        TritonBatchedGemm(),
        TritonGroupedGemm(),
        HopperGroupedGemm(),
    )
    for candidate in (*own, *(_made(where, make) for where, make in offered(ENTRY_POINT))):
        if not isinstance(candidate, Kernel):
            raise ValueError(f"entry point {ENTRY_POINT}: {candidate!r} is not a Kernel")
        if candidate.name in found:
            raise ValueError(f"entry point {ENTRY_POINT}: kernel name {candidate.name!r} is taken")
        found[candidate.name] = candidate
    return found


def _made(where: str, make: Any) -> Any:
    """The family that an entry point's class, or function without arguments, makes."""
    try:
        return make()
    except TypeError as error:  # not callable, abstract, or it takes arguments
        raise ValueError(
            f"entry point {ENTRY_POINT}: {where} cannot be called ({error}): name a Kernel's class"
        ) from error


def kernel(name: str) -> Kernel:
    """Look a kernel family up by name.

    Raises:
        ValueError: no such family; the message names the nearest and lists all.
        TypeError: not a text.
    """
    check_text("a kernel", name)
    try:
        return kernels()[name]
    except KeyError:
        near = difflib.get_close_matches(name, kernels(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(
            f"unknown kernel {name!r}: {hint}choose from {', '.join(kernels())}"
        ) from None
