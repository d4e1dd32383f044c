"""What a model asks for at a parallel layout: shapes by hand, and files that are not there."""

import json
from pathlib import Path
from typing import Any

import pytest
from tuned_folders import BODY, write

from workbench.deploy.coding import Coding
from workbench.deploy.lint import lint
from workbench.deploy.model_shapes import wanted_files
from workbench.deploy.tuned import ProductKind

FP8 = Coding(label="fp8_w8a8", block_shape=(128, 128))
QUANTIZED = {"quant_method": "fp8", "weight_block_size": [128, 128]}
DEEPSEEK = Path(__file__).parents[3] / "examples" / "models" / "deepseek-v3.json"

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
MIXTRAL = LLAMA | {"model_type": "mixtral", "num_local_experts": 8}
QWEN3 = LLAMA | {"model_type": "qwen3", "hidden_size": 2560, "head_dim": 128}
QWEN2_MOE = LLAMA | {
    "model_type": "qwen2_moe",
    "hidden_size": 3584,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_experts": 64,
    "moe_intermediate_size": 2560,
    "shared_expert_intermediate_size": 20480,
}
QWEN3_MOE = LLAMA | {
    "model_type": "qwen3_moe",
    "hidden_size": 4096,
    "num_attention_heads": 64,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "moe_intermediate_size": 1536,
}


def config(folder: Path, content: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


#: (model, tp, (N, K) of linear layers), by hand from the checkpoints' tensors.
LINEARS = [
    (LLAMA, 1, {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)}),
    (LLAMA, 8, {(768, 4096), (4096, 512), (3584, 4096), (4096, 1792)}),
    # Two copies of every key-value head on sixteen ranks.
    (LLAMA, 16, {(512, 4096), (4096, 256), (1792, 4096), (4096, 896)}),
    (
        LLAMA | {"model_type": "mistral"},
        2,
        {(3072, 4096), (4096, 2048), (14336, 4096), (4096, 7168)},
    ),
    (QWEN3, 1, {(6144, 2560), (2560, 4096), (28672, 2560), (2560, 14336)}),
    (MIXTRAL, 2, {(3072, 4096), (4096, 2048)}),
    (QWEN2_MOE, 4, {(1152, 3584), (3584, 896), (10240, 3584), (3584, 5120)}),
    (QWEN3_MOE, 4, {(2304, 4096), (4096, 2048)}),
]


@pytest.mark.parametrize(("model", "tp", "expected"), LINEARS)
def test_linear_layers_on_a_rank(
    model: dict[str, Any], tp: int, expected: set[tuple[int, int]], tmp_path: Path
) -> None:
    path = config(tmp_path, model)
    found = wanted_files(path, {ProductKind.LINEAR}, FP8, "x", tp, 1)
    assert {(one.name.n, one.name.k) for one in found} == expected
    assert all(one.name.block_shape == (128, 128) for one in found)


def test_deepseeks_layers_on_eight_ranks() -> None:
    found = wanted_files(DEEPSEEK, {ProductKind.LINEAR}, FP8, "x", 8, 1)
    assert {one.layer: (one.name.n, one.name.k) for one in found} == {
        "qkv_a": (2112, 7168),
        "q_b": (3072, 1536),
        "kv_b": (4096, 512),
        "o": (7168, 2048),
        "gate_up": (4608, 7168),
        "down": (7168, 2304),
        "shared_gate_up": (512, 7168),
        "shared_down": (7168, 256),
    }
    (fused,) = (one for one in found if one.instead)
    assert {one.n for one in fused.instead} == {1536, 576}


