"""A config.json as a network: extents against published counts, and what it may not say."""

import json
from pathlib import Path
from typing import Any

import pytest

from sim.network import Activation, Normalization
from workbench.models import gemm_shapes
from workbench.network_models import NETWORK_TYPES, read_network

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"
LLAMA: dict[str, Any] = json.loads((EXAMPLES / "llama-3-8b.json").read_text())
BERT: dict[str, Any] = json.loads((EXAMPLES / "bert-base.json").read_text())
GPT2: dict[str, Any] = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12}


def written(folder: Path, config: dict[str, Any], name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(config))
    return path


def test_llama_3_8b_has_the_published_parameters() -> None:
    network = read_network(EXAMPLES / "llama-3-8b.json", 4096)
    # 8,030,261,248 less two embeddings of 128256 x 4096 and the last normalisation.
    assert network.parameters == 8_030_261_248 - 2 * 128_256 * 4096 - 4096
    assert (network.name, network.layers) == ("llama-3-8b", 32)
    block = network.block
    assert (block.activation, block.gated, block.causal) == (Activation.SILU, True, True)
    assert (block.normalization, block.rotary) == (Normalization.RMS, True)


def test_gpt2_has_the_published_parameters(tmp_path: Path) -> None:
    network = read_network(written(tmp_path, GPT2, "gpt2.json"), 1024)
    # 124,439,808 of openai-community/gpt2 less embeddings of 50257 and 1024 places and the last
    # normalisation.
    assert network.parameters == 124_439_808 - (50_257 + 1024) * 768 - 2 * 768
    assert (network.block.causal, network.block.gated) == (True, False)


def test_bert_base_has_the_published_parameters() -> None:
    network = read_network(EXAMPLES / "bert-base.json", 512)
    # 109,482,240 of bert-base-uncased less embeddings with their normalisation, and the pooler.
    embeddings = (30_522 + 512 + 2) * 768 + 2 * 768
    assert network.parameters == 109_482_240 - embeddings - (768 * 768 + 768)
    assert not network.block.causal


@pytest.mark.parametrize("config", [LLAMA, BERT, GPT2], ids=lambda one: one["model_type"])
def test_products_are_those_of_the_linear_layers(config: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, config)
    network = read_network(path, 64)
    products = {(one.n, one.k) for one in network.block.linears}
    assert products == {(shape.n, shape.k) for shape in gemm_shapes(path, [64])}


def test_a_network_in_a_folder_has_the_folders_name(tmp_path: Path) -> None:
    (tmp_path / "gpt2-large").mkdir()
    assert read_network(written(tmp_path / "gpt2-large", GPT2), 8).name == "gpt2-large"


def test_qwen2_adds_biases_to_its_queries_keys_and_values(tmp_path: Path) -> None:
    qwen = LLAMA | {"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": False}
    plain = read_network(written(tmp_path, LLAMA), 4096)
    found = read_network(written(tmp_path, qwen), 4096)
    assert found.parameters - plain.parameters == 32 * 6144


def test_windows_no_shorter_than_the_sequence_do_not_matter(tmp_path: Path) -> None:
    mistral = written(tmp_path, LLAMA | {"model_type": "mistral", "sliding_window": 4096})
    assert read_network(mistral, 4096).layers == 32


@pytest.mark.parametrize(
    ("change", "length", "message"),
    [
        ({"model_type": "deepseek_v3"}, 64, "no shapes are known for 'deepseek_v3'"),
        ({"model_type": "deepseek_v3"}, 64, "or predict its products with --tokens T"),
        ({"hidden_act": "relu6"}, 64, "hidden_act: unknown 'relu6': did you mean 'relu'?"),
        ({"hidden_act": 3}, 64, "hidden_act"),
        ({"num_attention_heads": 33}, 64, "num_attention_heads = 33 must be divisible by"),
        (
            {"model_type": "mistral", "sliding_window": 4096},
            8192,
            "sliding_window = 4096 is shorter than the 8192 tokens of a sequence, .*: take "
            "--sequence 4096 or less",
        ),
        ({"num_hidden_layers": 0}, 64, "num_hidden_layers"),
    ],
)
def test_impossible_models_are_refused_in_one_line(
    change: dict[str, Any], length: int, message: str, tmp_path: Path
) -> None:
    path = written(tmp_path, LLAMA | change)
    with pytest.raises(ValueError, match=message) as caught:
        read_network(path, length)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "key"), [(BERT, "max_position_embeddings"), (GPT2, "n_positions")]
)
def test_learned_places_bound_the_sequence(
    config: dict[str, Any], key: str, tmp_path: Path
) -> None:
    path = written(tmp_path, config | {key: 512})
    assert read_network(path, 512).layers == 12
    with pytest.raises(ValueError, match=rf"{key} = 512 is fewer than the 513 tokens"):
        read_network(path, 513)


def test_every_type_of_network_is_a_type_of_model() -> None:
    from workbench.model_configs import MODEL_TYPES

    assert set(MODEL_TYPES) - set(NETWORK_TYPES) == {"deepseek_v3"}
