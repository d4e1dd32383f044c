"""Launches that are made again without their checks hand over what their launchers would."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from cuda_stand_ins import LIMITS, launches, view

from tiles.formats import TensorFormat
from tiles.kernels import kernel
from tiles.kernels.cuda import (
    dataflow_blocks,
    dataflow_rows,
    gemm_hopper,
    gemm_hopper_blocks,
    quantize_blocks,
)
from tiles.kernels.triton import (
    dequantize_tiles,
    quantize_tiles,
    transpose_codes,
)
from tiles.kernels.triton.dequantize_tiles_arguments import request as dequantize_request
from tiles.kernels.triton.quantize_tiles_arguments import request as quantize_request
from tiles.problems import Dataflow, parse_problem
from workbench.nn import prepared
from workbench.nn.prepared import (
    DataflowLaunch,
    ProductLaunch,
    QuantizeLaunch,
    TritonLaunch,
    layout,
)

__all__ = ["launches"]

SEED = 0x9E3779B97F4A7C15


class Current:
    """CuPy's device, current for nothing."""

    id = 0

    def __enter__(self) -> "Current":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Current)

    __hash__ = None  # type: ignore[assignment]


def on_device(tensor: torch.Tensor) -> Any:
    made = view(tensor)
    made.device = Current()
    return made


