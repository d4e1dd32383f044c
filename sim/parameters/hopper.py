"""Template parameters of the Hopper products in CUDA C++.

Where a comment says "measured", the value was set by hand on about 150 timings of ``hopper_gemm``
on an H200 by this project, November 2026 (six shapes, five formats, tiles of 128 x 128 and
128 x 256); its siblings take such values over, the others are guesses.  Those of
``hopper_gemm`` itself were fitted, from priors, to the shapes in view of all sets of ``data/h200``:
596 timings, of chained products those of ``shared_tile_sweeps`` and, of recipes that this has not,
``chained_sweeps``, whose source passed turns later.
"""

from dataclasses import dataclass

from sim.parameters.base import Parameters, fitted

__all__ = [
    "HOPPER_BLOCK",
    "HOPPER_GEMM",
    "HOPPER_SKINNY",
    "HOPPER_WEIGHT_ONLY",
    "HOPPER_WEIGHT_PREFILL",
    "HopperBlockParameters",
    "HopperGemmParameters",
    "HopperSkinnyParameters",
    "HopperWeightOnlyParameters",
    "HopperWeightPrefillParameters",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Warpgroups(Parameters):
    """Of CTAs that load by the copy engine and multiply by warpgroups."""

    #: From the last product's end to its registers being readable, and the next's start: measured.
    drain_clk: float = fitted(240.0, 0.3)
    #: Of a step with two warpgroups in flight, beside the products: measured.
    handshake_clk: float = fitted(20.0, 0.5)
    #: Barriers, tensor maps and the first indices of a CTA.
    setup_clk: float = fitted(1500.0, 0.4)
    #: Filling and draining the whole device around a kernel.
    device_floor_us: float = fitted(2.0, 0.4)
    #: Of the norm that joins resources side by side.
    overlap_exponent: float = fitted(8.0, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Persistent(_Warpgroups):
    """Of those that walk over tiles, with an epilogue beside the next tile's loads."""

    #: A warpgroup's work on one staging buffer (64 rows of 128 bytes) of an epilogue: measured.
    staging_clk: float = fitted(260.0, 0.4)
    #: Loads of scales before an epilogue, once a tile: measured.
    epilogue_clk: float = fitted(300.0, 0.4)
    #: Share of an epilogue that shows although the next tile's loads run beside it.
    epilogue_exposed: float = fitted(0.25, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperGemmParameters(Parameters):
    """Of ``hopper_gemm``."""

    #: Of a step along K with two warpgroups in flight, beside the products.
    handshake_clk: float = fitted(34.0, 0.5)
    #: From the products' end to their registers being readable, and the next ones' start, where
    #: both warpgroups promote between two steps.
    drain_clk: float = fitted(25.0, 0.3)
    #: fp32 multiply-adds of promotion get this share of their rate.
    promotion_share: float = fitted(1.0, 0.1)
    #: Of conversions and multiply-adds one after the other, the part that shows although products
    #: of a second set of sums run beside them.
    shown_share: float = fitted(0.46, 0.2)
    #: Clocks of a warpgroup's promotion, where the other's products run beside it, as a multiple of
    #: what its units need for both warpgroups'.
    promotion_stretch: float = fitted(1.55, 0.3)
    #: Of a chained step, what a warpgroup's round has beside products and promotion: scales, two
    #: barriers, the wait for sums that can be read, the start of the next product.
    turn_clk: float = fitted(190.0, 0.4)
    #: And where the products are of 8-bit floats; the cause is not known.
    float_turn_clk: float = fitted(175.0, 0.5)
    #: A warpgroup's work on one staging buffer (64 rows of 128 bytes) of an epilogue.
    staging_clk: float = fitted(350.0, 0.4)
    #: Loads of scales before an epilogue, once a tile.
    epilogue_clk: float = fitted(255.0, 0.4)
    #: Barriers, tensor maps and the first indices of a CTA.
    setup_clk: float = fitted(840.0, 0.4)
    #: Filling and draining the whole device around a kernel.
    device_floor_us: float = fitted(1.1, 0.4)
    #: Latency of loads while memory is busy, as a multiple of that of a lone load.
    loaded_latency: float = fitted(1.65, 0.2)
    #: Barriers of a buffer between its release and the copy engine, and between its arrival and
    #: the products: two handshakes of 60 to 100 clocks.
    ring_clk: float = fitted(170.0, 0.4)
    #: The same to and from a neighbour in a cluster: a hop between multiprocessors takes 181
    #: clocks (HPMLL Hopper benchmark).
    cluster_clk: float = fitted(190.0, 0.4)
    #: Of a step in a cluster, whose CTAs tell each other of every buffer: where times of one and
    #: two CTAs a cluster are wrong alike, at 4096 cubed of ``data/h200/replay`` and on the shapes
    #: in view of ``data/h200/sweeps``.
    cluster_step_clk: float = fitted(67.0, 0.4)
    #: Steps that a buffer is held: its own products', and what of the next passes before the
    #: warps give it back.
    held_steps: float = fitted(1.65, 0.2)
    #: A store through the copy engine, until its staging buffer may be written again.
    store_clk: float = fitted(265.0, 0.4)
    #: Share of the shared-memory port's clocks that filling the buffers takes from the products.
    smem_fill_share: float = fitted(0.35, 0.4)
    #: Share of the L2's rate for lines that no neighbour asks for at the same time.
    lone_lines_share: float = fitted(0.58, 0.07)
    #: Of the norm that joins resources side by side.
    overlap_exponent: float = fitted(6.6, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperBlockParameters(_Persistent):
    """Of ``hopper_block_gemm``; instructions are those of the compiled loop."""

    #: Of the shorter of products and promotion, the part that shows although they run side by
    #: side: ``bench/pipe_rates.py`` on an H200, products of 2 x 64x128 int8 and their promotion in
    #: the same warps, 337 clocks where products alone take 128 and promotion alone 259.
    serial_share: float = fitted(0.61, 0.1)
    #: Share of the issue slots that the warps of a scheduler fill between them: the same, 63.3
    #: pairs of conversion and multiply-add a clock.
    issue_share: float = fitted(0.99, 0.05)
    #: As :class:`HopperGemmParameters`', whose warpgroups promote between two steps likewise; of a
    #: unit of K under one scale.
    drain_clk: float = fitted(80.0, 0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperSkinnyParameters(_Warpgroups):
    """Of ``hopper_skinny_gemm``.

    Values with another in brackets were set on the shapes in view of ``data/h200/sweeps`` and
    ``data/h200/later_sweeps``, 256 timings of an H200, from that one.
    """

    #: Latency of loads while memory is busy, as a multiple of that of a lone load (1.45).
    loaded_latency: float = fitted(3.0, 0.3)
    #: Steps that a buffer is held (1.75, :class:`HopperGemmParameters`').
    held_steps: float = fitted(0.6, 0.3)
    #: As the others', where both wait for one product (240).
    drain_clk: float = fitted(80.0, 0.3)
    #: As :class:`HopperBlockParameters`' (0.61).
    serial_share: float = fitted(0.48, 0.2)
    #: Of the norm that joins resources side by side (8).
    overlap_exponent: float = fitted(5.4, 0.3)
    #: As :class:`HopperGemmParameters`'.
    promotion_share: float = fitted(1.0, 0.15)
    #: From the issue of a step's products to their end, beside the tensor cores' time (100).
    step_clk: float = fitted(20.0, 0.5)
    #: Barriers, tensor maps and the first indices of a CTA (1500).
    setup_clk: float = fitted(890.0, 0.4)
    #: CTAs of a cluster begin together, and wait for the one whose loads come last (0).
    cluster_wait_clk: float = fitted(2300.0, 0.4)
    #: A barrier of a cluster, and a load from a neighbour's shared memory.
    cluster_barrier_clk: float = fitted(300.0, 0.4)
    peer_latency_clk: float = fitted(250.0, 0.4)
    #: Bytes a clock that an SM reads from its neighbours' shared memory.
    peer_bytes_per_clk: float = fitted(32.0, 0.4)
    #: Last products to the first word that is staged, and the last word's way to memory (600).
    epilogue_clk: float = fitted(370.0, 0.4)
    #: As :class:`HopperGemmParameters`' (0.35, 0.58).
    smem_fill_share: float = fitted(0.1, 0.5)
    lone_lines_share: float = fitted(0.5, 0.07)
    #: As :class:`HopperWeightOnlyParameters`'.
    packed_share: float = fitted(0.9, 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperWeightOnlyParameters(Parameters):
    """Of ``hopper_weight_only``.

    Values with another in brackets were set on the shapes in view of ``data/h200/later_sweeps``,
    112 timings of an H200 in 14 studies (``w4a16-g128`` at 1, 8 and 32 rows, ``w8a16`` at 1 and 8),
    by the fit of ``sim/calibration`` with the GPU's figures held, from that one; the others stayed
    where they were.
    """

    #: Instructions of a warp in a stage beside decoding, products and their operands; read off the
    #: compiled loop.
    stage_instructions: float = fitted(26.0, 0.3)
    #: Decoding, as a multiple of the instructions read off the compiled loop (1).
    decode_share: float = fitted(0.88, 0.2)
    #: Share of the issue slots that the warps of a scheduler fill between them.
    issue_share: float = fitted(0.8, 0.2)
    #: Clocks of a warp in a stage beside its instructions: barriers, loads from shared memory,
    #: products that wait for each other (260).
    stage_clk: float = fitted(190.0, 0.4)
    #: Clocks of a warp between two of its own instructions (2.2).
    instruction_clk: float = fitted(2.65, 0.3)
    #: Clocks of the warp that loads to ask for a stage, whatever its bytes: 12.9 to 13.5 us for
    #: 4096x14336 in tiles of 32 rows on an H200.  In ``data/h200/later_sweeps`` it is 470: that
    #: loop took 91 instructions a stage, today's takes 39.
    request_clk: float = fitted(150.0, 0.4)
    #: Share of the multiprocessors that clusters of more than two find room on: 128 CTAs by fours
    #: or eights took 19.1 to 19.8 us for 4096x14336 on an H200, in clusters of two 11.5 us, as if
    #: some came behind the others.
    packed_share: float = fitted(0.9, 0.05)
    #: Barriers, tensor maps and the first indices of a CTA (900).
    setup_clk: float = fitted(720.0, 0.4)
    #: Last products to the last word of C on its way, a tile (700).
    epilogue_clk: float = fitted(580.0, 0.4)
    #: A tile that several CTAs share: partial sums to memory, the count, and back (3600).
    share_clk: float = fitted(7700.0, 0.4)
    #: Filling and draining the whole device around a kernel (1.5).
    device_floor_us: float = fitted(0.85, 0.4)
    #: Of the norm that joins resources side by side (6).
    overlap_exponent: float = fitted(5.2, 0.3)
    #: Of the one that joins the units of a multiprocessor (2): a warp waits for one after the
    #: other, and few warps stand beside it.
    units_exponent: float = fitted(1.6, 0.4)


@dataclass(frozen=True, slots=True, kw_only=True)
class HopperWeightPrefillParameters(Parameters):
    """Of ``hopper_weight_prefill``: what :class:`HopperGemmParameters` has, of plain products.

    Values with another in brackets were set on 31 timings of an H200 at 2048 rows
    (``evidence/h200/kernels/weights.json``), from that one.
    """

    handshake_clk: float = fitted(34.0, 0.5)
    staging_clk: float = fitted(350.0, 0.4)
    epilogue_clk: float = fitted(255.0, 0.4)
    setup_clk: float = fitted(840.0, 0.4)
    device_floor_us: float = fitted(1.1, 0.4)
    loaded_latency: float = fitted(1.65, 0.2)
    ring_clk: float = fitted(170.0, 0.4)
    cluster_clk: float = fitted(190.0, 0.4)
    cluster_step_clk: float = fitted(67.0, 0.4)
    #: In panels, of two stages (1.75).
    held_steps: float = fitted(0.75, 0.3)
    store_clk: float = fitted(265.0, 0.4)
    #: Clocks of a warp from one of its own instructions to the next: two timings of tiles of 64 and
    #: 128 rows on the shapes in view of ``data/h200/shared_tile_sweeps``.
    instruction_clk: float = fitted(3.1, 0.3)
    #: Of the norm that joins resources side by side (6).
    overlap_exponent: float = fitted(10.0, 0.3)


HOPPER_GEMM, HOPPER_BLOCK = HopperGemmParameters(), HopperBlockParameters()
HOPPER_SKINNY = HopperSkinnyParameters()
HOPPER_WEIGHT_ONLY = HopperWeightOnlyParameters()
HOPPER_WEIGHT_PREFILL = HopperWeightPrefillParameters()
