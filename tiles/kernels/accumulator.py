"""What the accumulators of tensor cores keep: one place for figures that bounds and models share.

Source: DeepSeek-V3 technical report, arXiv 2412.19437: "around 14 bits" (section 3.3.2), 32
products of an instruction aligned to the largest and cut to "the highest 14 bits" (section 3.5.2).
"""

__all__ = ["HOPPER_FP8_BITS", "HOPPER_FP8_DEPTH"]

#: Significand bits that Hopper keeps of each addend of a sum of 8-bit floats.
HOPPER_FP8_BITS = 14
#: Elements along K of one wgmma instruction on 8-bit floats.
HOPPER_FP8_DEPTH = 32
