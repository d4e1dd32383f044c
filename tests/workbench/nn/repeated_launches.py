"""Stand-ins of prepared launches, which make the checked launches that they stand for."""

from typing import Any

import pytest
import torch
from cuda_stand_ins import TWIN, Launches, view

from tiles.formats import TensorFormat
from tiles.kernels.triton import (
    activation_tiles,
    norm_gradient,
    placed_tiles,
    quantize_tiles,
    residual_tiles,
    rounded_tiles,
    transpose_codes,
    turned_tiles,
)
from workbench.nn import cuda_assembly as assembly_module
from workbench.nn import cuda_dataflow as dataflow_module
from workbench.nn import cuda_norms as norms_module
from workbench.nn import cuda_products as products_module
from workbench.nn import cuda_quantizer as quantizer_module

__all__ = ["Repeated"]


class Repeated:
    """Stand-ins of prepared launches: the checked launch of the tensors that they are given."""

    def __init__(self, seen: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, outer = 0, self

        class Flow:
            def __init__(self, views: Any, options: Any, *, rows: bool) -> None:
                self.options, self.launch = options, seen.rows if rows else seen.blocks

            def __call__(self, tensors: Any, stream: Any, **keys: int) -> None:
                outer.count += 1
                views = {name: view(tensor.detach()) for name, tensor in tensors.items()}
                self.launch(stream=stream, **views, **self.options, **keys)

        class Product:
            def __init__(self, shape: Any, *, device: Any, blocks: bool, **formats: Any) -> None:
                self.blocks, self.formats = blocks, formats

            def __call__(self, *operands: Any, c_scale: Any, seed: int) -> None:
                outer.count += 1
                *tensors, stream = operands
                views = [None if t is None else view(t) for t in tensors]
                if self.blocks:
                    views.append(None if c_scale is None else view(c_scale))
                    seen.hopper(*views, seed=seed, stream=stream, **self.formats)
                else:
                    seen.plain(*views, stream=stream, **self.formats)

        class Part:
            def __init__(self, views: Any, options: Any, seed: Any, stream: Any) -> None:
                self.options = options

            def __call__(self, tensors: Any, seed: int | None) -> None:
                outer.count += 1
                codes = {n: t.view(torch.int8) for n, t in tensors.items() if "codes" in n}
                views = {name: view(tensor) for name, tensor in (tensors | codes).items()}
                seen.part(stream=None, **views, **self.options, seed=seed)

        class Triton:
            def __init__(self, calls: Any, tensors: Any) -> None:
                ((self.kernel, _, arguments, constants),) = calls
                self.numbers = [one for one in arguments if not isinstance(one, torch.Tensor)]
                self.constants = constants
                rows, cols = constants.get("BLOCK_ROWS", 0), constants.get("BLOCK_COLS", 0)
                rounding = "+sr" if constants.get("STOCHASTIC") else ""
                self.format = TensorFormat.parse(f"int8.b{rows or 32}x{cols or 32}{rounding}")
                self.sides = constants.get("SCALE_ROWS"), constants.get("SCALE_COLS")

            def __call__(self, tensors: Any, seed: int | None = None) -> None:
                outer.count += 1
                if self.kernel is activation_tiles._activation_backward:
                    op, side = activation_tiles.OPS[self.constants["OP"]], self.constants
                    seen.activate(
                        *tensors.values(), op=op, block=side["TILE_ROWS"], seed=seed, num_warps=4
                    )
                elif self.kernel is turned_tiles._quantize_turned:
                    made = TWIN.quantize(tensors["x"].t(), self.format).main
                    assert made.scales is not None
                    tensors["codes"].copy_(made.bits)
                    tensors["scales"].copy_(made.scales)
                elif self.kernel is residual_tiles._residual_tiles:
                    given = [tensors.get(name) for name in residual_tiles.TENSORS]
                    seen.add(*given, block=self.constants["BLOCK_ROWS"], seed=seed)
                elif self.kernel is rounded_tiles._quantize_rounded:
                    seen.rounded(*tensors.values(), block=self.constants["BLOCK_ROWS"])
                elif self.kernel is norm_gradient._norm_gradient:
                    epsilon = next(one for one in self.numbers if isinstance(one, float))
                    op = norm_gradient.OPS[not self.constants["CENTRED"]]
                    seen.norm(
                        *tensors.values(), op=op, epsilon=epsilon, block=self.constants["SIDE"]
                    )
                elif self.kernel is placed_tiles._quantize_placed:
                    place, side = tuple(self.numbers[:2]), self.constants["BLOCK_ROWS"]
                    seen.placed(*tensors.values(), place=place, block=side, seed=seed)
                elif self.kernel is transpose_codes._transpose_codes:
                    tensors["out"].copy_(tensors["codes"].t())
                elif self.kernel is quantize_tiles._quantize_tiles:
                    made = TWIN.quantize(tensors["x"], self.format, seed=seed or 0).main
                    assert made.scales is not None
                    tensors["codes"].copy_(made.bits)
                    tensors["scales"].copy_(made.scales)
                    if "codes_t" in tensors:
                        tensors["codes_t"].copy_(made.bits.t())
                        tensors["scales_t"].copy_(made.scales.t())
                else:
                    high, wide = self.sides
                    grid = tensors["scales"].repeat_interleave(high, 0).repeat_interleave(wide, 1)
                    values = tensors["codes"].view(torch.int8).float()
                    values = values * grid[: values.shape[0], : values.shape[1]]
                    tensors["out"].copy_(values)

        monkeypatch.setattr(dataflow_module, "DataflowLaunch", Flow)
        monkeypatch.setattr(products_module, "ProductLaunch", Product)
        monkeypatch.setattr(assembly_module, "QuantizeLaunch", Part)
        for module in (
            products_module,
            quantizer_module,
            dataflow_module,
            norms_module,
            assembly_module,
        ):
            monkeypatch.setattr(module, "TritonLaunch", Triton)
