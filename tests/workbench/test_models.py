"""Shapes of a model's linear layers, and what a config.json may not say."""

import json
from pathlib import Path
from typing import Any

import pytest

from workbench.models import LayerShape, gemm_shapes

EXAMPLES = Path(__file__).parents[2] / "examples" / "models"

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def weights(shapes: list[LayerShape]) -> dict[str, tuple[int, int, int]]:
    """Layer name to (N, K, count)."""
    return {s.layer: (s.n, s.k, s.count) for s in shapes}


def written(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def test_llama_3_8b_has_the_published_shapes() -> None:
    shapes = gemm_shapes(EXAMPLES / "llama-3-8b.json", [16], 1)
    # Weights of meta-llama/Meta-Llama-3-8B: q 4096, k and v 1024, gate and up 14336 rows.
    assert weights(shapes) == {
        "qkv": (6144, 4096, 32),
        "o": (4096, 4096, 32),
        "gate_up": (28672, 4096, 32),
        "down": (4096, 14336, 32),
    }
    assert {s.m for s in shapes} == {16}


def test_llama_weights_add_up_to_the_published_parameter_count() -> None:
    shapes = gemm_shapes(EXAMPLES / "llama-3-8b.json", [1])
    linear = sum(s.n * s.k * s.count for s in shapes)
    # 8,030,261,248 parameters: two embeddings of 128256 x 4096 and 65 norms of 4096 are not linear.
    assert linear == 8_030_261_248 - 2 * 128_256 * 4096 - 65 * 4096


def test_deepseek_v3_weights_add_up_to_the_published_parameter_count() -> None:
    shapes = gemm_shapes(EXAMPLES / "deepseek-v3.json", [1_000_000])
    linear = sum(s.n * s.k * s.count for s in shapes)
    # 671 B without the multi-token module; embedding, head, router and norms are not listed.
    rest = 2 * 129_280 * 7168 + 58 * 256 * 7168
    assert (linear + rest) / 1e9 == pytest.approx(671.0, abs=0.5)


def test_deepseek_v3_has_latent_attention_and_experts() -> None:
    assert weights(gemm_shapes(EXAMPLES / "deepseek-v3.json", [4096])) == {
        "q_a": (1536, 7168, 61),
        "q_b": (128 * 192, 1536, 61),
        "kv_a": (512 + 64, 7168, 61),
        "kv_b": (128 * 256, 512, 61),
        "o": (7168, 128 * 128, 61),
        "gate_up": (36864, 7168, 3),
        "down": (7168, 18432, 3),
        "shared_gate_up": (4096, 7168, 58),
        "shared_down": (7168, 2048, 58),
        "expert_gate_up": (4096, 7168, 58 * 256),
        "expert_down": (7168, 2048, 58 * 256),
    }


@pytest.mark.parametrize(("tokens", "rows"), [(4096, 128), (4097, 129), (32, 1), (1, 1)])
def test_an_expert_sees_its_expected_share_of_tokens_rounded_up(tokens: int, rows: int) -> None:
    shapes = gemm_shapes(EXAMPLES / "deepseek-v3.json", [tokens])
    expert = next(s for s in shapes if "expert_down" in s.layer)
    assert expert.m == rows


def test_layers_of_one_shape_are_merged_with_their_counts() -> None:
    # One token: a shared and a routed expert are the same product.
    shapes = gemm_shapes(EXAMPLES / "deepseek-v3.json", [1])
    merged = next(s for s in shapes if s.layer == "shared_down+expert_down")
    assert (merged.m, merged.n, merged.k, merged.count) == (1, 7168, 2048, 58 + 58 * 256)
    assert len({(s.m, s.n, s.k) for s in shapes}) == len(shapes)


def test_bert_and_gpt2_have_no_gate(tmp_path: Path) -> None:
    bert = {"qkv": (2304, 768, 12), "o": (768, 768, 12), "up": (3072, 768, 12)}
    bert["down"] = (768, 3072, 12)
    assert weights(gemm_shapes(EXAMPLES / "bert-base.json", [128])) == bert
    gpt2 = {"model_type": "gpt2", "n_embd": 768, "n_head": 12, "n_layer": 12, "n_inner": None}
    assert weights(gemm_shapes(written(tmp_path, gpt2), [128])) == bert


@pytest.mark.parametrize("model_type", ["mistral", "qwen2"])
def test_llama_like_models_share_the_rule(tmp_path: Path, model_type: str) -> None:
    config = {**LLAMA, "model_type": model_type, "head_dim": None, "vocab_size": 32000}
    expected = weights(gemm_shapes(EXAMPLES / "llama-3-8b.json", [1]))
    assert weights(gemm_shapes(written(tmp_path, config), [1])) == expected


def test_tensor_parallelism_splits_columns_then_rows() -> None:
    assert weights(gemm_shapes(EXAMPLES / "llama-3-8b.json", [16], tp=4)) == {
        "qkv": (1536, 4096, 32),
        "o": (4096, 1024, 32),
        "gate_up": (7168, 4096, 32),
        "down": (4096, 3584, 32),
    }


def test_key_value_heads_are_copied_when_there_are_more_ranks() -> None:
    shapes = weights(gemm_shapes(EXAMPLES / "llama-3-8b.json", [16], tp=16))
    assert shapes["qkv"] == ((2 + 2) * 128, 4096, 32)


def test_latent_down_projections_are_replicated() -> None:
    shapes = weights(gemm_shapes(EXAMPLES / "deepseek-v3.json", [4096], tp=8))
    assert shapes["q_a"] == (1536, 7168, 61)
    assert shapes["kv_a"] == (576, 7168, 61)
    assert shapes["q_b"] == (16 * 192, 1536, 61)
    assert shapes["expert_down"] == (7168, 256, 58 * 256)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden_size": None}, r"hidden_size: .*valid integer, got None"),
        ({"hidden_size": "4096"}, r"hidden_size: .*valid integer, got '4096': write a plain"),
        ({"hidden_size": True}, r"hidden_size: .*valid integer, got True"),
        ({"hidden_size": 0}, r"hidden_size: .*greater than or equal to 1, got 0"),
        ({"hidden_size": -4096}, r"hidden_size: .*got -4096"),
        ({"hidden_size": 10**30}, r"hidden_size: .*less than or equal to 16777216"),
        ({"hidden_size": 10**400}, r"hidden_size: .*an integer of 1329 bits"),
        ({"hidden_size": 4097}, r"hidden_size = 4097 must be divisible by 32 heads"),
        ({"num_hidden_layers": 10**6}, r"num_hidden_layers: .*10000, got 1000000"),
        ({"num_key_value_heads": 5}, r"num_attention_heads = 32 must be divisible .*= 5"),
        ({"head_dim": 2**24}, r"qkv is 805306368 x 4096, a dimension must not exceed"),
        ({"model_type": "lama"}, r"model_type: .*'lama': did you mean 'llama'\? choose one of"),
        ({"model_type": ["llama"]}, r"model_type: no shapes are known for \['llama'\]"),
    ],
)
def test_refuses_impossible_values(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    path = written(tmp_path, {**LLAMA, **change})
    with pytest.raises(ValueError, match=match) as caught:
        gemm_shapes(path, [16])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "model_type"])
