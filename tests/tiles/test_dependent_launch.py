"""Launches that begin before the one before has ended: what the driver and the kernels are told."""

import ctypes
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.sass import machine_code
from sim import load_gpu
from tiles.kernels import kernel, nvrtc
from tiles.kernels.cuda import dependent_launch
from tiles.kernels.cuda.modules import BINARIES
from tiles.problems import parse_problem

#: cuda.h: struct CUlaunchConfig_st, by byte offsets on 64-bit hosts.
GRID, BLOCK, SHARED, STREAM, ATTRIBUTES, COUNT = 0, 12, 24, 32, 40, 48


class Driver:
    """In place of ``cuLaunchKernelEx``: reads what it is told as C would."""

    def __init__(self, sizes: tuple[int, ...], errors: tuple[int, ...] = ()) -> None:
        self._sizes, self._errors = sizes, list(errors)
        self.calls: list[dict[str, Any]] = []

    def __call__(self, config: Any, function: Any, pointers: Any, extra: None) -> int:
        at = ctypes.addressof(config._obj)
        attributes = ctypes.c_void_p.from_address(at + ATTRIBUTES).value
        assert attributes is not None
        self.calls.append(
            {
                "grid": tuple((ctypes.c_uint * 3).from_address(at + GRID)),
                "block": tuple((ctypes.c_uint * 3).from_address(at + BLOCK)),
                "smem": ctypes.c_uint.from_address(at + SHARED).value,
                "stream": ctypes.c_void_p.from_address(at + STREAM).value,
                "count": ctypes.c_uint.from_address(at + COUNT).value,
                # id, and behind 4 bytes the union's int
                "attribute": tuple((ctypes.c_int * 3).from_address(attributes))[::2],
                "function": function.value,
                "values": [
                    ctypes.string_at(p, size) for p, size in zip(pointers, self._sizes, strict=True)
                ],
            }
        )
        return self._errors.pop(0) if self._errors else 0


class Refused(Exception):
    """CuPy's CUDADriverError."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A stand-in of CuPy on capability 9.0; what is asked of it."""
    found: list[str] = []
    device = SimpleNamespace(compute_capability="90")
    cuda = SimpleNamespace(
        get_current_stream=lambda: SimpleNamespace(ptr=64),
        runtime=SimpleNamespace(getDevice=lambda: 0, memGetInfo=lambda: found.append("memGetInfo")),
        driver=SimpleNamespace(CUDADriverError=Refused),
        Device=lambda number: device,
    )
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda))
    dependent_launch._attributes.cache_clear()
    yield found
    dependent_launch._attributes.cache_clear()


MAP = np.frombuffer(bytes(range(128)), np.dtype([("bytes", "u1", 128)]))[0]
ARGUMENTS = (MAP, np.uint64(1 << 40), np.int32(-3), np.int64(-5), np.float32(0.5))
KERNEL = SimpleNamespace(kernel=SimpleNamespace(ptr=4096))


def launch(driver: Driver, monkeypatch: pytest.MonkeyPatch, stream: Any = None) -> None:
    monkeypatch.setattr(dependent_launch, "_launcher", lambda: driver)
    dependent_launch.launch_dependent(KERNEL, 7, 384, ARGUMENTS, 1024, stream)