@pytest.mark.parametrize(
    ("model", "tp", "ep", "expected"),
    [
        (MIXTRAL, 1, 1, (8, 14336)),
        (MIXTRAL, 8, 1, (8, 1792)),
        (MIXTRAL, 8, 8, (1, 14336)),
        (MIXTRAL, 8, 2, (4, 3584)),
        (QWEN2_MOE, 8, 1, (64, 320)),
        (QWEN3_MOE, 4, 4, (32, 1536)),
        (QWEN3_MOE, 4, 8, (16, 1536)),  # ranks of other replicas hold experts as well
    ],
)
def test_experts_on_a_rank(
    model: dict[str, Any], tp: int, ep: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    (found,) = wanted_files(config(tmp_path, model), {ProductKind.MOE}, FP8, "x", tp, ep)
    assert (found.name.experts, found.name.n) == expected
    assert found.instead == ()


def test_deepseeks_experts_may_count_the_shared_one() -> None:
    (found,) = wanted_files(DEEPSEEK, {ProductKind.MOE}, FP8, "x", 8, 1)
    assert (found.name.experts, found.name.n) == (256, 256)
    assert [one.experts for one in found.instead] == [257]


def test_a_dense_model_asks_for_no_experts(tmp_path: Path) -> None:
    assert wanted_files(config(tmp_path, LLAMA), {ProductKind.MOE}, FP8, "x", 1, 1) == []


@pytest.mark.parametrize(
    ("model", "tp", "ep", "message"),
    [
        (LLAMA, 3, 1, "num_attention_heads = 32 must be divisible by tp = 3"),
        (MIXTRAL, 2, 3, "one must divide the other"),
        (MIXTRAL, 16, 16, "8 experts must be divisible by ep = 16"),
        (MIXTRAL, 0, 1, "--tp 0: 1 to 4096 ranks"),
        (LLAMA | {"model_type": "gpt2"}, 1, 1, "no shapes are known for 'gpt2'"),
        (QWEN2_MOE | {"shared_expert_intermediate_size": 3}, 2, 1, "shared_expert_intermediate"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(
    model: dict[str, Any], tp: int, ep: int, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        wanted_files(
            config(tmp_path, model), {ProductKind.LINEAR, ProductKind.MOE}, FP8, "x", tp, ep
        )


NAMES = [
    f"N={n},K={k},device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    for n, k in ((768, 4096), (4096, 512), (3584, 4096), (4096, 1792))
]


def test_a_folder_with_every_file_is_silent_and_one_without_says_which(tmp_path: Path) -> None:
    """The model's own config.json says how it is quantised."""
    model = config(tmp_path, LLAMA | {"quantization_config": QUANTIZED})
    folder = write(tmp_path / "configs", dict.fromkeys(NAMES, BODY))
    assert lint(folder, model=model, tp=8).findings == ()
    (folder / NAMES[2]).unlink()
    (finding,) = lint(folder, model=model, tp=8).findings
    assert (finding.rule, str(finding.path)) == ("model.missing", NAMES[2])
    assert finding.message.startswith("gate_up asks for it and it is not there")
    assert {f.rule for f in lint(folder, model=model, tp=4).findings} == {"model.missing"}


def test_one_coding_in_the_folder_is_the_models(tmp_path: Path) -> None:
    model = config(tmp_path, LLAMA)
    folder = write(tmp_path / "configs", dict.fromkeys(NAMES, BODY))
    assert lint(folder, model=model, tp=8).findings == ()
    write(folder, {NAMES[0].replace("fp8", "int8"): BODY})
    with pytest.raises(ValueError, match=r"several codings: name one, e\.g\. --dtype fp8_w8a8"):
        lint(folder, model=model, tp=8)
    found = lint(folder, model=model, tp=8, dtype="fp8_w8a8", block_shape="128x128").findings
    assert {f.rule for f in found} == {"name.twin"}


def test_weights_that_are_not_fused_serve_as_well(tmp_path: Path) -> None:
    wanted = wanted_files(DEEPSEEK, {ProductKind.LINEAR}, FP8, "NVIDIA_H200", 8, 1)
    shapes = [(one.name.n, one.name.k) for one in wanted if not one.instead]
    shapes += [(1536, 7168), (576, 7168)]
    names = [
        f"N={n},K={k},device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json"
        for n, k in shapes
    ]
    folder = write(tmp_path / "sglang", dict.fromkeys(names, BODY))
    question: dict[str, Any] = {"model": DEEPSEEK, "tp": 8, "family": "sglang-linear"}
    assert lint(folder, **question).findings == ()
    (folder / names[-1]).unlink()
    (finding,) = lint(folder, **question).findings
    assert "N=2112,K=7168" in str(finding.path)


def test_experts_of_sglang_are_wanted_in_the_servers_version_folder(tmp_path: Path) -> None:
    model = config(tmp_path, MIXTRAL | {"quantization_config": QUANTIZED})
    name = "E=8,N=1792,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json"
    folder = tmp_path / "configs"
    folder.mkdir()
    question: dict[str, Any] = {"model": model, "tp": 8, "gpu": "h200", "family": "sglang-moe"}
    (finding,) = lint(folder, triton="3.6.0", **question).findings
    assert str(finding.path) == f"triton_3_6_0/{name}"
    write(folder, {f"triton_3_6_0/{name}": BODY})
    assert lint(folder, triton="3.6.0", **question).findings == ()


def test_an_empty_folder_says_nothing_of_whose_files_are_meant(tmp_path: Path) -> None:
    model = config(tmp_path / "m", LLAMA | {"quantization_config": QUANTIZED})
    (tmp_path / "configs").mkdir()
    with pytest.raises(ValueError, match=r"holds no tuned files.*add --family"):
        lint(tmp_path / "configs", model=model)
    with pytest.raises(ValueError, match=r"files for 0 devices: say which one.*--gpu"):
        lint(tmp_path / "configs", model=model, family="vllm-linear")


def test_a_quantization_that_is_malformed_is_refused(tmp_path: Path) -> None:
    bad = config(
        tmp_path,
        LLAMA | {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}},
    )
    folder = write(tmp_path / "configs", dict.fromkeys(NAMES, BODY))
    with pytest.raises(ValueError, match=r"weight_block_size \[128\]: takes \[bn, bk\]"):
        lint(folder, model=bad)
