"""Configurations of the Hopper GEMM with scales in blocks."""

from tiles.kernels.hopper_block_gemm import HopperBlockGemmConfig


def config(**fields: int) -> HopperBlockGemmConfig:
    plain = {"block_m": 128, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 4}
    plain |= {"store_buffers": 1, "consumers": 2, "sets": 2, "parts": 1, "spread": False, "run": 1}
    return HopperBlockGemmConfig.from_dict(plain | fields)
