"""Descriptors of the block quantisation kernels, in Triton and in CUDA C++ for CuPy."""

from dataclasses import dataclass

from tiles.kernels.config import TileConfig

__all__ = ["CudaQuantizeConfig", "TritonQuantizeConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonQuantizeConfig(TileConfig):
    """One configuration of the Triton quantisation kernel."""

    block_rows: int  #: tile rows of one program, elements
    block_cols: int  #: tile columns of one program (or of one step along a row), elements
    num_warps: int
    num_stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaQuantizeConfig(TileConfig):
    """One configuration of the CUDA C++ quantisation kernel."""

    threads: int  #: threads of a CTA
    vector: int  #: elements a thread loads at once: 16-byte accesses are 8 bf16 elements
    blocks_per_cta: int  #: quantisation blocks that one CTA handles
