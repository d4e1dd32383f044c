"""A model's ``config.json`` as a network: what its layers hold beside their products.

Keys that a file leaves out have the defaults of the transformers library's configuration of that
model type.  Biases of Qwen2's queries, keys and values and of BERT and GPT-2 are counted as
parameters; the products that add them take no longer for it.
"""

from abc import abstractmethod
from pathlib import Path

from sim.network import Activation, Block, Network, Normalization
from tiles.intake import nearest, shown
from workbench.model_configs import (
    BertConfig,
    Extent,
    Gpt2Config,
    LlamaConfig,
    ModelConfig,
    head_width,
)
from workbench.models import read_config

__all__ = ["NETWORK_TYPES", "read_network"]

#: Names of activations in config files; approximations of one function cost alike.
ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU,
    "gelu_fast": Activation.GELU,
    "gelu_python": Activation.GELU,
    "gelu_pytorch_tanh": Activation.GELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "relu": Activation.RELU,
}


def _activation(key: str, name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise ValueError(
            f"{key}: unknown {shown(name)}: {nearest(name, ACTIVATIONS)}"
            f"choose from {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _check_places(key: str, places: int | None, length: int) -> None:
    """Refuse sequences with more places than a table of embeddings has."""
    if places is not None and length > places:
        raise ValueError(
            f"{key} = {places} is fewer than the {length} tokens of a sequence: "
            f"take --sequence {places} or less"
        )


class _NetworkConfig(ModelConfig):
    """The keys of a model type that decide its operators."""

    @abstractmethod
    def network(self, length: int) -> Network:
        """The network, for sequences of ``length`` tokens.

        Raises:
            ValueError: keys contradict one another, or the model takes no such sequences.
        """


class _LlamaNetwork(LlamaConfig, _NetworkConfig):
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None

    def window(self) -> int | None:
        """Tokens that a query sees at most, itself included."""
        return self.sliding_window

    def biases(self, block: Block) -> int:
        """Elements of the vectors that products add."""
        qkv, o, up, down = (linear.n for linear in block.linears)
        return self.attention_bias * (qkv + o) + self.mlp_bias * (up + down)

    def network(self, length: int) -> Network:
        window = self.window()
        if window is not None and window < length:
            raise ValueError(
                f"sliding_window = {window} is shorter than the {length} tokens of a sequence, and "
                f"attention over windows is not modelled: take --sequence {window} or less"
            )
        self.linears(1)  # checks the heads

        def block(bias_elements: int) -> Block:
            return Block(
                hidden=self.hidden_size,
                heads=self.num_attention_heads,
                kv_heads=self.num_key_value_heads or self.num_attention_heads,
                head_dim=self.head_dim
                or head_width("hidden_size", self.hidden_size, self.num_attention_heads),
                inner=self.intermediate_size,
                activation=_activation("hidden_act", self.hidden_act),
                gated=True,
                normalization=Normalization.RMS,
                causal=True,
                rotary=True,
                bias_elements=bias_elements,
            )

        biases = self.biases(block(0))
        return Network(name="llama", block=block(biases), layers=self.num_hidden_layers)


class _Qwen2Network(_LlamaNetwork):
    use_sliding_window: bool = False

    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    def biases(self, block: Block) -> int:
        return block.qkv_width


def _plain(
    name: str,
    sizes: tuple[int, int, int, int],
    activation: Activation,
    *,
    hidden_key: str,
    causal: bool,
) -> Network:
    """BERT and GPT-2: ordinary attention, an ungated feed-forward part, biases everywhere.

    Args:
        sizes: width, heads, width of the feed-forward part, layers.
    """
    hidden, heads, inner, layers = sizes
    block = Block(
        hidden=hidden,
        heads=heads,
        kv_heads=heads,
        head_dim=head_width(hidden_key, hidden, heads),
        inner=inner,
        activation=activation,
        gated=False,
        normalization=Normalization.LAYER,
        causal=causal,
        rotary=False,
        bias_elements=3 * hidden + hidden + inner + hidden,
    )
    return Network(name=name, block=block, layers=layers)


class _BertNetwork(BertConfig, _NetworkConfig):
    hidden_act: str = "gelu"
    is_decoder: bool = False
    max_position_embeddings: Extent | None = None

    def network(self, length: int) -> Network:
        _check_places("max_position_embeddings", self.max_position_embeddings, length)
        sizes = (
            self.hidden_size,
            self.num_attention_heads,
            self.intermediate_size,
            self.num_hidden_layers,
        )
        activation = _activation("hidden_act", self.hidden_act)
        return _plain("bert", sizes, activation, hidden_key="hidden_size", causal=self.is_decoder)


class _Gpt2Network(Gpt2Config, _NetworkConfig):
    activation_function: str = "gelu_new"
    n_positions: Extent | None = None

    def network(self, length: int) -> Network:
        _check_places("n_positions", self.n_positions, length)
        sizes = (self.n_embd, self.n_head, self.n_inner or 4 * self.n_embd, self.n_layer)
        activation = _activation("activation_function", self.activation_function)
        return _plain("gpt2", sizes, activation, hidden_key="n_embd", causal=True)


#: ``model_type`` of a config.json to the keys that its network needs.
NETWORK_TYPES: dict[str, type[_NetworkConfig]] = {
    "bert": _BertNetwork,
    "gpt2": _Gpt2Network,
    "llama": _LlamaNetwork,
    "mistral": _LlamaNetwork,
    "qwen2": _Qwen2Network,
}


def read_network(config_path: str | Path, length: int) -> Network:
    """The network that a config.json describes, named as its file or folder.

    Args:
        config_path: of a model type in :data:`NETWORK_TYPES`.
        length: tokens of a sequence.
    Raises:
        ValueError: the file cannot be read, is not JSON, is of another model type, lacks a key, has
            an impossible value, or its model takes no sequences of that length.
    """
    path = Path(config_path)
    config = read_config(path, NETWORK_TYPES, "predict its products with --tokens T")
    try:
        network = config.network(length)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    # "gpt2" of "models/gpt2.json", "gpt2" of "gpt2/config.json" as Hugging Face lays it out.
    name = path.stem if path.stem != "config" else path.absolute().parent.name
    return Network(name=name, block=network.block, layers=network.layers)
