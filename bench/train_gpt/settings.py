"""What is trained and for how long: everything that two compared runs have in common."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tiles.intake import shown

__all__ = [
    "BASELINE",
    "FULL",
    "RECIPES",
    "SMOKE",
    "SMOKE_RECIPES",
    "VOCABULARY",
    "Settings",
    "Size",
]

#: Tokens are bytes.
VOCABULARY = 256
BASELINE = "bf16"
#: In the order in which they are begun; ``fp32`` is the plain model, which no layer converts.
RECIPES = (
    BASELINE,
    "jetfire",
    "jetfire-64",
    "jetfire-128",
    "mxfp6-e3m2",
    "mxfp6-e3m2-rceil",
    "mxfp8-e4m3",
    "mxfp8-e4m3-rceil",
    "int8-row",
    "int8-tensor",
    "deepseek-fp8",
    "int4-tensor",
    "fp32",
)
SMOKE_RECIPES = (BASELINE, "jetfire", "int8-row")
#: Features that every recipe's blocks divide.
STEP = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Extents of the model and of a batch."""

    layers: int
    width: int
    heads: int
    tokens: int  #: of a sequence
    batch: int  #: sequences

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} {value}: at least 1")
        if self.width % STEP or self.width % self.heads:
            raise ValueError(
                f"width {self.width}, {self.heads} heads: a multiple of {STEP}, which blocks of "
                "every recipe divide, and of the heads"
            )

    @property
    def parameters(self) -> int:
        """Of the whole model, embeddings and head included."""
        width = self.width
        block = 12 * width * width + 13 * width
        return self.layers * block + (2 * VOCABULARY + self.tokens + 2) * width


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A model, its optimiser, and where it is looked at."""

    size: Size
    steps: int = 2000
    rate: float = 1e-3
    warmup: int = 100  #: steps in which the rate rises; it falls to a tenth by a cosine
    betas: tuple[float, float] = (0.9, 0.95)
    decay: float = 0.1  #: of matrices
    max_norm: float = 1.0  #: of all gradients together
    windows: int = 512  #: sequences of held-out text, the same for every run
    looks: int = 8  #: at the held-out text, the last one behind the last step
    curve: int = 50  #: steps that a number of the training curve is the mean of
    checkpoint: int = 1000  #: steps between checkpoints
    refused: int = 25  #: steps refused in a row that end a run
    text: dict[str, Any] = field(default_factory=dict)  #: digest and sizes of the text

    def __post_init__(self) -> None:
        for name in ("steps", "windows", "looks", "curve", "checkpoint", "refused"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: at least 1")

    def rate_at(self, step: int) -> float:
        """Of a step, counted from 0."""
        warmup = min(self.warmup, max(1, self.steps // 10))
        if step < warmup:
            return self.rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return self.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))

    def looked_at(self, step: int) -> bool:
        """Whether the held-out loss is taken behind so many steps."""
        return step == self.steps or step % max(1, self.steps // self.looks) == 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> "Settings":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            given = dict(data)
            size, betas = Size(**given.pop("size")), tuple(given.pop("betas"))
            return cls(size=size, betas=betas, **given)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"no settings of a training: {shown(data)}: {error}") from error

    @property
    def digest(self) -> str:
        """Of every setting, the text's digest among them."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


FULL = Settings(size=Size(layers=4, width=512, heads=8, tokens=256, batch=16))
#: Seconds on a CPU.
SMOKE = Settings(
    size=Size(layers=1, width=128, heads=2, tokens=32, batch=2),
    steps=5,
    windows=4,
    looks=1,
    curve=2,
    checkpoint=2,
)
