"""What the layers of one model share: recipe, random keys, device backends."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch

from tiles.formats import Rounding, TensorFormat
from tiles.recipes import Recipe
from workbench.nn.assembly import Assembly
from workbench.nn.backend import Backend
from workbench.nn.coded_tensor import CodedTensor
from workbench.nn.codes import BothDirections, Codes
from workbench.nn.in_graph import InGraph
from workbench.nn.last_input import LastInput
from workbench.nn.seeds import SeedStream, derived
from workbench.nn.tensor_scales import Delayed, Fixed, LayerScales

if TYPE_CHECKING:
    from workbench.nn.choices import Choice

__all__ = ["Like", "Runtime", "backend_of", "dtype_behind", "same_values", "serves_both_directions"]


def serves_both_directions(fmt: TensorFormat) -> bool:
    """True where codes of a matrix are codes of the transposed one: square blocks, one scale."""
    return fmt.scaling is None or fmt.scaling.rows == fmt.scaling.cols


@dataclass(frozen=True, slots=True, kw_only=True)
class Like:
    """What a gradient has to look like: the tensor's own kind."""

    shape: torch.Size
    dtype: torch.dtype
    coded: bool

    @classmethod
    def of(cls, x: torch.Tensor) -> "Like":
        """The kind of a tensor."""
        return cls(shape=x.shape, dtype=x.dtype, coded=isinstance(x, CodedTensor))


