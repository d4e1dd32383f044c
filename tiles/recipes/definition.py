"""What a recipe is: the formats that the tensors of one linear layer take, and what goes with them.

For a layer ``Y = X · W^T`` a recipe names the formats of the activations X, the weights W, the
output Y, its gradient, and of the residual stream beside the layer.  Columns of every scaling run
along the contraction of the product that the tensor enters.
"""

from dataclasses import dataclass

from tiles.formats import ElementFormat, Rounding, TensorFormat, element

__all__ = ["OutlierBlocks", "OutlierColumns", "Recipe", "WeightUpdate"]

_BF16 = TensorFormat(element=element("bf16"))
_FP32 = TensorFormat(element=element("fp32"))
_FP16 = element("fp16")
_KAHAN = "+kahan"
_NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierColumns:
    """Columns along K that stay out of the low-precision product.

    Every K-column of the activations that holds some ``|x| > threshold`` is multiplied in ``kept``,
    with the same columns of the weights, and added; scales are those of what is left.
    Source: LLM.int8(), arXiv 2208.07339, section 3.2.
    """

    threshold: float = 6.0
    kept: ElementFormat = _FP16

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ValueError(f"outlier threshold {self.threshold}: it must be positive")

    def __str__(self) -> str:
        return f"columns with |x| > {self.threshold:g} in {self.kept}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierBlocks:
    """Activation blocks that fall back to twice the bits.

    The ``share`` of the tensor's blocks with the largest amax is stored in two steps: codes, and
    the rest that they leave, quantised once more with the same format.
    Source: arXiv 2503.08040, fallback quantisation: its threshold is steered, from step to step,
    so that a share of the blocks falls back; the share itself is the workbench's choice.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share of outlier blocks {self.share}: above 0 and at most 1")

    def __str__(self) -> str:
        return f"{100 * self.share:g} % of the blocks, by amax, twice"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUpdate:
    """How training keeps the weights that every step changes.

    ``Kahan``: with ``y = step - c`` and ``t = round(w + y)``, ``c = round(round(t - w) - y)``.
    """

    master: TensorFormat | None  #: format of the kept weights; ``None``: the recipe does not train
    kahan: bool = False  #: a compensation ``c`` in the same format carries what rounding lost

    def __post_init__(self) -> None:
        if self.kahan and (self.master is None or self.master.rounding is Rounding.STOCHASTIC):
            raise ValueError("Kahan summation needs kept weights that are rounded to nearest")

    @property
    def bits(self) -> int:
        """Bits of a kept weight and its compensation, scales left out; 0 without training."""
        if self.master is None:
            return 0
        return self.master.element.bits * (2 if self.kahan else 1)

    @classmethod
    def parse(cls, text: str) -> "WeightUpdate":
        """Read ``none``, a tensor format (``fp32``, ``bf16+sr``) or one with ``+kahan``.

        Raises:
            ValueError: none of these.
        """
        if text == _NONE:
            return cls(master=None)
        kahan = text.endswith(_KAHAN)
        return cls(master=TensorFormat.parse(text.removesuffix(_KAHAN)), kahan=kahan)

    def __str__(self) -> str:
        return _NONE if self.master is None else f"{self.master}{_KAHAN if self.kahan else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A named choice of formats.  ``weight`` rows are output channels, columns run along K."""

    name: str
    activation: TensorFormat
    weight: TensorFormat
    source: str  #: where the recipe comes from, and what of it is modelled
    #: Gradient of the output, as the backward products take it; bf16 where there is no training.
    gradient: TensorFormat = _BF16
    output: TensorFormat = _BF16  #: what the product leaves for the operator after it
    residual: TensorFormat = _BF16  #: the residual stream
    update: WeightUpdate = WeightUpdate(master=None)
    weight_gradient: TensorFormat = _BF16  #: as the optimiser takes it
    #: Adam's moments, as they are kept between steps.
    moments: tuple[TensorFormat, TensorFormat] = (_FP32, _FP32)
    outliers: OutlierColumns | OutlierBlocks | None = None

    @classmethod
    def of(
        cls,
        name: str,
        *,
        activation: str,
        weight: str | None = None,
        gradient: str = "bf16",
        output: str = "bf16",
        residual: str = "bf16",
        update: str = "none",
        weight_gradient: str | None = None,
        moments: tuple[str, str] = ("fp32", "fp32"),
        outliers: OutlierColumns | OutlierBlocks | None = None,
        source: str,
    ) -> "Recipe":
        """A recipe from the texts of its formats.

        Weights are like activations and weight gradients like the residual stream unless said.

        Raises:
            ValueError: a text is not a tensor format, or ``update`` no weight update.
        """
        return cls(
            name=name,
            activation=TensorFormat.parse(activation),
            weight=TensorFormat.parse(activation if weight is None else weight),
            gradient=TensorFormat.parse(gradient),
            output=TensorFormat.parse(output),
            residual=TensorFormat.parse(residual),
            update=WeightUpdate.parse(update),
            weight_gradient=TensorFormat.parse(weight_gradient or residual),
            moments=(TensorFormat.parse(moments[0]), TensorFormat.parse(moments[1])),
            outliers=outliers,
            source=source,
        )

    @property
    def quantized(self) -> bool:
        """True when activations must be scaled and rounded before the product can run."""
        return self.activation.scaling is not None

    @property
    def direct_cast(self) -> bool:
        """True when activations are rounded to fewer than 16 bits without any scale."""
        return self.activation.scaling is None and self.activation.element.bits < 16

    @property
    def scaled(self) -> bool:
        """True when the product has scales to apply, on either side."""
        return self.activation.scaling is not None or self.weight.scaling is not None

    @property
    def trains(self) -> bool:
        """True when the recipe covers training; others are for inference alone."""
        return self.update.master is not None

    @property
    def blockwise(self) -> bool:
        """True when scales change along K on either side."""
        scalings = (self.activation.scaling, self.weight.scaling)
        return any(s is not None and s.blockwise for s in scalings)

    def __str__(self) -> str:
        return self.name
