"""Names of tuned files: literals that loaders ask for, and every spelling read back."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.deploy.families import FAMILIES, ConfigFamily, family_named
from workbench.deploy.file_name import (
    file_names,
    parse_file_name,
    parse_version_folder,
    version_folder,
)
from workbench.deploy.tuned import INT4, ProductKind, TunedName


def linear(**changed: object) -> TunedName:
    fields = {
        "kind": ProductKind.LINEAR,
        "n": 4096,
        "k": 7168,
        "experts": None,
        "device": "NVIDIA_H200",
        "label": "fp8_w8a8",
        "block_shape": (128, 128),
    }
    return TunedName(**(fields | changed))  # type: ignore[arg-type]


def experts(**changed: object) -> TunedName:
    fields = {
        "kind": ProductKind.MOE,
        "n": 512,
        "k": None,
        "experts": 64,
        "device": "NVIDIA_H200",
        "label": "fp8_w8a8",
    }
    return TunedName(**(fields | changed))  # type: ignore[arg-type]


#: Written from the loaders' rules; a change here is a change of what servers read.
PINNED = [
    (
        "vllm-linear",
        linear(),
        ("N=4096,K=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json",),
    ),
    (
        "vllm-linear",
        linear(label="int8_w8a8"),
        (
            "N=4096,K=7168,device_name=NVIDIA_H200,dtype=int8_w8a8,block_shape=[128,128].json",
            "N=4096,K=7168,device_name=NVIDIA_H200,dtype=int8_w8a8,block_shape=[128, 128].json",
        ),
    ),
    (
        "vllm-linear",
        linear(label="fp8_w8a8_per_token", block_shape=None, dtypes=("float8_e4m3fn", "bfloat16")),
        (
            "N=4096,K=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8_per_token,"
            "input_dtype=float8_e4m3fn,out_dtype=bfloat16.json",
        ),
    ),
    (
        "sglang-linear",
        linear(),
        ("N=4096,K=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128].json",),
    ),
    (
        "sglang-linear",
        linear(label="int8_w8a8", device="NVIDIA H200 NVL"),
        ("N=4096,K=7168,device_name=NVIDIA_H200_NVL,dtype=int8_w8a8,block_shape=[128, 128].json",),
    ),
    ("vllm-moe", experts(label=None), ("E=64,N=512,device_name=NVIDIA_H200.json",)),
    (
        "vllm-moe",
        experts(block_shape=(128, 128), device="NVIDIA_H200_NVL"),
        ("E=64,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json",),
    ),
    (
        "vllm-moe",
        experts(label=INT4, n=14336, experts=8, device="NVIDIA_A100-SXM4-80GB"),
        ("E=8,N=14336,device_name=NVIDIA_A100-SXM4-80GB,dtype=int4_w4a16.json",),
    ),
    (
        "sglang-moe",
        experts(label=INT4, n=14336, experts=8),
        ("E=8,N=7168,device_name=NVIDIA_H200,dtype=int4_w4a16.json",),
    ),
    (
        "sglang-moe",
        experts(block_shape=(128, 128), device="NVIDIA_H200_NVL"),
        ("E=64,N=512,device_name=NVIDIA_H200_NVL,dtype=fp8_w8a8,block_shape=[128, 128].json",),
    ),
    (
        "sglang-moe",
        experts(label="int8_w8a8", per_channel=True),
        ("E=64,N=512,device_name=NVIDIA_H200,dtype=int8_w8a8,per_channel_quant=True.json",),
    ),
    (
        "sglang-moe",
        experts(block_shape=(128, 128), per_channel=True, down=True),
        (
            "E=64,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128, 128],"
            "per_channel_quant=True_down.json",
        ),
    ),
]


@pytest.mark.parametrize(("family", "name", "expected"), PINNED)
def test_names_are_those_that_loaders_ask_for(
    family: str, name: TunedName, expected: tuple[str, ...]
) -> None:
    assert file_names(FAMILIES[family], name) == expected


#: As they stood in the engines' repositories in 2026.
SHIPPED = [
    (
        "vllm-linear",
        "N=1536,K=7168,device_name=NVIDIA_H20-3e,dtype=fp8_w8a8,block_shape=[128,128].json",
    ),
    (
        "vllm-linear",
        "N=1536,K=7168,device_name=Intel(R)_Arc(TM)_Pro_B70_Graphics,dtype=fp8_w8a8,"
        "block_shape=[128,128].json",
    ),
    (
        "vllm-linear",
        "N=15360,K=3840,device_name=AMD_Radeon_R9700,dtype=fp8_w8a8_per_token,"
        "input_dtype=float8_e4m3fn,out_dtype=bfloat16.json",
    ),
    ("vllm-moe", "E=1,N=14336,device_name=NVIDIA_A100-SXM4-80GB,dtype=int8_w8a16.json"),
    ("vllm-moe", "E=128,N=384,device_name=NVIDIA_H100_PCIe,block_shape=[128,128].json"),
    (
        "sglang-linear",
        "N=1024,K=512,device_name=NVIDIA_L40S,dtype=fp8_w8a8,block_shape=[64, 64].json",
    ),
    (
        "sglang-moe",
        "E=160,N=384,device_name=NVIDIA_RTX_PRO_6000_Blackwell_Server_Edition,dtype=fp8_w8a8_down.json",
    ),
    ("sglang-moe", "E=384,N=256,device_name=AMD_Instinct_MI350X,dtype=int4_w4a16_down.json"),
    (
        "sglang-moe",
        "E=256,N=256,device_name=NVIDIA_M403,dtype=fp8_w8a8,block_shape=[128, 128]_down.json",
    ),
]


@pytest.mark.parametrize(("family", "text"), SHIPPED)
def test_names_that_engines_ship_are_those_that_we_print(family: str, text: str) -> None:
    name = parse_file_name(FAMILIES[family], text).name
    assert file_names(FAMILIES[family], name) == (text,)


DEVICES = st.sampled_from(
    ["NVIDIA H200", "NVIDIA_H200_NVL", "NVIDIA A100-SXM4-80GB", "AMD Instinct MI300X", "A(1).x+-"]
)
BLOCKS = st.tuples(st.integers(1, 512), st.integers(1, 512))


@st.composite
def named(draw: st.DrawFn) -> tuple[ConfigFamily, TunedName]:
    family = FAMILIES[draw(st.sampled_from(sorted(FAMILIES)))]
    label = draw(st.sampled_from([x for x in family.labels if x != "fp8_w8a8_per_token"]))
    dense = family.kind is ProductKind.LINEAR
    n = draw(st.integers(1, 50_000))
    name = TunedName(
        kind=family.kind,
        n=2 * n if label == INT4 else n,
        k=draw(st.integers(1, 99_999)) if dense else None,
        experts=None if dense else draw(st.integers(1, 512)),
        device=family.device(draw(DEVICES)),
        label=label,
        block_shape=draw(BLOCKS if dense else st.none() | BLOCKS),
        per_channel=family.per_channel and draw(st.booleans()),
        down=family.down and draw(st.booleans()),
    )
    return family, name


@settings(max_examples=40)
@given(named(), st.integers(0, 3))
def test_every_name_reads_back_whatever_its_blanks(
    made: tuple[ConfigFamily, TunedName], blanks: int
) -> None:
    family, name = made
    assert family.obstacle(name) is None
    for text in file_names(family, name):
        assert parse_file_name(family, text).name == name
        spaced = text.replace(", ", ",").replace(",", "," + " " * blanks)
        assert parse_file_name(family, spaced).name == name


@pytest.mark.parametrize("text", ["config.json", "N=1.json", "E=1,N=2,K=3,device_name=x.json", ""])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_other_names_are_refused(family: ConfigFamily, text: str) -> None:
    with pytest.raises(ValueError, match=f"no name that {family.name} asks for: write"):
        parse_file_name(family, text)


@pytest.mark.parametrize("device", ["..", "a..b", "", "x\n", "../../etc"])
def test_a_device_cannot_lead_elsewhere(device: str) -> None:
    with pytest.raises(ValueError, match="device name"):
        file_names(FAMILIES["sglang-linear"], linear(device=device))


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("vllm-linear", experts(), "vllm-linear holds linear files, this one is moe"),
        ("vllm-moe", experts(label="int8_w8a8"), "vLLM has no label for INT8 W8A8 experts"),
        ("vllm-moe", experts(per_channel=True), "do not tell scales a channel"),
        ("vllm-moe", experts(down=True), "vLLM reads no file of its own for the second product"),
        ("sglang-moe", experts(label="fp8_w8a16"), "asks for no files of dtype fp8_w8a16"),
        ("sglang-linear", linear(block_shape=None), "files of blocks have a block_shape"),
        ("sglang-moe", experts(label=INT4, n=7), "counts pairs, an odd N has none"),
    ],
)
def test_what_a_family_has_no_name_for_is_refused(
    family: str, name: TunedName, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        file_names(FAMILIES[family], name)


@pytest.mark.parametrize(
    ("folder", "version"),
    [("triton_3_6_0", "3.6.0"), ("triton_3_06_0", "3.6.0"), ("triton_3_6", None)]
    + [(f"triton_{bad}", None) for bad in ("3_6_0_git1a2b", "3.6.0", "x_y_z", "", "3_6_0_1")],
)
def test_version_folders_are_three_integers(folder: str, version: str | None) -> None:
    assert parse_version_folder(folder) == version


def test_a_version_with_a_suffix_names_no_folder() -> None:
    assert version_folder("3.6.0") == "triton_3_6_0"
    with pytest.raises(ValueError, match=r"write X\.Y\.Z"):
        version_folder("3.6.0+git1a2b")


def test_an_unknown_family_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'vllm-linear'"):
        family_named("vllm_linear")


@pytest.mark.parametrize(
    "changed",
    [{"n": 0}, {"k": None}, {"label": None}, {"block_shape": (0, 128)}, {"down": True}],
)
def test_a_name_that_no_product_has_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be at least 1|linear|at least 1"):
        dataclasses.replace(linear(), **changed)
