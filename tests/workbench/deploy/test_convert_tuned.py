"""Conversions between families: nothing but name, folder, blank and version key changes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from measured_studies import PLAIN, linear, run_of
from serving_loaders import load, sglang_linear, sglang_moe, vllm_linear, vllm_moe
from tuned_folders import (
    BODY,
    CLEAN,
    ENTRY,
    FP8,
    FP8_SPACED,
    INT8,
    INT8_SPACED,
    MOE,
    MOE_SPACED,
    OURS,
    PER_TOKEN,
    clean,
    texts,
    write,
)

from workbench.deploy.body import body_text
from workbench.deploy.config_targets import write_configs
from workbench.deploy.convert import convert
from workbench.deploy.families import FAMILIES
from workbench.deploy.file_name import file_names
from workbench.deploy.lint import lint
from workbench.deploy.tuned import Entry, ProductKind, TunedFile, TunedName

SIDE = "tile-workbench.json"


def configs(folder: Path) -> dict[str, bytes]:
    """What loaders may read."""
    return {name: data for name, data in texts(folder).items() if name != SIDE}


def test_a_linear_folder_goes_to_sglang_and_back_unchanged(tmp_path: Path) -> None:
    source = write(tmp_path / "vllm", {FP8: BODY, INT8: BODY, INT8_SPACED: BODY})
    done = convert(source, "sglang-linear", tmp_path / "sglang")
    assert sorted(configs(tmp_path / "sglang")) == [FP8_SPACED, INT8_SPACED]
    assert (done.sources, done.left_out) == (2, ())
    for dtype in ("fp8_w8a8", "int8_w8a8"):
        found = sglang_linear(tmp_path / "sglang", 4096, 7168, "NVIDIA H200", dtype, (128, 128))
        assert found == {int(m): entry for m, entry in BODY.items()}
    convert(tmp_path / "sglang", "vllm-linear", tmp_path / "back")
    assert configs(tmp_path / "back") == texts(source)
    assert vllm_linear(
        tmp_path / "back", 4096, 7168, "NVIDIA H200", "int8_w8a8", (128, 128), shared=False
    )


def test_where_rows_come_from_goes_there_and_back_with_them(tmp_path: Path) -> None:
    run = run_of(linear(16, [(PLAIN, 20.0)]), linear(64, [(PLAIN, 30.0)]))
    write_configs(run, "vllm-linear", tmp_path / "vllm", rows_loss=0.02)

    def told(folder: str) -> dict[str, object]:
        (record,) = json.loads((tmp_path / folder / SIDE).read_text())["files"].values()
        return {key: record[key] for key in ("run", "rows", "keys")}

    first = told("vllm")
    assert [row["measured_us"] for row in first["rows"]]  # type: ignore[attr-defined]
    convert(tmp_path / "vllm", "sglang-linear", tmp_path / "sglang")
    convert(tmp_path / "sglang", "vllm-linear", tmp_path / "back")
    assert told("sglang") == told("back") == first
    # Of a file that was edited they say nothing.
    path = tmp_path / "sglang" / FP8_SPACED
    path.write_text(path.read_text().replace('"num_warps": 4', '"num_warps": 8'))
    convert(tmp_path / "sglang", "vllm-linear", tmp_path / "edited")
    (record,) = json.loads((tmp_path / "edited" / SIDE).read_text())["files"].values()
    assert set(record) == {"sha256", "family", "from"}


def test_experts_go_to_vllm_and_back_with_version_device_and_int4(tmp_path: Path) -> None:
    name = "E=8,N=7168,device_name=NVIDIA_H200_NVL,dtype=int4_w4a16.json"
    spaced = MOE_SPACED.replace("NVIDIA_H200", "NVIDIA_H20")
    source = write(tmp_path / "sglang", {f"{OURS}/{name}": BODY, f"triton_3_5_1/{spaced}": BODY})
    convert(source, "vllm-moe", tmp_path / "vllm")
    assert sorted(configs(tmp_path / "vllm")) == [
        MOE.replace("NVIDIA_H200", "NVIDIA_H20"),
        "E=8,N=14336,device_name=NVIDIA_H200,dtype=int4_w4a16.json",
    ]
    # The packed w2 has 7168 columns in both engines; what they call N differs.
    packed = (8, 7168, "NVIDIA H200 NVL", "int4_w4a16", None)
    rows = {int(m): entry for m, entry in BODY.items()}
    assert vllm_moe(tmp_path / "vllm", *packed) == rows
    assert sglang_moe(source, "3.6.0", *packed) == rows
    for path in (tmp_path / "vllm").glob("E=*.json"):
        assert json.loads(path.read_text())["triton_version"] in ("3.6.0", "3.5.1")
    assert lint(tmp_path / "vllm", family="vllm-moe").findings == ()
    convert(tmp_path / "vllm", "sglang-moe", tmp_path / "back")
    assert configs(tmp_path / "back") == texts(source)


def test_a_file_that_does_not_say_its_triton_takes_the_callers_and_loses_it_again(
    tmp_path: Path,
) -> None:
    source = write(tmp_path / "vllm", {MOE: BODY})
    with pytest.raises(ValueError, match=r"does not say which: add --triton X\.Y\.Z"):
        convert(source, "sglang-moe", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    convert(source, "sglang-moe", tmp_path / "sglang", triton="3.6.0")
    assert list(configs(tmp_path / "sglang")) == [f"{OURS}/{MOE_SPACED}"]
    convert(tmp_path / "sglang", "vllm-moe", tmp_path / "back")
    assert configs(tmp_path / "back") == texts(source)


def test_a_suffix_of_a_version_survives_the_folder(tmp_path: Path) -> None:
    source = write(tmp_path / "vllm", {MOE: {"triton_version": "3.6.0+git1a2b", **BODY}})
    convert(source, "sglang-moe", tmp_path / "sglang")
    assert list(configs(tmp_path / "sglang")) == [f"{OURS}/{MOE_SPACED}"]
    convert(tmp_path / "sglang", "vllm-moe", tmp_path / "back")
    assert configs(tmp_path / "back") == texts(source)


def test_the_h200_that_vllm_merged_is_the_callers_to_name(tmp_path: Path) -> None:
    source = write(tmp_path / "vllm", {MOE: BODY, MOE.replace("NVIDIA_H200", "NVIDIA_H20"): BODY})
    done = convert(source, "sglang-moe", tmp_path / "out", triton="3.6.0", device="NVIDIA H200 NVL")
    assert {path.name for path in done.files} == {
        MOE_SPACED.replace("NVIDIA_H200", device) for device in ("NVIDIA_H200_NVL", "NVIDIA_H20")
    }


def test_what_is_no_h200_does_not_stand_for_one(tmp_path: Path) -> None:
    source = write(tmp_path / "vllm", {MOE: BODY})
    for device in ("AMD Instinct MI300X", "NVIDIA H2000"):
        with pytest.raises(ValueError, match="says which H200 vLLM's NVIDIA_H200 stands for"):
            convert(source, "sglang-moe", tmp_path / "out", triton="3.6.0", device=device)
    assert not (tmp_path / "out").exists()


def test_an_edited_file_is_not_taken_for_what_the_side_file_says(tmp_path: Path) -> None:
    source = write(tmp_path / "a", {f"{OURS}/{MOE_SPACED.replace('H200', 'H200_NVL')}": BODY})
    convert(source, "vllm-moe", tmp_path / "b")
    write(tmp_path / "b", {MOE: {"triton_version": "3.6.0", "1": ENTRY}})
    (path,) = convert(tmp_path / "b", "sglang-moe", tmp_path / "c").files
    assert path.name == MOE_SPACED


@pytest.mark.parametrize(
    ("family", "to", "name", "reason"),
    [
        (
            "vllm-linear",
            "sglang-linear",
            PER_TOKEN,
            "asks for no files of dtype fp8_w8a8_per_token",
        ),
        (
            "vllm-moe",
            "sglang-moe",
            "E=8,N=14336,device_name=NVIDIA_H200,dtype=int4_w4a16.json",
            "M 1: SPLIT_K is no argument of SGLang's kernel",
        ),
        (
            "sglang-moe",
            "vllm-moe",
            f"{OURS}/{MOE_SPACED}",
            "M 1: USE_TMA is no argument of vLLM's kernel",
        ),
        (
            "sglang-moe",
            "vllm-moe",
            f"{OURS}/{MOE_SPACED.removesuffix('.json')}_down.json",
            "vLLM reads no file of its own for the second product",
        ),
        (
            "sglang-moe",
            "vllm-moe",
            f"{OURS}/E=8,N=512,device_name=NVIDIA_H200,dtype=int8_w8a8,per_channel_quant=True.json",
            "vLLM has no label for INT8 W8A8 experts",
        ),
    ],
)
def test_what_cannot_be_converted_is_told_and_the_rest_is_done(
    family: str, to: str, name: str, reason: str, tmp_path: Path
) -> None:
    source = clean(tmp_path / "from", family)
    done = convert(source, to, tmp_path / "to", triton="3.6.0")
    told = {str(one.path): one.reason for one in done.left_out}
    assert told[name].startswith(reason) or reason in told[name]
    assert done.files
    assert done.sources + len(told) == len(CLEAN[family]) - (family == "vllm-linear")


def test_a_k_step_that_only_vllm_clamps_does_not_go_to_sglang(tmp_path: Path) -> None:
    """256 is launched as 128 there, and would read one scale for two blocks here."""
    deep = {"1": ENTRY | {"BLOCK_SIZE_K": 256}}
    source = write(tmp_path / "from", {MOE: deep, MOE.replace("E=64", "E=8"): BODY})
    done = convert(source, "sglang-moe", tmp_path / "to", triton="3.6.0")
    assert [str(one.path) for one in done.left_out] == [MOE]
    assert "M 1: BLOCK_SIZE_K 256 with blocks of 128 along K" in done.left_out[0].reason
    back = convert(source, "vllm-moe", tmp_path / "same")
    assert back.left_out == ()


def test_kinds_of_product_do_not_mix(tmp_path: Path) -> None:
    source = clean(tmp_path / "from", "vllm-linear")
    with pytest.raises(ValueError, match="vllm-moe holds moe files, this one is linear"):
        convert(source, "vllm-moe", tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_of_two_versions_the_newer_is_taken_and_the_other_told(tmp_path: Path) -> None:
    files = {f"triton_3_5_1/{MOE_SPACED}": BODY, f"triton_3_10_0/{MOE_SPACED}": {"1": ENTRY}}
    done = convert(write(tmp_path / "from", files), "vllm-moe", tmp_path / "to")
    assert json.loads(done.files[0].read_text())["triton_version"] == "3.10.0"
    assert [str(one.path) for one in done.left_out] == [f"triton_3_5_1/{MOE_SPACED}"]


def test_text_for_a_number_is_read_and_written_as_one(tmp_path: Path) -> None:
    source = write(tmp_path / "from", {FP8: {"1": ENTRY | {"num_stages": "3"}}})
    (path,) = convert(source, "sglang-linear", tmp_path / "to").files
    assert load(path) == {1: ENTRY}


DEVICES = ("NVIDIA_H200", "NVIDIA_H200_NVL", "NVIDIA_H20", "NVIDIA_B200")


@st.composite
def folders(draw: st.DrawFn) -> tuple[str, str, list[TunedFile]]:
    """Files of a family that another one has names for, no two alike for either."""
    family, other = draw(
        st.sampled_from(
            [
                ("vllm-linear", "sglang-linear"),
                ("sglang-linear", "vllm-linear"),
                ("vllm-moe", "sglang-moe"),
                ("sglang-moe", "vllm-moe"),
            ]
        )
    )
    there, back = FAMILIES[family], FAMILIES[other]
    labels = sorted({x or "" for x in there.labels} & {x or "" for x in back.labels})
    made: dict[object, TunedFile] = {}
    for n in draw(st.sets(st.integers(1, 40), min_size=1, max_size=4)):
        dense = there.kind is ProductKind.LINEAR
        label = draw(st.sampled_from(labels)) or None
        name = TunedName(
            kind=there.kind,
            n=64 * n,
            k=7168 if dense else None,
            experts=None if dense else 8,
            device=there.device(draw(st.sampled_from(DEVICES))),
            label=label,
            block_shape=(128, 128) if dense else draw(st.sampled_from([None, (128, 128)])),
        )
        rows = draw(
            st.dictionaries(
                st.integers(1, 4096),
                st.integers(1, 8).map(lambda s: Entry.from_dict(ENTRY | {"num_stages": s})),
                min_size=1,
                max_size=4,
            )
        )
        version = draw(st.sampled_from(["3.5.1", "3.6.0"]))
        spoken = there.version_folder or (there.version_key and draw(st.booleans()))
        made[n] = TunedFile(
            name=name, rows=tuple(sorted(rows.items())), triton=version if spoken else None
        )
    return family, other, list(made.values())


@settings(max_examples=12)
@given(folders())
def test_there_and_back_is_where_it_began(
    tmp_path_factory: pytest.TempPathFactory, made: tuple[str, str, list[TunedFile]]
) -> None:
    family, other, files = made
    top = tmp_path_factory.mktemp("round")
    there = FAMILIES[family]
    for file in files:
        folder = "" if not there.version_folder else f"triton_{file.triton}/".replace(".", "_")
        for name in file_names(there, file.name):
            write(top / "from", {folder + name: body_text(there, file)})
    first = convert(top / "from", other, top / "there", family=family, triton="3.7.0")
    assert first.left_out == ()
    for name, data in configs(top / "there").items():
        body = json.loads(data)
        assert FAMILIES[other].version_key or "triton_version" not in body, name
    second = convert(top / "there", family, top / "back", family=other)
    assert second.left_out == ()
    assert configs(top / "back") == texts(top / "from")


def test_the_neutral_form_holds_every_field(tmp_path: Path) -> None:
    """A field that conversions forgot would be one that `replace` cannot change."""
    name = TunedName(
        kind=ProductKind.MOE, n=2, k=None, experts=1, device="x", label=None, down=True
    )
    assert replace(name, down=False) != name
