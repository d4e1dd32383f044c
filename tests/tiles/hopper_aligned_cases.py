"""Configurations of Hopper's product of aligned MX operands."""

from tiles.kernels.hopper_aligned_gemm import HopperAlignedConfig


def config(**fields: int) -> HopperAlignedConfig:
    plain = {"block_m": 256, "block_n": 128, "stages": 4, "cluster": 1, "group_m": 8}
    return HopperAlignedConfig.from_dict(plain | {"store_buffers": 1} | fields)