@dataclass(slots=True, weakref_slot=True)
class Runtime:
    """Shared by the layers of a converted model; a second model has its own."""

    recipe: Recipe
    share: float = 0.0  #: of the blocks of a product's activations that fall back to 16 bits
    scaler: Delayed | Fixed | None = None  #: of whole tensors; default: each from its own numbers
    seeds: SeedStream = field(default_factory=SeedStream)
    #: codes come from the products themselves; else products leave numbers in the dtype of what
    #: goes in, which another pass quantises
    fused: bool = True
    keep_weights: bool = True  #: codes of weights from step to step; else anew in every pass
    #: a training step may be captured in a CUDA graph: every replay draws the bits of its capture
    replayable: bool = False
    tuned: Mapping[str, "Choice"] | None = None  #: configurations of kernels, by problem
    given: Backend | None = None  #: for every device; default: chosen by the tensors' device
    _found: dict[torch.device, Backend] = field(default_factory=dict)
    _last: LastInput = field(default_factory=LastInput)
    #: linear layers are operators of a graph under ``torch.compile``; ``None``: outside of graphs
    in_graph: InGraph | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Take a place among the runtimes of this process, where graphs find the layers' codes."""
        # Scales that change with every call, and outliers of any number, stay outside.
        stays = self.dataflow or self.scaler is not None or self.share > 0
        both = serves_both_directions(self.recipe.activation)
        self.in_graph = None if stays else InGraph(self, both=both)

    def __getstate__(self) -> dict[str, Any]:
        """All but its place in this process."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "in_graph"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a place of its own."""
        for name, value in state.items():
            setattr(self, name, value)
        self.__post_init__()

    def __deepcopy__(self, memo: dict[int, object]) -> "Runtime":
        """Itself: copies of a layer draw keys of their own from one count, and are one model."""
        return self

    @property
    def dataflow(self) -> bool:
        """True where operators between products read and write codes too."""
        return self.recipe.output.scaling is not None

    def backend(self, device: torch.device) -> Backend:
        """The kernels of a CUDA device, the reference twin elsewhere.

        Raises:
            ValueError: no kernels for the device, or CuPy is missing.
        """
        if self.given is not None:
            return self.given
        if device not in self._found:
            self._found[device] = backend_of(device, self.tuned)
        return self._found[device]

    def draw(self) -> int:
        """A key for a layer's random bits; 0, and none is used up, where nothing is trained.

        Raises:
            RuntimeError: a CUDA graph is being captured, whose replays would draw the same key.
        """
        if not torch.is_grad_enabled():
            return 0
        self._refuse_capture()
        return _of_this_rank(self.seeds.draw())

    def key_at(self, count: int) -> int:
        """The key that :meth:`draw` returns where ``count`` were drawn, for a graph that trains.

        Raises:
            RuntimeError: as :meth:`draw`.
        """
        self._refuse_capture()
        return _of_this_rank(derived(self.seeds.seed, count))

    def _refuse_capture(self) -> None:
        """Keys are numbers of the host: a captured launch keeps that of its capture."""
        initialized = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]  # torch
        if self.replayable or not initialized:
            return
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError(
                "training on codes inside a CUDA graph: every replay would round by the same bits; "
                "capture under torch.no_grad(), train without a graph, or accept that with "
                "training_runtime(..., replayable=True)"
            )

    def mask_key(self) -> int:
        """A key of a dropout mask, drawn by torch's generator of the CPU.

        ``torch.utils.checkpoint`` puts that generator back where it was when it computes a layer
        again, so the mask is the same one; a count of ours would have gone on.
        """
        if torch.is_grad_enabled():
            self._refuse_capture()
        drawn = int(torch.randint(2**63 - 1, (), device="cpu"))
        return _of_this_rank(derived(self.seeds.seed, drawn))

    def codes(self, x: torch.Tensor, *, feeds_product: bool = False) -> Codes:
        """Codes of activations: those that they travel as, or new ones of a plain tensor."""
        fmt = self.recipe.activation
        if isinstance(x, CodedTensor) and x.codes.format == fmt:
            return x.codes
        plain = x.dequantized() if isinstance(x, CodedTensor) else x
        share = self.share if feeds_product else 0.0
        return self.backend(x.device).quantize(_matrix(plain), fmt, share=share)

    def layer_scales(self) -> LayerScales | None:
        """Scales of a new layer, where they do not come from each tensor itself."""
        return None if self.scaler is None else LayerScales(self.scaler)

    def scaled(
        self,
        role: str,
        x: torch.Tensor,
        fmt: TensorFormat,
        scales: LayerScales,
        *,
        train: bool,
        seed: int = 0,
    ) -> Codes:
        """Codes of a plain tensor under the scale of a layer."""
        matrix = _matrix(x)
        scale = scales.scale(role, matrix, fmt.element, train=train)
        return self.backend(x.device).quantize_by(matrix, fmt, scale, seed=seed)

    def operand(
        self, x: torch.Tensor, *, both: bool, scales: LayerScales | None = None
    ) -> BothDirections:
        """Codes of a product's activations.

        A plain tensor that autograd made is quantised once for all layers that read it in a row,
        as the projections of queries, keys and values do.

        Args:
            x: (..., K).
            both: for the product of the weight's gradient too.
            scales: of the layer, where it has some; its input is then quantised for it alone.
        """
        fmt = self.recipe.activation
        if scales is not None:
            return BothDirections(
                forward=self.scaled("input", x, fmt, scales, train=both), turned=None
            )
        if isinstance(x, CodedTensor) and x.codes.format == fmt and serves_both_directions(fmt):
            return BothDirections(forward=x.codes, turned=None)
        plain = x.dequantized() if isinstance(x, CodedTensor) else x

        def made() -> BothDirections:
            if both and not serves_both_directions(fmt):
                return self._directions(_matrix(plain), fmt)
            return BothDirections(forward=self.codes(plain, feeds_product=True), turned=None)

        return self._last.codes(x, both, made)

    def _directions(
        self, matrix: torch.Tensor, fmt: TensorFormat, seed: int = 0, turned_seed: int = 0
    ) -> BothDirections:
        """Codes both ways, in one pass where nothing is drawn."""
        backend = self.backend(matrix.device)
        if fmt.rounding is not Rounding.STOCHASTIC:
            return backend.quantize_directions(matrix, fmt)
        forward = backend.quantize(matrix, fmt, seed=seed)
        return BothDirections(
            forward=forward, turned=backend.quantize(matrix.t(), fmt, seed=turned_seed)
        )

    def weights(
        self, weight: torch.Tensor, *, train: bool, scales: LayerScales | None = None
    ) -> BothDirections:
        """Codes of a weight (N, K) for the products of both passes."""
        backend, fmt = self.backend(weight.device), self.recipe.weight
        if scales is not None:
            return BothDirections(
                forward=self.scaled("weight", weight, fmt, scales, train=train), turned=None
            )
        if not serves_both_directions(fmt):
            return self._directions(weight, fmt)
        return BothDirections(forward=backend.quantize(weight, fmt), turned=None)

    def gradient(self, dy: torch.Tensor, seed: int, *, feeds_products: bool = False) -> Codes:
        """Codes of a gradient: those that it travels as, or new ones with a key of their own.

        Args:
            feeds_products: a linear layer reads them, once as they are and once transposed.
        """
        fmt = self.recipe.gradient
        if isinstance(dy, CodedTensor) and same_values(dy.codes.format, fmt):
            return dy.codes
        plain = dy.dequantized() if isinstance(dy, CodedTensor) else dy
        backend = self.backend(dy.device)
        both = feeds_products and fmt.scaling is not None and serves_both_directions(fmt)
        quantize = backend.quantize_both if both else backend.quantize
        return quantize(_matrix(plain), fmt, seed=seed)

    def gradient_in_parts(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        *,
        parts: tuple[int, int],
        feeds_products: bool,
    ) -> Assembly:
        """Codes of a gradient that comes in parts, otherwise as :meth:`gradient`."""
        fmt = self.recipe.gradient
        both = feeds_products and fmt.scaling is not None and serves_both_directions(fmt)
        return self.backend(device).assembly(
            shape, dtype, device, fmt, parts=parts, both=both, seed=seed
        )

    def tensor(
        self, codes: Codes, shape: torch.Size | tuple[int, ...], x: torch.Tensor
    ) -> CodedTensor:
        """What travels on: the codes under a tensor's shape, in the dtype that ``x`` leads to."""
        return self._coded(codes, shape, dtype_behind(x))

    def _coded(
        self, codes: Codes, shape: torch.Size | tuple[int, ...], dtype: torch.dtype
    ) -> CodedTensor:
        return CodedTensor(codes, shape, dtype, self.backend(codes.device).dequantize)

    def gradient_directions(
        self, dy: torch.Tensor, seed: int, turned_seed: int, *, both: bool
    ) -> BothDirections:
        """Codes of a linear layer's gradient for its products.

        Args:
            seed, turned_seed: keys of both directions, where they differ.
            both: the weight has a gradient too.
        """
        fmt = self.recipe.gradient
        if not both or serves_both_directions(fmt):
            codes = self.gradient(dy, seed, feeds_products=both)
            return BothDirections(forward=codes, turned=None)
        plain = dy.dequantized() if isinstance(dy, CodedTensor) else dy
        return self._directions(_matrix(plain), fmt, seed, turned_seed)

    def returned(self, codes: Codes, like: Like) -> torch.Tensor:
        """A gradient in the kind that its tensor has: codes for codes, numbers for numbers."""
        if like.coded:
            return self._coded(codes, like.shape, like.dtype)
        return self.backend(codes.device).dequantize(codes, like.dtype).view(like.shape)


def dtype_behind(x: torch.Tensor) -> torch.dtype:
    """The dtype of a layer's output: that of its input, or autocast's where that is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _of_this_rank(key: int) -> int:
    """A key of this process among those that train one model: each has data of its own."""
    group = torch.distributed
    rank = group.get_rank() if group.is_available() and group.is_initialized() else 0
    return derived(key, rank) if rank else key


def same_values(one: TensorFormat, other: TensorFormat) -> bool:
    """True where codes of one format are codes of the other: roundings may differ."""
    return (one.element, one.scaling) == (other.element, other.scaling)


def _matrix(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def backend_of(device: torch.device, tuned: Mapping[str, "Choice"] | None = None) -> Backend:
    """The backend of a device.

    Args:
        tuned: configurations of its kernels, by problem.
    Raises:
        ValueError: no kernels for a CUDA device, or CuPy is missing.
    """
    if device.type == "cuda":
        from workbench.nn.cuda_backend import CudaBackend

        return CudaBackend(device, tuned=tuned)
    from workbench.nn.reference_backend import ReferenceBackend

    return ReferenceBackend()