def plain(argument: Any) -> Any:
    """An argument of a kernel as bytes; an array stands for its address."""
    if hasattr(argument, "tensor"):
        return np.uint64(argument.data.ptr).tobytes()
    if isinstance(argument, np.void):  # without the gaps between its fields
        assert argument.dtype.names is not None
        return {name: np.asarray(argument[name]).tobytes() for name in argument.dtype.names}
    return argument.tobytes() if isinstance(argument, np.generic) else argument


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What reaches the driver: kernel, grid, threads, arguments, shared memory."""
    found: list[tuple[Any, ...]] = []

    def run(kernel: Any, grid: int, threads: int, arguments: Any, **rest: Any) -> None:
        found.append((kernel, grid, threads, tuple(map(plain, arguments)), rest.get("smem_bytes")))

    def functions(device: int, source: str, options: Any, names: Any) -> Any:
        return tuple((source, options, name) for name in names)

    def map_of(*given: Any) -> Any:
        return ("map", *given)

    launching = (dataflow_blocks, dataflow_rows, gemm_hopper, gemm_hopper_blocks, quantize_blocks)
    for module in (*launching, prepared):
        monkeypatch.setattr(module, "run", run)
    for module in (dataflow_blocks, dataflow_rows, quantize_blocks):
        monkeypatch.setattr(module, "functions", functions)
    for name in ("check_shared_memory", "allow_shared_memory"):
        for module in (dataflow_blocks, dataflow_rows):
            monkeypatch.setattr(module, name, lambda *_: None)
    for module in (gemm_hopper, gemm_hopper_blocks):
        monkeypatch.setattr(module, "compiled_kernel", lambda *given: given)
    for module in (gemm_hopper, gemm_hopper_blocks, prepared):
        monkeypatch.setattr(module, "tensor_map", map_of)
        monkeypatch.setattr(module, "persistent_grid", lambda *given, across: (*given[1:3], across))
    return found


def matrix(rows: int, cols: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    grid = (-(-rows // side), -(-cols // side))
    return torch.zeros(rows, cols, dtype=torch.int8), torch.ones(grid)


def dataflow(op: str, side: int, rows: int = 256, cols: int = 512) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    second = {"gelu-bwd": "dy", "layernorm-bwd": "other", "rmsnorm-bwd": "other"}.get(op)
    for name in ("x", *(() if second is None else (second,)), "out"):
        tensors[name], tensors[f"{name}_scales"] = matrix(rows, cols, side)
    if "norm" in op:
        tensors |= {"mean": torch.zeros(rows), "variance": torch.ones(rows)}
        tensors["gamma"] = torch.ones(cols)
    if op == "layernorm":
        tensors["beta"] = torch.ones(cols)
    if op.endswith("norm-bwd"):
        tensors["d_gamma"] = torch.ones(cols)
    if op == "layernorm-bwd":
        tensors["d_beta"] = torch.ones(cols)
    return tensors


@pytest.mark.parametrize("side", [32, 128])
@pytest.mark.parametrize(
    "op", ["gelu", "gelu-bwd", "dropout", "layernorm", "rmsnorm", "layernorm-bwd", "rmsnorm-bwd"]
)
def test_a_dataflow_launch_is_the_launchers(
    op: str, side: int, handed: list[tuple[Any, ...]]
) -> None:
    rows = "norm" in op
    target = TensorFormat.parse(f"int8.b{side}x{side}+sr")
    problem = Dataflow(rows=256, cols=512, op=op, target=target)
    family = kernel("cuda_dataflow_rows" if rows else "cuda_dataflow_blocks")
    config = family.default(problem, LIMITS).to_dict()
    options: dict[str, Any] = {"op": op, "element": "int8", "block": (side, side)}
    options |= {"stochastic": not rows or op.endswith("-bwd"), "config": config}
    keys = {"seed": SEED}
    if op == "dropout":
        options["probability"] = 0.25
        keys["mask_seed"] = SEED + 1
    first, other = dataflow(op, side), dataflow(op, side)
    if op.endswith("norm-bwd"):
        block = (side, side)
        sums = dataflow_rows.partial_sums(op=op, shape=(256, 512), block=block, config=config)
        for tensors in (first, other):
            tensors["partials"] = torch.zeros(sums)
    again = DataflowLaunch({k: on_device(t) for k, t in first.items()}, options, rows=rows)
    again(other, None, **keys)
    launch = dataflow_rows.launch if rows else dataflow_blocks.launch
    mine = list(handed)
    handed.clear()
    launch(**{k: on_device(t) for k, t in other.items()}, **options, **keys)
    assert mine == handed
    assert len(mine) == (2 if op.endswith("norm-bwd") else 1)


@pytest.mark.parametrize(
    ("text", "scales"),
    [
        ("gemm:256x512x384:int8-b128:bf16", "b128x128"),
        ("gemm:256x512x384:int8-row:fp32", "row"),
        ("gemm:256x512x384:e4m3-tensor:fp16", "tensor"),
        ("gemm:256x512x384:jetfire:fp32", "b32x32"),
        ("gemm:256x512x384:jetfire:int8.b32x32+sr", "b32x32"),
        ("gemm:256x512x384:int8-b128:int8.b128x128+sr", "b128x128"),
    ],
)
@pytest.mark.parametrize("cluster", [{}, {"cluster": 2}, {"cluster": 2, "block_n": 64}])
def test_a_product_is_the_launchers(
    text: str, scales: str, cluster: dict[str, int], handed: list[tuple[Any, ...]]
) -> None:
    problem = parse_problem(text)
    m, n, k = problem.shape  # type: ignore[attr-defined]
    out, element = problem.out, problem.recipe.activation.element.name  # type: ignore[attr-defined]
    blocks = "jetfire" in text or "+sr" in text
    config = kernel("hopper_block_gemm" if blocks else "hopper_gemm").default(problem, LIMITS)
    side = {"tensor": (0, 0), "row": (1, 0), "b128x128": (128, 128), "b32x32": (32, 32)}[scales]
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    code = torch.int8 if element == "int8" else torch.float8_e4m3fn
    a, b = (torch.zeros(r, k, dtype=code) for r in (m, n))
    c = torch.zeros(m, n, dtype=dtypes.get(out, torch.int8))
    grids = [torch.ones(-(-r // (side[0] or r)), -(-k // (side[1] or k))) for r in (m, n)]
    c_scale = None
    if "+sr" in out:
        block = int(out.split("b")[1].split("x")[0])
        c_scale = torch.ones(-(-m // block), -(-n // block))
    given: dict[str, Any] = {"element": element, "out": out, "scales": scales}
    given["config"] = config.to_dict() | cluster
    again = ProductLaunch((m, n, k), device=0, blocks=blocks, **given)
    again(a, b, c, *grids, None, c_scale=c_scale, seed=SEED)
    operands = [on_device(x) if x.dtype is not torch.float16 else half(x) for x in (a, b, c)]
    operands += [on_device(x) for x in grids]
    if blocks:
        last = None if c_scale is None else on_device(c_scale)
        gemm_hopper_blocks.launch(*operands, last, **given, seed=SEED)
    else:
        gemm_hopper.launch(*operands, **given)
    mine, theirs = handed
    assert mine == theirs


def half(tensor: torch.Tensor) -> Any:
    made = on_device(tensor.view(torch.bfloat16))
    made.dtype = np.dtype("float16")
    return made


class Recorder:
    """A Triton kernel that writes down what it is launched with."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **constants: Any) -> None:
            kept = [
                (a.data_ptr(), a.dtype, a.shape) if isinstance(a, torch.Tensor) else a
                for a in arguments
            ]
            self.seen.append((grid, kept, constants))

        return launch


