"""Codes of matrices on a CUDA device: memory, choices of kernels, quantisation both ways."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar

import torch

from sim import Gpu, gpu_names, load_gpu
from tiles.formats import Rounding, TensorFormat
from tiles.formats.torch_codec import QuantizedTensor, empty_scales
from tiles.formats.torch_encode import code_dtype
from tiles.kernels.base import Limits
from tiles.kernels.cupy_views import cupy_stream
from tiles.kernels.quantize_tiles import launch_block
from tiles.kernels.triton import dequantize_tiles, quantize_tiles, turned_tiles
from tiles.kernels.triton.dequantize_tiles_arguments import request as dequantize_request
from tiles.kernels.triton.quantize_tiles_arguments import request as quantize_request
from tiles.problems import Dequantize, Problem, Quantize
from workbench.nn.assembly import Assembly
from workbench.nn.choices import Choice, Choices
from workbench.nn.codes import BothDirections, Codes
from workbench.nn.cuda_assembly import PlacedCodes, stored_tensors
from workbench.nn.prepared import TritonLaunch, layout
from workbench.nn.reference_backend import ReferenceBackend

__all__ = ["PLAIN", "ROW_STEP", "CudaQuantizer", "gpu_of", "limits_of", "square_side"]

#: Rows of codes begin at multiples of 16 bytes in the products' loads.
ROW_STEP = 16
#: Element names of torch's dtypes.
PLAIN = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def gpu_of(device: torch.device) -> Gpu:
    """The GPU file that names a CUDA device.

    Raises:
        ValueError: there is no such device, no CuPy, or no GPU file for it.
    """
    if not torch.cuda.is_available():
        raise ValueError(f"device {device}: torch sees no CUDA device here; train on 'cpu'")
    if find_spec("cupy") is None:
        raise ValueError("cupy is missing: pip install 'tile-workbench[cuda]'")
    name = torch.cuda.get_device_name(device)
    for known in map(load_gpu, gpu_names()):
        if known.matches(name):
            return known
    raise ValueError(f"no GPU file names {name!r}: the known ones are {', '.join(gpu_names())}")


def limits_of(device: torch.device) -> Limits:
    """Limits of a CUDA device.

    Raises:
        ValueError: as :func:`gpu_of`.
    """
    return gpu_of(device).limits


class CudaQuantizer(ReferenceBackend):
    """Quantises and dequantises by kernels; what none serves is in ``unserved``."""

    name: ClassVar[str] = "cuda"

    def __init__(
        self,
        device: torch.device,
        *,
        tuned: Mapping[str, Choice] | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Serve a device.

        Args:
            tuned: problem's text to kernel and configuration; other products take the fastest
                predicted one, all else a family's default.
            limits: of a GPU without a file, where nothing is predicted; default: its GPU file.
        Raises:
            ValueError: as :func:`gpu_of` and :class:`Choices`.
        """
        self.device = device
        gpu = gpu_of(device) if limits is None else None
        chosen = limits if gpu is None else gpu.limits
        assert chosen is not None  # one of the two
        self.choices = Choices(chosen, tuned, gpu=gpu)
        self.unserved: dict[str, str] = {}
        #: Launches that were made before, by kind, layout and formats; none without a GPU, where
        #: every launch is checked.
        self.repeats = device.type == "cuda"
        self._prepared: dict[tuple[object, ...], Any] = {}
        self._streams: dict[int, Any] = {}

    def _choice(self, problem: Problem) -> Choice | None:
        found = self.choices.of(problem)
        if isinstance(found, Choice):
            return found
        self.unserved[str(problem)] = found.reason
        return None

    def _current(self) -> AbstractContextManager[Any]:
        """Its device, current: kernels are launched on that alone."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _stream(self) -> Any:
        """Torch's current stream for CuPy, made once for each."""
        raw = torch.cuda.current_stream(self.device).cuda_stream
        if raw not in self._streams:
            self._streams[raw] = cupy_stream(str(self.device))
        return self._streams[raw]

    def _key(
        self, kind: str, tensors: tuple[torch.Tensor | None, ...], *more: object
    ) -> tuple[object, ...] | None:
        """What a launch is known by that may be made again without its checks."""
        laid = layout(*tensors) if self.repeats else None
        return None if laid is None else (kind, laid, *more)

    def _bare(self, rows: int, cols: int, fmt: TensorFormat) -> QuantizedTensor:
        """As :meth:`_empty`, of blocks whose scales are all written: they hold anything."""
        assert fmt.scaling is not None
        grid = fmt.scaling.grid(rows, cols)
        return QuantizedTensor(
            codes=torch.empty(rows, cols, dtype=code_dtype(fmt.element), device=self.device),
            scales=torch.empty(grid, dtype=torch.float32, device=self.device),
            format=fmt,
        )

    def _empty(self, rows: int, cols: int, fmt: TensorFormat) -> QuantizedTensor:
        """Memory for codes and scales; scales hold zeros, codes anything."""
        assert fmt.scaling is not None
        return QuantizedTensor(
            codes=torch.empty(rows, cols, dtype=code_dtype(fmt.element), device=self.device),
            scales=empty_scales(rows, cols, fmt.scaling, self.device),
            format=fmt,
        )

    def _by_twin(self, what: str, reason: str) -> ReferenceBackend:
        self.unserved[what] = reason
        return ReferenceBackend()

    def quantize(
        self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0, share: float = 0.0
    ) -> Codes:
        if share or _stored(out) is None:
            return self._by_twin(
                f"quantize {out}, fallback {share:g}", "codes and scales of other kinds"
            ).quantize(x, out, seed=seed, share=share)
        if not x.is_contiguous() and x.t().is_contiguous() and _turns(out):
            return self._turned_codes(x, out)
        found = self._quantized(x.contiguous(), out, seed, transposed=False)
        return super().quantize(x, out, seed=seed) if found is None else found

    def _turned_codes(self, x: torch.Tensor, out: TensorFormat) -> Codes:
        """Codes of a transposed view, read as its matrix lies."""
        assert out.scaling is not None
        assert out.scaling.rows is not None
        rows, cols = x.shape
        straight, made = x.t(), self._bare(rows, cols, out)
        assert made.scales is not None
        tensors = {"x": straight, "codes": made.codes.view(torch.uint8), "scales": made.scales}
        key = self._key("turned", (straight,), out)
        with self._current():
            if known := self._prepared.get(key) if key is not None else None:
                known(tensors)
                return Codes(main=made)
            # 32 elements a thread.
            side, tile = out.scaling.rows, max(out.scaling.rows, 64)
            config = {"block_rows": tile, "block_cols": tile, "num_warps": tile * tile // 1024}
            config["software_cast"] = False
            turned_tiles.launch(*tensors.values(), block=side, config=config)
            if key is not None:
                call = turned_tiles._call(*tensors.values(), block=side, config=config)
                self._prepared[key] = TritonLaunch([call], tensors)
        return Codes(main=made)

    def quantize_both(self, x: torch.Tensor, out: TensorFormat, *, seed: int = 0) -> Codes:
        # Rows of the transposed codes begin at multiples of 16 bytes: the products' loads need it.
        fits = _stored(out) == "fp32" and x.shape[0] % ROW_STEP == 0
        found = self._quantized(x.contiguous(), out, seed, transposed=True) if fits else None
        return self.quantize(x, out, seed=seed) if found is None else found

    def assembly(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        out: TensorFormat,
        *,
        parts: tuple[int, int],
        both: bool,
        seed: int = 0,
    ) -> Assembly:
        side = square_side(out)
        # One that begins nowhere but at 0 may end within a block, at the matrix's own end.
        inside = [
            part % side if part < extent and side else 0
            for part, extent in zip(parts, shape, strict=True)
        ]
        if not side or any(inside) or dtype not in PLAIN:
            return super().assembly(shape, dtype, device, out, parts=parts, both=both, seed=seed)
        rows, cols = shape
        # Rows of the transposed codes begin at multiples of 16 bytes, as in `quantize_both`.
        turned = self._bare(cols, rows, out) if both and rows % ROW_STEP == 0 else None
        return PlacedCodes(self, self._bare(rows, cols, out), turned, seed)

    def quantize_directions(self, x: torch.Tensor, out: TensorFormat) -> BothDirections:
        found = None
        if _stored(out) is not None and out.rounding is not Rounding.STOCHASTIC:
            found = self._quantized(x.contiguous(), out, 0, transposed=True)
        if found is None or found.turned is None:
            return super().quantize_directions(x, out)
        return BothDirections(forward=Codes(main=found.main), turned=Codes(main=found.turned))

    def _quantized(
        self, x: torch.Tensor, out: TensorFormat, seed: int, *, transposed: bool
    ) -> Codes | None:
        """Codes by a kernel, in one pass with those of the transpose if asked."""
        rows, cols = x.shape
        key = self._key("quantize", (x,), out, transposed) if _in_blocks(out) else None
        if known := self._prepared.get(key) if key is not None else None:
            made = self._bare(rows, cols, out)
            turned = self._bare(cols, rows, out) if transposed else None
            tensors = {"x": x} | stored_tensors(made) | stored_tensors(turned, "_t")
            with self._current():
                known(tensors, _seed(out, seed))
            return Codes(main=made, turned=turned)
        source = PLAIN[x.dtype]
        problem = Quantize(rows=rows, cols=cols, target=out, source=source, transposed=transposed)
        # Where no kernel writes both, two launches do: nothing is unserved by that.
        choice = self._choice(problem) if not transposed else self.choices.of(problem)
        if not isinstance(choice, Choice):
            return None
        made, stored = self._empty(rows, cols, out), _stored(out)
        assert made.scales is not None  # of a format with scales
        assert stored is not None  # those who call have asked
        scales = made.scales
        if stored != "fp32":
            scales = torch.empty(scales.shape, dtype=torch.uint8, device=self.device)
        turned = None
        rest: dict[str, Any] = {}
        if transposed:
            turned = self._empty(cols, rows, out)
            one = launch_block(out) == (0, 0)  # a scale that serves both
            turned = replace(turned, scales=made.scales) if one else turned
            assert turned.scales is not None  # as its codes have them
            other = turned.scales
            if stored != "fp32":
                other = torch.empty(other.shape, dtype=torch.uint8, device=self.device)
            rest = {"codes_t": turned.codes.view(torch.uint8), "scales_t": None if one else other}
        operands = (x, made.codes.view(torch.uint8), scales)
        rest |= {
            "element": out.element.name,
            "block": launch_block(out),
            "stored": stored,
            "rule": out.scaling.rule.value if out.scaling else "absmax",
            "seed": _seed(out, seed),
            "config": choice.config.to_dict(),
        }
        with self._current():
            quantize_tiles.launch(*operands, **rest)
            if key is not None:
                calls = quantize_tiles._calls(quantize_request(*operands, **rest))
                tensors = {"x": x} | stored_tensors(made) | stored_tensors(turned, "_t")
                self._prepared[key] = TritonLaunch(calls, tensors)
        if stored != "fp32":
            made.scales.copy_(_powers(scales))
            if turned is not None and turned.scales is not None:
                turned.scales.copy_(_powers(rest["scales_t"]))
        return Codes(main=made, turned=turned)

    def dequantize(self, x: Codes, dtype: torch.dtype) -> torch.Tensor:
        stored = _stored(x.format)
        if x.fallback is not None or dtype not in PLAIN or stored is None:
            more = "" if x.fallback is None else ", fallback"
            twin = self._by_twin(f"dequantize {x.format}{more}", "codes and scales of other kinds")
            return twin.dequantize(x, dtype)
        rows, cols = x.shape
        codes, scales = x.main.codes.view(torch.uint8), x.main.scales
        key = None
        if _in_blocks(x.format) and codes.is_contiguous():
            key = self._key("dequantize", (codes, scales), x.format, dtype)
        if known := self._prepared.get(key) if key is not None else None:
            assert scales is not None
            out = torch.empty(rows, cols, dtype=dtype, device=self.device)
            with self._current():
                known({"codes": codes, "scales": scales, "out": out})
            return out
        source = replace(x.format, rounding=Rounding.NEAREST_EVEN)
        choice = self._choice(Dequantize(rows=rows, cols=cols, source=source, out=PLAIN[dtype]))
        if choice is None:
            return super().dequantize(x, dtype)
        assert scales is not None  # of a format with scales
        out = torch.empty(rows, cols, dtype=dtype, device=self.device)
        operands = (codes, scales if stored == "fp32" else x.main.scale_bits, out)
        rest: dict[str, Any] = {
            "element": source.element.name,
            "block": launch_block(source),
            "stored": stored,
            "config": choice.config.to_dict(),
        }
        with self._current():
            dequantize_tiles.launch(*operands, **rest)
            if key is not None:
                call = dequantize_tiles._call(dequantize_request(*operands, **rest))
                named = {"codes": codes, "scales": scales, "out": out}
                self._prepared[key] = TritonLaunch([call], named)
        return out


#: Elements whose codes are a byte each, which kernels and layers lay out alike.
_BYTES = ("int8", "mxint8", "e4m3fn", "e5m2")


def _stored(fmt: TensorFormat) -> str | None:
    """How kernels store the scales of codes that layers lay out alike; nothing for other codes."""
    scaling = fmt.scaling
    if scaling is None or scaling.two_level or fmt.asymmetric or fmt.element.name not in _BYTES:
        return None
    name = scaling.stored.name
    return name if name in ("fp32", "e8m0fnu") else None


def _in_blocks(fmt: TensorFormat) -> bool:
    """True for codes of a byte in blocks of several rows, whose scales are fp32 and row-major."""
    scaling = fmt.scaling
    if scaling is None or _stored(fmt) != "fp32":
        return False
    return scaling.rows is not None and scaling.rows > 1 and scaling.cols is not None


def square_side(fmt: TensorFormat) -> int:
    """Side of the square blocks of INT8 codes that a program holds; 0 of all other formats."""
    scaling = fmt.scaling
    if not _in_blocks(fmt) or scaling is None or not scaling.plain:
        return 0
    side = scaling.rows or 0
    fits = fmt.element.name == "int8" and side == scaling.cols and not side & (side - 1)
    return side if fits and 32 <= side <= 128 else 0


def _turns(fmt: TensorFormat) -> bool:
    """True where one pass quantises a transposed view: INT8 in square blocks, to nearest."""
    return bool(square_side(fmt)) and fmt.rounding is Rounding.NEAREST_EVEN


def _seed(out: TensorFormat, seed: int) -> int | None:
    return seed if out.rounding is Rounding.STOCHASTIC else None


def _powers(bits: torch.Tensor) -> torch.Tensor:
    """E8M0 scales as layers keep them, in fp32: 2^(bits - 127), and NaN."""
    words = (bits.int() << 23).masked_fill(bits == 0, 1 << 22)  # 2^-127 is a subnormal of fp32
    return words.masked_fill(bits == 255, 0x7FC00000).view(torch.float32)