def test_the_driver_reads_the_launch_as_c_lays_it_out(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver((128, 8, 4, 8, 4))
    launch(driver, monkeypatch)
    assert driver.calls == [
        {
            "grid": (7, 1, 1),
            "block": (384, 1, 1),
            "smem": 1024,
            "stream": 64,
            "count": 1,
            "attribute": (6, 1),  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            "function": 4096,
            "values": [one.tobytes() for one in ARGUMENTS],
        }
    ]
    assert asked == []
    launch(driver, monkeypatch, SimpleNamespace(ptr=128))
    assert driver.calls[1]["stream"] == 128


def test_nvidias_own_bindings_lay_a_launch_out_likewise() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    theirs, dependent = driver.CUlaunchConfig(), driver.CUlaunchAttribute()
    theirs.gridDimX, theirs.gridDimY, theirs.gridDimZ = 7, 1, 1
    theirs.blockDimX, theirs.blockDimY, theirs.blockDimZ = 384, 1, 1
    theirs.sharedMemBytes, theirs.hStream = 1024, driver.CUstream(64)
    dependent.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    value = driver.CUlaunchAttributeValue()
    value.programmaticStreamSerializationAllowed = 1
    dependent.value = value
    theirs.attrs, theirs.numAttrs = [dependent], 1
    own = dependent_launch._Config(*(7, 1, 1, 384, 1, 1, 1024, 64), dependent_launch._DEPENDENT, 1)
    size = ctypes.sizeof(dependent_launch._Config)
    told, held = ctypes.string_at(theirs.getPtr(), size), bytes(own)
    assert told[:ATTRIBUTES] == held[:ATTRIBUTES]
    assert told[COUNT : COUNT + 4] == held[COUNT : COUNT + 4]
    attributes = ctypes.c_void_p.from_buffer_copy(told, ATTRIBUTES).value
    assert attributes is not None
    own_attribute = bytes(dependent_launch._DEPENDENT.contents)
    assert ctypes.string_at(attributes, len(own_attribute)) == own_attribute
    assert int(driver.CUresult.CUDA_ERROR_INVALID_CONTEXT) == 201


def test_a_thread_that_is_new_to_the_device_binds_it_and_asks_again(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver((128, 8, 4, 8, 4), errors=(201,))
    launch(driver, monkeypatch)
    assert asked == ["memGetInfo"]
    assert driver.calls[0] == driver.calls[1]


def test_what_the_driver_refuses_is_said(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="1"):
        launch(Driver((128, 8, 4, 8, 4), errors=(1,)), monkeypatch)


def test_before_hopper_nothing_begins_early(
    asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.modules["cupy"].cuda.Device(0).compute_capability = "89"
    driver = Driver((128, 8, 4, 8, 4))
    launch(driver, monkeypatch)
    assert driver.calls[0]["count"] == 0


def test_an_array_is_no_argument() -> None:
    with pytest.raises(TypeError):
        dependent_launch.packed((SimpleNamespace(nbytes=8),))


_KERNEL = re.compile(
    r"__global__ [^;{]*?\b([a-z]\w*)\s*\([^;{]*\{(.*?)^\}", re.DOTALL | re.MULTILINE
)
_LAMBDA = re.compile(r"auto \w+ = \[&\].*?^    \};", re.DOTALL | re.MULTILINE)
_USE = re.compile(r"\breturn;|__ld\w+\(|\batomic\w+\(|\b(load|copy|fetch)_\w+\(")
FOLDER = Path(dependent_launch.__file__).parent
KERNELS = [
    (path.name, name, body)
    for path in sorted(FOLDER.glob("*.cu*"))
    for name, body in _KERNEL.findall(path.read_text(encoding="utf-8"))
]


def test_every_kernel_of_the_folder_is_looked_at() -> None:
    stated = sum(path.read_text().count("__global__ ") for path in FOLDER.glob("*.cu*"))
    assert len(KERNELS) == stated > 10


@pytest.mark.parametrize(
    ("file", "name", "body"), KERNELS, ids=[f"{file}-{name}" for file, name, _ in KERNELS]
)
def test_kernels_wait_before_they_read_or_leave(file: str, name: str, body: str) -> None:
    """A CTA that leaves without having waited hides the launch before from the one behind."""
    before, called, _ = body.partition("follow_launch();")
    assert called, f"{file}: {name} does not call follow_launch()"
    assert _USE.search(_LAMBDA.sub("", before)) is None, f"{file}: {name}: before follow_launch()"


#: Problems whose default configurations reach every kernel and every way of reading scales.
CASES = (
    ("hopper_gemm", "gemm:512x512x512:e4m3-row:bf16"),
    ("hopper_gemm", "gemm:512x512x512:deepseek-fp8:bf16"),
    # One scale a tensor: what is read once is what a compiler would move up.
    ("hopper_gemm", "gemm:512x512x512:e4m3-tensor:bf16"),
    ("hopper_aligned_gemm", "gemm:512x512x512:mxfp8-e4m3:bf16"),
    ("hopper_grouped_gemm", "grouped_gemm:8x1024x512x512:deepseek-fp8:contiguous:bf16"),
    ("hopper_block_gemm", "gemm:512x512x512:int8-b128:bf16"),
    ("hopper_block_gemm", "gemm:512x512x512:mxfp8-e4m3:bf16"),
    ("hopper_skinny_gemm", "gemm:16x512x512:e4m3-row:bf16"),
    ("hopper_skinny_gemm", "gemm:16x512x512:e4m3-tensor:bf16"),
    ("hopper_skinny_gemm", "gemm:16x512x512:mxfp8-e4m3:bf16"),
    ("hopper_weight_only", "gemm:8x512x512:w4a16-g128:bf16"),
    ("hopper_weight_prefill", "gemm:512x512x512:w4a16-g128:bf16"),
    ("cuda_quantize", "quantize:512x512:int8.b32x32+sr:bf16"),
    ("cuda_quantize_nvfp4", "quantize:512x512:nvfp4:bf16"),
    ("cuda_transpose", "transpose:512x512:int8"),
    ("cuda_dataflow_blocks", "dataflow:512x512:gelu:int8.b32x32+sr"),
    ("cuda_dataflow_blocks", "dataflow:500x500:gelu-bwd:int8.b128x128+sr"),
    ("cuda_dataflow_rows", "dataflow:512x512:layernorm-bwd:int8.b32x32+sr"),
    ("cuda_dataflow_rows", "dataflow:512x512:residual:int8.b32x32+sr"),
)
_TOUCH = re.compile(r"\b(LDG?|STG?|UTMA(LDG|STG|REDG)|UBLK(CP|RED)|LDGSTS|ATOMG?|REDG?)\b")


@pytest.mark.slow
@pytest.mark.skipif(nvrtc.compiler_name() is None, reason="NVRTC is missing")
@pytest.mark.parametrize(("family", "problem"), CASES, ids=lambda one: one)
def test_kernels_touch_memory_after_they_have_waited(
    family: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the machine code, where waiting is ``ACQBULK``."""
    monkeypatch.setenv(BINARIES, str(tmp_path))
    limits, parsed = load_gpu("h200").limits, parse_problem(problem)
    one = kernel(family)
    assert one.refusal(parsed, limits) is None
    assert one.compile_offline(parsed, one.default(parsed, limits), limits) is not None
    functions = [
        code
        for path in tmp_path.glob("*.cubin")
        for code in re.split(r"^\.text\.", machine_code(path.read_bytes()), flags=re.MULTILINE)[1:]
    ]
    assert functions
    for code in functions:
        waits, touches = code.find("ACQBULK"), _TOUCH.search(code)
        assert touches is not None
        assert 0 <= waits < touches.start()
