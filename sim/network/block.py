"""What a transformer is to the cost model: extents, no weights and no files."""

from dataclasses import dataclass
from enum import Enum

from tiles.problems.base import MAX_EXTENT, check_extents

__all__ = ["Activation", "Batch", "Block", "Linear", "Network", "Normalization"]

MAX_LAYERS = 10_000


class Activation(Enum):
    """The non-linear function of the feed-forward part; the value is its name among operators."""

    GELU = "gelu"
    SILU = "silu"
    RELU = "relu"


class Normalization(Enum):
    """What comes before (or after) attention and feed-forward part."""

    LAYER = "layernorm"  #: mean and variance, a weight and a bias a column
    RMS = "rmsnorm"  #: mean square, a weight a column

    @property
    def vectors(self) -> int:
        """Learned vectors of one normalisation."""
        return 2 if self is Normalization.LAYER else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """A linear layer ``Y[tokens, n] = X[tokens, k] · W[n, k]^T``."""

    name: str
    n: int  #: output features
    k: int  #: input features


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One layer: attention and a feed-forward part, each with a normalisation and a residual add.

    Where the normalisations stand (before or after) changes no count of bytes or operations.
    """

    hidden: int  #: width of the residual stream, elements
    heads: int  #: query heads
    kv_heads: int  #: key and value heads
    head_dim: int  #: elements of a head
    inner: int  #: width of the feed-forward part
    activation: Activation
    gated: bool  #: the activation of one half of ``2 inner`` features multiplies the other
    normalization: Normalization
    causal: bool  #: a query sees the keys up to its own place
    rotary: bool  #: queries and keys are rotated by their place before they are multiplied
    bias_elements: int = 0  #: of the vectors that the linear layers add

    def __post_init__(self) -> None:
        extents = ("hidden", "heads", "kv_heads", "head_dim", "inner")
        check_extents({name: getattr(self, name) for name in extents})
        if self.heads % self.kv_heads:
            raise ValueError(
                f"{self.heads} heads must be a multiple of {self.kv_heads} key-value heads: "
                "correct one of them"
            )
        if self.bias_elements < 0:
            raise ValueError(f"bias_elements = {self.bias_elements} must not be negative")
        check_extents({linear.name: linear.n for linear in self.linears})

    @property
    def query_width(self) -> int:
        """Features of the queries of a token."""
        return self.heads * self.head_dim

    @property
    def qkv_width(self) -> int:
        """Features of a token's queries, keys and values."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def up_width(self) -> int:
        """Features that the first product of the feed-forward part yields."""
        return 2 * self.inner if self.gated else self.inner

    @property
    def linears(self) -> tuple[Linear, Linear, Linear, Linear]:
        """The four products of a layer, in the order in which it runs them."""
        return (
            Linear(name="qkv", n=self.qkv_width, k=self.hidden),
            Linear(name="o", n=self.hidden, k=self.query_width),
            Linear(name="gate_up" if self.gated else "up", n=self.up_width, k=self.hidden),
            Linear(name="down", n=self.hidden, k=self.inner),
        )

    @property
    def linear_weights(self) -> int:
        """Elements of the four weight matrices."""
        return sum(linear.n * linear.k for linear in self.linears)

    @property
    def vector_weights(self) -> int:
        """Elements of biases and of the two normalisations."""
        return self.bias_elements + 2 * self.normalization.vectors * self.hidden

    @property
    def parameters(self) -> int:
        """Learned elements of a layer."""
        return self.linear_weights + self.vector_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A stack of equal layers; embeddings, the last normalisation and the output head are not in.

    They run in 16 bits under every recipe.
    """

    name: str
    block: Block
    layers: int

    def __post_init__(self) -> None:
        if not 1 <= self.layers <= MAX_LAYERS:
            raise ValueError(f"{self.layers} layers must lie in 1..{MAX_LAYERS}: correct the model")

    @property
    def parameters(self) -> int:
        """Learned elements of all layers."""
        return self.layers * self.block.parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Sequences of one length, all of whose tokens go through the network together."""

    sequences: int
    length: int  #: tokens of a sequence

    def __post_init__(self) -> None:
        check_extents({"batch": self.sequences, "sequence": self.length})
        if self.tokens > MAX_EXTENT:
            raise ValueError(
                f"batch {self.sequences} x sequence {self.length} are {self.tokens} tokens: "
                f"at most {MAX_EXTENT}"
            )

    @property
    def tokens(self) -> int:
        """Rows of every product."""
        return self.sequences * self.length
