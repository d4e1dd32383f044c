"""Launches that were checked once and are made again: the same layouts, other memory, other keys.

Training launches the same kernels in every step.  The first launch of a kind goes through its
launcher, which checks everything; what it hands to the kernel is kept, and later ones of the same
shapes, strides and alignment change addresses and keys alone.  Each ``__call__`` here hands over
what the launcher would (a test compares both).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tiles.kernels.cuda import (
    dataflow_blocks,
    dataflow_rows,
    gemm_hopper,
    gemm_hopper_blocks,
    quantize_blocks,
)
from tiles.kernels.cuda.hopper_block_operands import OUTPUTS
from tiles.kernels.cuda.hopper_formats import ELEMENT_BYTES, ROW_BYTES
from tiles.kernels.cuda.hopper_grid import cluster_sides, persistent_grid
from tiles.kernels.cuda.launches import run
from tiles.kernels.cuda.philox_keys import KEYS, matrix_keys, round_keys
from tiles.kernels.cuda.tensor_maps import tensor_map
from tiles.kernels.triton.tile_random import seed_words

__all__ = [
    "ALIGNMENT",
    "DataflowLaunch",
    "ProductLaunch",
    "QuantizeLaunch",
    "Tensors",
    "TritonLaunch",
    "layout",
]

Tensors = Mapping[str, torch.Tensor]
_KEYS = np.dtype([("words", KEYS)])
#: Addresses that kernels read vectors from.
ALIGNMENT = 16


def layout(*tensors: torch.Tensor | None) -> tuple[object, ...] | None:
    """What a prepared launch has to agree in with its first one; ``None`` where addresses are odd.

    Outputs are left out: who launches makes them.
    """
    found: list[object] = []
    for tensor in tensors:
        if tensor is None:
            found.append(None)
            continue
        if tensor.data_ptr() % ALIGNMENT:
            return None
        found += (tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
    return tuple(found)


class TritonLaunch:
    """Kernels of a Triton template with their constants."""

    def __init__(
        self, calls: Sequence[tuple[Any, int, Sequence[Any], Mapping[str, Any]]], tensors: Tensors
    ) -> None:
        """Keep calls.

        Args:
            calls: kernel, programs, arguments and constants; a seed is the last two arguments.
            tensors: those among the arguments, by name.
        """
        places = {tensor.data_ptr(): name for name, tensor in tensors.items()}
        self._calls = []
        for kernel, programs, arguments, constants in calls:
            where = tuple(
                (at, places[argument.data_ptr()])
                for at, argument in enumerate(arguments)
                if isinstance(argument, torch.Tensor)
            )
            # Without its tensors: they would keep the first launch's memory.
            bare = tuple(None if isinstance(a, torch.Tensor) else a for a in arguments)
            self._calls.append((kernel[(programs,)], bare, where, dict(constants)))

    def __call__(self, tensors: Tensors, seed: int | None = None) -> None:
        """Launch on the current stream."""
        for kernel, given, where, constants in self._calls:
            arguments = list(given)
            for at, name in where:
                arguments[at] = tensors[name]
            if seed is not None:
                arguments[-2:] = seed_words(seed)
            kernel(*arguments, **constants)


class DataflowLaunch:
    """An operator between products, of blocks or of rows."""

    def __init__(self, views: Mapping[str, Any], options: Mapping[str, Any], *, rows: bool) -> None:
        """Prepare as the launcher does.

        Args:
            views: CuPy's of the tensors, by argument.
            options: other arguments but keys and stream.
            rows: of ``dataflow_rows``; else of ``dataflow_blocks``.
        """
        device, threads = views["x"].device.id, int(options["config"]["threads"])
        self._shape = tuple(views["x"].shape)
        if rows:
            chosen, covered, parameters = dataflow_rows.prepare(**views, **options)
            kernels = dataflow_rows._kernels(device, chosen, covered.smem_bytes, options)
            grid, smem = covered.clusters * int(options["config"]["splits"]), covered.smem_bytes
            self._sums = kernels[1] if len(kernels) > 1 else None
            self._clusters = covered.clusters
        else:
            chosen, grid, smem, parameters = dataflow_blocks.prepare(**views, **options)
            kernels = (dataflow_blocks._kernel(device, chosen, smem, options["config"]),)
            self._sums, self._clusters = None, 0
        self._first: Callable[..., None] = lambda given, stream: run(
            kernels[0], grid, threads, (given,), smem_bytes=smem, stream=stream
        )
        self._parameters = parameters
        self._names = [name for name in views if name in parameters.dtype.names]

    def __call__(self, tensors: Tensors, stream: Any, *, seed: int = 0, mask_seed: int = 0) -> None:
        """Launch; keys are those of the launcher."""
        given = self._parameters.copy()
        for name in self._names:
            given[name] = tensors[name].data_ptr()
        given["keys"] = matrix_keys(seed, self._shape)
        if mask_seed:
            given["mask_keys"] = matrix_keys(mask_seed, self._shape)
        self._first(given, stream)
        if self._sums is None:
            return
        cols = int(given["cols"])
        d_beta = tensors.get("d_beta")
        sums = (
            np.uint64(tensors["partials"].data_ptr()),
            np.uint64(tensors["d_gamma"].data_ptr()),
            np.uint64(0 if d_beta is None else d_beta.data_ptr()),
            np.int64(cols),
            np.uint32(self._clusters),
        )
        threads = dataflow_rows.SUM_THREADS
        ctas = dataflow_rows.sum_ctas(cols, plain=d_beta is not None)
        run(self._sums, ctas, threads, sums, smem_bytes=4 * threads, stream=stream)


class QuantizeLaunch:
    """Blocks of a matrix, or of a part of one, to codes and scales."""

    def __init__(
        self,
        views: Mapping[str, Any],
        options: Mapping[str, Any],
        seed: int | None,
        stream: Callable[[], Any],
    ) -> None:
        """Prepare as the launcher does.

        Args:
            views: CuPy's of the tensors, by argument.
            options: other arguments but seed and stream.
            seed: of any launch; ``None`` where codes are rounded to nearest.
            stream: gives the current one.
        """
        chosen, self._ctas, self._parameters = quantize_blocks.prepare(
            **views, **options, seed=seed
        )
        self._kernel = quantize_blocks._kernel(views["x"].device.id, chosen)
        self._threads, self._stream = int(options["config"]["threads"]), stream
        self._whole = tuple(views["codes"].shape)
        # Parts begin somewhere in what they are written to.
        self._begins = {
            name: int(self._parameters[name]) - view.data.ptr for name, view in views.items()
        }

    def __call__(self, tensors: Tensors, seed: int | None) -> None:
        """Launch on the current stream."""
        given = self._parameters.copy()
        for name, begin in self._begins.items():
            given[name] = tensors[name].data_ptr() + begin
        given["keys"] = matrix_keys(seed or 0, self._whole)
        run(self._kernel, self._ctas, self._threads, (given,), stream=self._stream())


class ProductLaunch:
    """A product of ``hopper_gemm`` or ``hopper_block_gemm`` whose scales are no rows of K."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        device: int,
        blocks: bool,
        element: str,
        out: str,
        scales: str,
        config: Mapping[str, int | bool],
    ) -> None:
        """Prepare as the launchers do, for contiguous operands.

        Args:
            shape: M, N and K.
            blocks: of ``hopper_block_gemm``; else of ``hopper_gemm``.
        """
        self._m, self._n, self._k = m, n, k = shape
        block_m, block_n = int(config["block_m"]), int(config["block_n"])
        down, across = cluster_sides(config)
        self._grid = persistent_grid(device, -(-m // (block_m * down)), n, config, across=across)
        items = tuple(config.items())
        if blocks:
            self._kernel = gemm_hopper_blocks.compiled_kernel(device, element, out, scales, items)
            self._smem = gemm_hopper_blocks.smem_bytes(scales=scales, config=config)
            self._threads = gemm_hopper_blocks.threads(config)
            item, self._out_item = 1, ELEMENT_BYTES[OUTPUTS[out][0]]
            wide = min(ROW_BYTES // self._out_item, gemm_hopper_blocks._columns(config))
        else:
            self._kernel = gemm_hopper.compiled_kernel(device, element, out, scales, items)
            self._smem = gemm_hopper.smem_bytes(scales=scales, config=config)
            self._threads = gemm_hopper.THREADS
            item, self._out_item = ELEMENT_BYTES[element], ELEMENT_BYTES[out]
            wide = ROW_BYTES // self._out_item
        self._maps, self._item, self._box = 3 if blocks else 2, item, (wide, 64)
        self._boxes = tuple(
            (ROW_BYTES // item, rows) for rows in (block_m // across, block_n // down)
        )
        self._extents = (np.int32(m), np.int32(n), np.int32(k))

    def __call__(
        self,
        a: torch.Tensor,
        b: torch.Tensor,
        c: torch.Tensor,
        a_scale: torch.Tensor | None,
        b_scale: torch.Tensor | None,
        stream: Any,
        *,
        c_scale: torch.Tensor | None = None,
        seed: int = 0,
    ) -> None:
        """Launch on contiguous tensors of these shapes."""
        item, out_item, n, k = self._item, self._out_item, self._n, self._k
        map_a = tensor_map(a.data_ptr(), item, k, self._m, k * item, self._boxes[0])
        map_b = tensor_map(b.data_ptr(), item, k, n, k * item, self._boxes[1])
        map_c = tensor_map(c.data_ptr(), out_item, n, self._m, n * out_item, self._box)
        # Maps of scales of rows are not looked at.
        unused = (map_a,) * (self._maps - 1)
        arguments: tuple[Any, ...] = (map_a, map_b, *unused, map_c)
        arguments += tuple(np.uint64(0 if s is None else s.data_ptr()) for s in (a_scale, b_scale))
        arguments += self._extents
        if c_scale is not None:
            keys = np.array(round_keys(seed)).view(_KEYS)[0]
            arguments += (np.uint64(c_scale.data_ptr()), keys)
        run(
            self._kernel,
            self._grid,
            self._threads,
            arguments,
            smem_bytes=self._smem,
            stream=stream,
        )