def test_names_a_missing_key(tmp_path: Path, key: str) -> None:
    config = {k: v for k, v in LLAMA.items() if k != key}
    with pytest.raises(ValueError, match=rf"{key}: this key is missing: add"):
        gemm_shapes(written(tmp_path, config), [16])


def test_more_experts_a_token_than_there_are_is_refused(tmp_path: Path) -> None:
    config = json.loads((EXAMPLES / "deepseek-v3.json").read_text())
    config["num_experts_per_tok"] = 257
    with pytest.raises(ValueError, match="must not exceed n_routed_experts = 256"):
        gemm_shapes(written(tmp_path, config), [16])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"not json", r"not JSON \(.*\): give a model's config.json"),
        (b"", r"not JSON"),
        (b"\xff\xfe\x00", r"not JSON"),
        (b"[" * 100_000, r"not JSON \(nested too deep"),
        (
            b'{"model_type": "bert", "model_type": "llama"}',
            r"key 'model_type' stands twice: remove",
        ),
        (b'{"model_type": "x", "rope": {"a": 1, "a": 1}}', r"key 'a' stands twice: remove one$"),
        (b"[1, 2]", r"takes a JSON object, got \[1, 2\]"),
        (b" " * 10_000_001, r"takes at most 10000000 bytes"),
    ],
    ids=["text", "empty", "binary", "nested", "twice", "twice inside", "list", "large"],
)
def test_refuses_what_is_no_config(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        gemm_shapes(path, [16])
    assert "\n" not in str(caught.value)


def test_refuses_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read .*: check the path"):
        gemm_shapes(tmp_path / "none.json", [16])
    with pytest.raises(ValueError, match="not a regular file"):
        gemm_shapes(tmp_path, [16])


@pytest.mark.parametrize(("tokens", "tp"), [([0], 1), ([-1], 1), ([16], 0), ([2**25], 1)])
def test_refuses_tokens_and_ranks_out_of_range(tokens: list[int], tp: int) -> None:
    with pytest.raises(ValueError, match="tokens and tp must lie in"):
        gemm_shapes(EXAMPLES / "llama-3-8b.json", tokens, tp)


@pytest.mark.parametrize("tp", [3, 5, 12])
def test_refuses_ranks_that_do_not_divide(tp: int) -> None:
    with pytest.raises(ValueError, match=rf"must be divisible by tp = {tp}: choose another"):
        gemm_shapes(EXAMPLES / "llama-3-8b.json", [16], tp)