def codes_of(tensors: Mapping[str, torch.Tensor], *names: str) -> list[torch.Tensor]:
    return [tensors[name] for name in names]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("seed", [None, SEED])
def test_a_quantisation_is_the_launchers(
    transposed: bool, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(quantize_tiles, "_quantize_tiles", recorder)

    def tensors() -> dict[str, torch.Tensor]:
        made = {"x": torch.zeros(256, 512, dtype=torch.bfloat16)}
        made |= {"codes": torch.zeros(256, 512, dtype=torch.uint8), "scales": torch.ones(8, 16)}
        if transposed:
            made["codes_t"] = torch.zeros(512, 256, dtype=torch.uint8)
            made["scales_t"] = torch.ones(16, 8)
        return made

    config = {"block_rows": 64, "block_cols": 64, "num_warps": 4, "software_cast": False}
    rest: dict[str, Any] = {"element": "int8", "block": (32, 32), "config": config}

    def more(of: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        return rest | {name: of[name] for name in ("codes_t", "scales_t") if name in of}

    first, other = tensors(), tensors()
    asked = quantize_request(
        *codes_of(first, "x", "codes", "scales"), **more(first), seed=None if seed is None else 7
    )
    TritonLaunch(quantize_tiles._calls(asked), first)(other, seed)
    quantize_tiles.launch(*codes_of(other, "x", "codes", "scales"), **more(other), seed=seed)
    mine, theirs = recorder.seen
    assert mine == theirs


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("seed", [None, SEED])
def test_a_launch_of_a_part_s_quantisation_is_the_launchers(
    both: bool, seed: int | None, handed: list[tuple[Any, ...]]
) -> None:
    config = {"threads": 256, "lanes": 256, "vector": 8, "unroll": 1}
    options: dict[str, Any] = {"source": "bf16", "target": "int8", "block": (128, 128)}
    options |= {"config": config, "place": (128, 256)}
    made = []
    for _ in range(2):
        tensors = {"x": torch.zeros(128, 128, dtype=torch.bfloat16)}
        tensors["codes"], tensors["scales"] = matrix(256, 512, 128)
        if both:
            tensors["codes_t"], tensors["scales_t"] = matrix(512, 256, 128)
        made.append(tensors)
    first, other = made
    views = {name: on_device(tensor) for name, tensor in first.items()}
    # Another key than the first launch's.
    again = QuantizeLaunch(views, options, None if seed is None else 7, lambda: None)
    again(other, seed)
    views = {name: on_device(tensor) for name, tensor in other.items()}
    quantize_blocks.launch(**views, **options, seed=seed)
    mine, theirs = handed
    assert mine == theirs


def test_dequantising_and_transposing_are_the_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(dequantize_tiles, "_dequantize_tiles", recorder)
    monkeypatch.setattr(transpose_codes, "_transpose_codes", recorder)
    config = {"block_rows": 32, "block_cols": 128, "num_warps": 4, "software_cast": False}
    given: dict[str, Any] = {"element": "int8", "block": (32, 32), "config": config}
    pairs = []
    for _ in range(2):
        codes, scales = matrix(256, 512, 32)
        out = torch.zeros(256, 512, dtype=torch.bfloat16)
        pairs.append({"codes": codes.view(torch.uint8), "scales": scales, "out": out})
    first, other = pairs
    asked = dequantize_request(*codes_of(first, "codes", "scales", "out"), **given)
    TritonLaunch([dequantize_tiles._call(asked)], first)(other)
    dequantize_tiles.launch(*codes_of(other, "codes", "scales", "out"), **given)
    mine, theirs = recorder.seen
    assert mine == theirs
    recorder.seen.clear()
    del config["software_cast"]
    turned = [torch.zeros(512, 256, dtype=torch.uint8) for _ in range(2)]
    call = transpose_codes._call(first["codes"], turned[0], config)
    again = TritonLaunch([(recorder, *call)], {"codes": first["codes"], "out": turned[0]})
    again({"codes": other["codes"], "out": turned[1]})
    transpose_codes.launch(other["codes"], turned[1], config=config)
    mine, theirs = recorder.seen
    assert mine == theirs


def test_a_layout_tells_shapes_strides_and_odd_addresses_apart() -> None:
    x = torch.zeros(64, 64, dtype=torch.int8)
    assert layout(x) == layout(x.clone())
    assert layout(x) != layout(x[:32])
    assert layout(x[:32]) != layout(x[::2])
    assert layout(x, None) != layout(x)
    assert layout(x.view(-1)[1:17]) is None
