"""The clock of the multiprocessors: how far the power limit holds it down.

A launch draws the more power the busier its tensor cores are and the more bytes it moves; where the
board would exceed its limit, the clock falls until it does not.  Between 1.98 and 1.4 GHz the
readings below are met by power in proportion to the clock, as at a voltage that hardly changes.

Met are NVML's readings beside 239 products of 8192 cubed on an H200 (``evidence/h200/square``), by
this project, November 2026: with the tensor cores 87 % busy bf16 ran at 1538 MHz, e4m3 (83 %) at
1490, int8 (87 %) at 1628, int8 in blocks (56 %) at 1811; beside shorter launches the readings fall
between them as often as into them.  How tensor cores, CUDA cores and memory divide that power was
set on times: those of ``hopper_gemm`` and ``triton_gemm`` on the shapes in view of all sets of
``data/h200``, and of the CUDA cores' part, which these hardly tell, on the power readings beside
``hopper_block_gemm``.  The power of the L2 told nothing beside DRAM's.  That of other operands than
random ones is left out.
"""

import numpy as np
from numpy.typing import NDArray

from sim.gpu import Gpu
from tiles.formats import FloatElement, IntElement
from tiles.formats import element as lookup

__all__ = [
    "BASE_SHARE",
    "NOMINAL_UTILISATION",
    "clock_ghz",
    "cores_share",
    "drawn_share",
    "element_power",
    "memory_share",
]

F64 = NDArray[np.float64]

#: Busy tensor cores' share of the clocks in large dense products, at which the sustained clock of
#: a GPU holds.
NOMINAL_UTILISATION = 0.85
#: Power that tensor cores, busy throughout, add, as a share of a large dense product's; and fp32
#: multiply-adds and conversions of promotion.
TENSOR_POWER, CUDA_CORE_POWER = 0.5, 0.24
#: What large products draw beside both, as a share of the limit: 1 is drawn at the sustained clock.
BASE_SHARE = 1.0 - TENSOR_POWER * NOMINAL_UTILISATION
#: Power of products a busy clock, as a multiple of 16-bit floats'.
INTEGER_POWER, NARROW_FLOAT_POWER = 0.88, 1.07
#: Of a byte to or from DRAM beside a large product, in picojoules; a stream's, in whose launch
#: nothing else draws power, takes more of the board (:mod:`sim.energy`).
MEMORY_PJ_PER_BYTE = 35.0


def element_power(name: str) -> float:
    """Power of a clock of products in that element, as a multiple of 16-bit floats'."""
    one = lookup(name)
    if isinstance(one, IntElement):
        return INTEGER_POWER
    return NARROW_FLOAT_POWER if isinstance(one, FloatElement) and one.bits <= 8 else 1.0


def drawn_share(*, element: str, tensor_busy: F64, cuda_cores_busy: F64) -> F64:
    """Power at the sustained clock, as a share of the limit.

    Args:
        element: what the tensor cores multiply.
        tensor_busy, cuda_cores_busy: shares of the clocks, products' and promotion's.
    """
    cores = cores_share(element=element, tensor_busy=tensor_busy, cuda_cores_busy=cuda_cores_busy)
    return BASE_SHARE + cores


def cores_share(*, element: str, tensor_busy: F64, cuda_cores_busy: F64) -> F64:
    """What tensor and CUDA cores draw of it; arguments as in :func:`drawn_share`."""
    products = TENSOR_POWER * element_power(element) * np.minimum(tensor_busy, 1.0)
    share: F64 = products + CUDA_CORE_POWER * np.minimum(cuda_cores_busy, 1.0)
    return share


def memory_share(gpu: Gpu, dram_bytes_per_clk: F64 | float) -> F64:
    """What the memory draws at the highest clock, as a share of the limit.

    Args:
        dram_bytes_per_clk: that a launch moves in a clock of its own, at most DRAM's bandwidth at
            the sustained clock.
    """
    most = gpu.dram_gb_per_s / (gpu.sustained_clock_mhz / 1e3)
    pj_per_clk = MEMORY_PJ_PER_BYTE * np.minimum(dram_bytes_per_clk, most)
    share: F64 = pj_per_clk * (gpu.max_clock_mhz / 1e3) / (gpu.tdp_w * 1e3)  # pJ / ns = mW
    return share


def clock_ghz(
    gpu: Gpu,
    *,
    element: str,
    tensor_busy: F64,
    cuda_cores_busy: F64,
    dram_bytes_per_clk: F64 | float = 0.0,
) -> F64:
    """GHz that launches run at, the GPU's highest where power is no matter.

    Args:
        element: what the tensor cores multiply.
        tensor_busy, cuda_cores_busy: shares of the clocks, products' and promotion's.
        dram_bytes_per_clk: as in :func:`memory_share`.
    """
    drawn = drawn_share(element=element, tensor_busy=tensor_busy, cuda_cores_busy=cuda_cores_busy)
    over = gpu.max_clock_mhz / gpu.sustained_clock_mhz
    drawn_at_most = over * drawn + memory_share(gpu, dram_bytes_per_clk)
    ghz: F64 = gpu.max_clock_mhz / 1e3 / np.maximum(drawn_at_most, 1.0)
    return ghz
