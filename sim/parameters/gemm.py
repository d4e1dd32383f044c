"""Template parameters of the Triton products: scaled, weight-only and decoded ones.

Values of ``triton_gemm`` were fitted to timings of an H200 by this project, November 2026, from
priors that a comment gives where it has a figure: ``data/h200/first_look``,
``evidence/h200/square``, ``data/h200/replay`` at 4096 cubed and 128x7168x2048,
``evidence/h200/llama-3-8b`` with 4096x4096 and 28672x4096 weights at 16 and 512 rows; and again,
with the power of the memory in the clock, to 1227 rows of the first and third of these and of the
shapes in view of ``data/h200/sweeps`` and ``later_sweeps``.  See ``docs/cost-model.md``.
Constants of the other families are guesses where nothing else is said.
"""

from dataclasses import dataclass

from sim.parameters.base import Parameters, fitted

__all__ = [
    "BATCHED",
    "DECODED",
    "GEMM",
    "GROUPED",
    "OUTLIER",
    "WEIGHT_ONLY",
    "BatchedParameters",
    "DecodedParameters",
    "GemmParameters",
    "GroupedParameters",
    "OutlierParameters",
    "WeightOnlyParameters",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmParameters(Parameters):
    """Of ``triton_gemm``: its K loop, its ends, and how its resources share the time."""

    #: Clocks from a CTA's start to its first load: indices, descriptors, barriers.
    setup_clk: float = fitted(280.0, 0.5)
    #: Latency of loads while memory is busy, as a multiple of that of a lone load from DRAM.
    loaded_latency: float = fitted(1.25, 0.2)
    #: Filling and draining the whole device around a kernel.
    device_floor_us: float = fitted(1.4, 0.4)
    #: Barriers of a stage, and issuing its loads and products, beside a running product.
    handshake_clk: float = fitted(10.0, 0.5)
    #: The same in a loop that is not flattened.
    plain_handshake_clk: float = fitted(56.0, 0.4)
    #: Draining a product that the loop waits for, and starting the next.
    drain_clk: float = fitted(407.0, 0.3)
    #: Barriers of a second warpgroup.
    second_group_clk: float = fitted(24.0, 0.5)
    #: A warp's own instructions of an iteration, each waiting for the one before: barriers,
    #: addresses, the loop.  Prior: 240, some 60 instructions of 4 clocks.
    chain_clk: float = fitted(272.0, 0.3)
    #: What more of them waits for a second group of four warps.
    second_chain_clk: float = fitted(130.0, 0.5)
    #: Of them, a stage's mbarrier and asking the copy engine for the next; prior: a handshake of 60
    #: to 100 clocks.
    tma_chain_clk: float = fitted(77.0, 0.5)
    #: Of them, a 16-byte copy of every lane.  Prior: 128 lanes fill a port of 64
    #: bytes for 32 clocks.
    copy_chain_clk: float = fitted(20.0, 0.4)
    #: Of them, 32 bytes of K under ``mma.sync``: fragments are read, and the next product adds to
    #: the sums of the last.  Prior: 33 clocks from product to product on an A100, unverified.
    step_chain_clk: float = fitted(25.0, 0.4)
    #: From a tile's last product to the next one's first, beside what is counted: its drain, the
    #: way of its stores.
    tile_clk: float = fitted(425.0, 0.4)
    #: Issue slots of a thread in an iteration.  Prior: 85, read off compiled loops.
    loop_instructions: float = fitted(95.0, 0.3)
    #: Vectors of scales, asked for an iteration ahead, and not; measured.
    scales_clk: float = fitted(230.0, 0.4)
    late_scales_clk: float = fitted(285.0, 0.4)
    #: Share of the time in which a wave touches its lines first, at DRAM's rate, that shows beside
    #: other resources: everybody waits for them.  A guess of the size that rasters differ by.
    first_touch_exposed: float = fitted(0.13, 0.5)
    #: Of the time in which a lone CTA that promotes leaves the tensor cores idle, n co-resident
    #: ones leave n^-exponent of it idle.
    serial_hidden_exponent: float = fitted(0.82, 0.3)
    #: Instructions for 16 bytes of an operand that cp.async fetches: 64-bit addresses, a predicate,
    #: the copy.  Measured: ordinary loads of bf16 operands.
    copy_instructions: float = fitted(12.5, 0.3)
    #: Share of the shared-memory port's clocks that filling the buffers takes from reading
    #: operands.  Measured: 128 x 128 tiles beside 128 x 256 ones.
    smem_fill_share: float = fitted(0.4, 0.3)
    #: What a request to the L2 costs in bytes.  Measured: 8-bit tiles of 64 columns beside 128.
    request_bytes: float = fitted(105.0, 0.3)
    #: Bytes a clock at which spilled registers reach the L1 cache; half the port.
    spill_bytes_per_clk: float = fitted(64.0, 0.4)
    #: Of the norm that joins resources side by side.
    overlap_exponent: float = fitted(8.0, 0.3)
    #: Instruction counts of promotion, decoding and the epilogue, as a multiple of those counted.
    promotion_share: float = fitted(1.14, 0.2)
    decode_share: float = fitted(0.66, 0.3)
    epilogue_share: float = fitted(0.73, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _ManyProducts(Parameters):
    """Of several products in a launch, beside the plain product's."""

    #: Everything but launches, as a multiple of what the plain product takes.
    work_share: float = fitted(1.0, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchedParameters(_ManyProducts):
    """Of batched products."""

    #: Elements of an 8-bit [K, N] operand that a clock turns into the order of the tensor cores:
    #: the compiler stores them byte by byte, 32 lanes at a time; in rows of 32 bytes, longer ones
    #: meet more conflicts of banks.
    turned_per_clk: float = fitted(32.0, 0.4)
    #: Bytes of a [K, N] operand that a clock brings there without the copy engine: three timings.
    plain_turned_bytes_per_clk: float = fitted(2.35, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedParameters(_ManyProducts):
    """Of grouped products."""

    #: As :class:`_ManyProducts`': set on the shapes in view of ``data/h200/sweeps``, 21 timings of
    #: both families.
    work_share: float = fitted(1.1, 0.2)

    #: Counting tiles of all experts before the first one, from counts in device memory.
    scan_us: float = fitted(1.5, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoding(Parameters):
    """Of K loops that decode an operand on its way to the tensor cores."""

    #: Instructions of a thread in an iteration beside decoding, products and promotion: addresses,
    #: copies, scales, barriers, the order of operands; read off compiled loops.
    loop_instructions: float = fitted(85.0, 0.3)
    #: Decoding, as a multiple of the instructions read off compiled loops.
    decode_share: float = fitted(1.0, 0.3)
    #: Clocks from a CTA's start to its first load, and from its last product to its end.
    cta_clk: float = fitted(900.0, 0.4)
    #: Latency of loads while memory is busy, as a multiple of that of a lone load; as for products.
    loaded_latency: float = fitted(1.25, 0.3)
    #: Of the norm that joins resources side by side.
    overlap_exponent: float = fitted(8.0, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnlyParameters(_Decoding):
    """Of ``triton_weight_only``.

    Set on the shapes in view of ``data/h200/sweeps`` and ``data/h200/later_sweeps``, 239 timings of
    an H200, from the values that stand in brackets.
    """

    #: As :class:`_Decoding`'s (97).
    loop_instructions: float = fitted(60.0, 0.3)
    #: As :class:`_Decoding`'s, of which others' waits hide a part (1).
    decode_share: float = fitted(0.35, 0.3)
    #: As :class:`_Decoding`'s (950).
    cta_clk: float = fitted(2300.0, 0.4)
    #: As :class:`_Decoding`'s (1.25).
    loaded_latency: float = fitted(1.9, 0.3)
    #: Of the norm that joins resources side by side (8): few warps take one after the other, as in
    #: :class:`HopperWeightOnlyParameters`.
    overlap_exponent: float = fitted(1.75, 0.3)

    #: Filling and draining the whole device around a kernel (1.5).
    device_floor_us: float = fitted(0.8, 0.4)
    #: What a warp waits for in an iteration beside its own instructions: barriers, the way from
    #: shared memory (280).
    wait_clk: float = fitted(175.0, 0.4)
    #: Of 16 columns of K more, each product adding to the sums of the last (32).
    step_clk: float = fitted(40.0, 0.4)
    #: Share of a scheduler's issue slots that warps fill between them, of mixed code (0.68).
    issue_share: float = fitted(0.79, 0.2)
    #: As ``triton_gemm``'s (395), of loops with warpgroup products.
    drain_clk: float = fitted(105.0, 0.4)
    #: As ``triton_gemm``'s (13).
    copy_instructions: float = fitted(8.6, 0.3)
    #: For a scale of a group: its address, its load, its conversion by integers (12.7).
    scale_instructions: float = fitted(13.2, 0.4)
    #: From a share's last sums to the last program's start of adding them up (1.15).
    arrival_us: float = fitted(0.9, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedParameters(_Decoding):
    """Of ``triton_decoded_gemm``'s own parts; its 16-bit product has those of ``triton_gemm``.

    Those of its loops were set on the shapes in view of ``data/h200/sweeps`` and
    ``data/h200/later_sweeps``, 28 timings of an H200, from the values in brackets.
    """

    #: As :class:`_Decoding`'s (85).
    loop_instructions: float = fitted(128.0, 0.3)
    #: As :class:`_Decoding`'s (8).
    overlap_exponent: float = fitted(3.6, 0.3)
    #: Clocks of a warp from one of its own instructions to the next (5, a guess).
    instruction_clk: float = fitted(4.4, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierParameters(Parameters):
    """Of ``triton_outlier_gemm``'s second loop; its first has those of ``triton_gemm``."""

    #: The second loop, as a multiple of what as much more of K takes, its refill included.
    second_loop_share: float = fitted(1.0, 0.4)


GEMM, BATCHED, GROUPED = GemmParameters(), BatchedParameters(), GroupedParameters()
WEIGHT_ONLY, DECODED = WeightOnlyParameters(), DecodedParameters()
OUTLIER = OutlierParameters()
