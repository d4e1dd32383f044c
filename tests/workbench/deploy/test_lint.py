"""A planted fault of every kind is found, and a clean folder of every family is silent."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tuned_folders import (
    BODY,
    CLEAN,
    DOWN,
    ENTRY,
    FP8,
    FP8_SPACED,
    INT8,
    INT8_SPACED,
    MOE,
    MOE_SPACED,
    OURS,
    TRITON,
    clean,
    texts,
    write,
)

from workbench.deploy.families import FAMILIES
from workbench.deploy.lint import lint
from workbench.deploy.rules import RULES

Plant = Callable[[Path], dict[str, Any] | None]
SGLANG = f"{OURS}/{MOE_SPACED}"


def replaced(folder: Path, name: str, content: Any) -> None:
    write(folder, {name: content})


def entry(folder: Path, name: str, **changed: Any) -> None:
    """The file's entry at M 64 with other values; ``None`` takes a key away."""
    content = json.loads((folder / name).read_text())
    content["64"] = {k: v for k, v in (content["64"] | changed).items() if v is not None}
    write(folder, {name: content})


def renamed(folder: Path, name: str, to: str) -> None:
    (folder / to).parent.mkdir(exist_ok=True)
    (folder / name).rename(folder / to)


def outside(folder: Path) -> Path:
    path = folder.parent / "outside.json"
    path.write_text("{}")
    return path


def written(name: str, content: Any) -> Plant:
    def plant(folder: Path) -> None:
        replaced(folder, name, content)

    return plant


def changed(name: str, **values: Any) -> Plant:
    def plant(folder: Path) -> None:
        entry(folder, name, **values)

    return plant


def moved(name: str, to: str) -> Plant:
    def plant(folder: Path) -> None:
        renamed(folder, name, to)

    return plant


def text(name: str, old: str, new: str) -> Plant:
    def plant(folder: Path) -> None:
        path = folder / name
        found = path.read_text()
        assert old in found
        path.write_text(found.replace(old, new, 1))

    return plant


def link(target: str) -> Plant:
    def plant(folder: Path) -> None:
        outside(folder)
        (folder / f"N=1,K=1,device_name=x{len(target)},dtype=fp8_w8a8.json").symlink_to(target)

    return plant


def pipe(folder: Path) -> None:
    os.mkfifo(folder / FP8.replace("K=7168", "K=1"))


def both(*plants: Plant) -> Plant:
    def plant(folder: Path) -> None:
        for one in plants:
            one(folder)

    return plant


def asking(plant: Plant | None, **question: Any) -> Plant:
    """A plant with what the check is asked beside it."""

    def planted(folder: Path) -> dict[str, Any]:
        if plant is not None:
            plant(folder)
        return question

    return planted


MODEL = {
    "model_type": "mixtral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
}


def model(folder: Path) -> dict[str, Any]:
    path = folder.parent / "config.json"
    path.write_text(json.dumps(MODEL))
    return {"model": path, "gpu": "h200", "dtype": "int4_w4a16", "tp": 4}


def model_of_the_other_engine(folder: Path) -> dict[str, Any]:
    """Written with N in pairs, as SGLang counts."""
    name = "E=8,N={n},device_name=NVIDIA_H200,dtype=int4_w4a16.json"
    renamed(folder, name.format(n=14336), name.format(n=7168))
    return model(folder) | {"tp": 1}


def uneven(folder: Path) -> None:
    """Rows of other keys meet where only one file has a key."""
    entry(folder, f"{OURS}/{DOWN}", BLOCK_SIZE_M=32)


#: Rule to (family of the clean folder, what is done to it).
PLANTED: dict[str, tuple[str, Plant]] = {
    "path.link": ("vllm-linear", link("../../outside.json")),
    "path.dots": ("vllm-linear", written("N=1..2.json", BODY)),
    "path.kind": ("vllm-linear", pipe),
    "path.size": ("vllm-linear", written("big.json", b" " * 2_000_001)),
    "name.unknown": ("vllm-linear", written("my-configs.json", BODY)),
    "name.space": ("vllm-linear", moved(FP8, FP8.replace("128,128", "128, 128"))),
    "name.device": ("vllm-linear", moved(FP8, FP8.replace("NVIDIA_H200", "NVIDIA H200"))),
    "name.h200": ("vllm-moe", moved(MOE, MOE.replace("NVIDIA_H200", "NVIDIA_H200_NVL"))),
    "name.spelling": ("vllm-linear", moved(FP8, FP8.replace("N=4096,", "N=04096, "))),
    "name.label": ("vllm-linear", moved(FP8, FP8.replace("fp8_w8a8", "fp8_w8a16"))),
    "name.twin": ("vllm-linear", lambda folder: (folder / INT8_SPACED).unlink()),
    "name.collision": ("vllm-linear", written(INT8, {"1": ENTRY})),
    "folder.version": (
        "sglang-moe",
        lambda folder: (folder / "triton_3_6_0_git1a2b").mkdir(),
    ),
    "folder.unversioned": ("sglang-moe", written(MOE_SPACED.replace("E=64", "E=32"), BODY)),
    "folder.misplaced": ("vllm-linear", moved(FP8, f"{OURS}/{FP8}")),
    "version.other": (
        "vllm-moe",
        asking(None, triton="3.7.0"),
    ),
    "version.key": ("vllm-linear", written(FP8, {"triton_version": TRITON, **BODY})),
    "version.value": ("vllm-moe", written(MOE, {"triton_version": "newest", **BODY})),
    "json.broken": ("vllm-linear", written(FP8, '{"1": {')),
    "json.encoding": ("vllm-linear", written(FP8, b"\xef\xbb\xbf" + json.dumps(BODY).encode())),
    "json.duplicate": ("vllm-linear", text(FP8, '"64": {', '"16": {')),
    "json.constant": ("vllm-linear", text(FP8, '"GROUP_SIZE_M": 8', '"GROUP_SIZE_M": NaN')),
    "body.shape": ("vllm-linear", written(FP8, [{"key": {"M": 1}, "config": ENTRY}])),
    "body.empty": ("vllm-linear", written(FP8, {})),
    "body.key": ("vllm-linear", written(FP8, {**BODY, "tuned_by": "someone"})),
    "body.range": ("vllm-linear", written(FP8, {"0": ENTRY, **BODY})),
    "body.order": ("vllm-linear", written(FP8, {"1024": ENTRY, "1": ENTRY})),
    "entry.missing": ("vllm-linear", changed(FP8, num_warps=None)),
    "entry.extra": ("vllm-linear", changed(FP8, num_ctas=1)),
    "entry.type": ("vllm-linear", changed(FP8, num_stages="3")),
    "entry.range": ("vllm-linear", changed(FP8, num_stages=0)),
    "tile.power": ("vllm-linear", changed(FP8, BLOCK_SIZE_N=96)),
    "tile.dot": ("vllm-linear", changed(FP8, BLOCK_SIZE_M=8)),
    "tile.warps": ("vllm-linear", changed(FP8, num_warps=6)),
    "tile.scale-k": ("sglang-linear", changed(FP8.replace("[128,", "[128, "), BLOCK_SIZE_K=256)),
    "tile.whole-blocks": ("vllm-moe", changed(MOE, BLOCK_SIZE_K=64)),
    "gpu.smem": ("vllm-linear", changed(FP8, BLOCK_SIZE_M=128, num_warps=8, num_stages=9)),
    "gpu.registers": ("vllm-linear", changed(FP8, BLOCK_SIZE_M=256, BLOCK_SIZE_N=128)),
    "down.alone": ("sglang-moe", lambda folder: (folder / SGLANG).unlink()),
    "down.block-m": ("sglang-moe", changed(f"{OURS}/{DOWN}", BLOCK_SIZE_M=32)),
    "model.missing": ("vllm-moe", model),
    "model.int4-n": ("vllm-moe", model_of_the_other_engine),
}
#: Found by other tests: these need a user without rights, or a sweep.
ELSEWHERE = {"path.closed", "lookup.loss"}


def test_every_rule_has_a_planted_fault() -> None:
    assert set(PLANTED) | ELSEWHERE == set(RULES)
    assert len(RULES) >= 40
    assert all(name == rule.name for name, rule in RULES.items())


@pytest.mark.parametrize("family", CLEAN)
def test_a_clean_folder_is_silent(family: str, tmp_path: Path) -> None:
    before = texts(clean(tmp_path / family, family))
    report = lint(tmp_path / family, fix=True)
    assert report.findings == ()
    assert report.fixed == ()
    assert report.files == len(before)
    assert report.families == (family,)
    assert report.summary == f"{len(before)} files ({family}): no findings"
    assert texts(tmp_path / family) == before


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_fault_is_found_and_nothing_else(rule: str, tmp_path: Path) -> None:
    family, plant = PLANTED[rule]
    folder = clean(tmp_path / "configs", family)
    question = plant(folder) or {}
    report = lint(folder, family=family, **question)
    assert {finding.rule for finding in report.findings} == {rule}
    for finding in report.findings:
        # Rule, value and next step on one line; what --fix would mend is in the catalogue.
        assert ": " in finding.message
        assert "\n" not in str(finding)
        assert RULES[rule].fixed or not finding.fixable


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.fixed])
def test_what_can_be_mended_is_clean_afterwards(rule: str, tmp_path: Path) -> None:
    family, plant = PLANTED[rule]
    folder = clean(tmp_path / "configs", family)
    plant(folder)
    if rule == "json.duplicate":  # two entries of one M that differ are nobody's to choose from
        write(folder, {FP8: json.dumps(BODY)[:-1] + f', "64": {json.dumps(ENTRY)}' + "}"})
    before = texts(folder)
    assert lint(folder, family=family).findings
    assert texts(folder) == before, "a check alone writes nothing"
    report = lint(folder, family=family, fix=True)
    assert report.findings == ()
    assert report.fixed
    after = texts(folder)
    for name, data in before.items():
        kept = [after.get(name), after.get(f"{name}.bak1")]
        assert data in kept, f"{name} is neither as it was nor backed up"
    assert not [name for name in after if ".workbench-" in name]
    assert lint(folder, family=family, fix=True).fixed == ()


@settings(max_examples=8)
@given(
    st.lists(
        st.sampled_from([name for name, (family, _) in PLANTED.items() if family == "vllm-linear"]),
        min_size=2,
        max_size=4,
        unique=True,
    )
)
def test_whatever_is_mended_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, rules: list[str]
) -> None:
    """Faults on top of one another: every byte that was there is there, and once is enough."""
    folder = clean(tmp_path_factory.mktemp("several") / "configs", "vllm-linear")
    for rule in rules:
        # One fault may have taken away what another one wants to spoil.
        with contextlib.suppress(OSError, KeyError, AttributeError, ValueError, AssertionError):
            PLANTED[rule][1](folder)
    before = texts(folder)
    report = lint(folder, family="vllm-linear", fix=True)
    after = texts(folder)
    for name, data in before.items():
        assert data in (after.get(name), after.get(f"{name}.bak1"))
    assert not any(finding.fixable for finding in report.findings)
    assert lint(folder, family="vllm-linear", fix=True).fixed == ()
    assert texts(folder) == after


def test_mended_bodies_say_what_they_said(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    body = {"64": ENTRY | {"num_stages": "3", "note": 1}, "1": ENTRY, "author": "someone"}
    write(folder, {FP8: body})
    assert lint(folder, fix=True).findings == ()
    assert json.loads((folder / FP8).read_text()) == {"1": ENTRY, "64": ENTRY}
    assert json.loads((folder / f"{FP8}.bak1").read_text()) == body


def test_a_misspelt_key_is_told_and_not_guessed(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    entry(folder, FP8, num_warps=None, num_warp=4)
    before = texts(folder)
    report = lint(folder, fix=True)
    assert {f.rule for f in report.findings} == {"entry.missing", "entry.extra"}
    assert "did you mean 'num_warp'?" in report.findings[0].message
    assert texts(folder) == before


def test_a_misspelt_m_or_knob_is_not_thrown_away(tmp_path: Path) -> None:
    """Both would be lost with what they say, were they removed like a note."""
    folder = clean(tmp_path / "configs", "vllm-linear")
    write(folder, {FP8: {"1": ENTRY, "l6": ENTRY, "64": ENTRY}})
    amd = FP8.replace("NVIDIA_H200", "AMD_Instinct_MI300X")
    assert amd != FP8
    write(folder, {amd: {"1": ENTRY | {"wave_per_eu": 2}, "64": ENTRY | {"kpack": 2}}})
    before = texts(folder)
    report = lint(folder, fix=True)
    assert [(f.rule, f.fixable) for f in report.findings] == [
        ("entry.extra", False), ("body.key", False)
    ]  # fmt: skip
    assert "fails the launch: did you mean 'waves_per_eu'? correct it" in report.findings[0].message
    assert "'l6' is no integer" in report.findings[1].message
    assert "write the M that its entry is for" in report.findings[1].message
    assert texts(folder) == before


def test_a_mended_file_keeps_its_mode(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    entry(folder, FP8, num_stages="3")
    (folder / FP8).chmod(0o600)
    lint(folder, fix=True)
    assert (folder / FP8).stat().st_mode & 0o777 == 0o600


def test_backups_are_numbered_and_none_is_lost(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    for stages in ("2", "3"):
        entry(folder, FP8, num_stages=stages)
        lint(folder, fix=True)
    kept = [json.loads((folder / f"{FP8}.bak{i}").read_text())["64"] for i in (1, 2)]
    assert [one["num_stages"] for one in kept] == ["2", "3"]


def test_a_name_that_is_taken_is_not_written_to(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    write(folder, {FP8.replace("128,128", "128, 128"): {"1": ENTRY}})
    before = texts(folder)
    report = lint(folder, family="vllm-linear", fix=True)
    assert {f.rule for f in report.findings} == {"name.space", "name.collision"}
    assert not any(f.fixable for f in report.findings)
    assert texts(folder) == before


def test_two_files_that_want_one_name_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    names = [FP8.replace("NVIDIA_H200", one) for one in ("NVIDIA H200", "nvidia_h200")]
    write(folder, {names[0]: BODY, names[1]: {"1": ENTRY}})
    before = texts(folder)
    report = lint(folder, fix=True)
    assert not report.fixed
    assert texts(folder) == before


def test_second_products_of_other_keys_are_told_and_not_mended(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "sglang-moe")
    write(folder, {f"{OURS}/{DOWN}": {"1": BODY["1"], "1024": BODY["1024"]}})
    report = lint(folder, fix=True)
    # M 64 of the first product meets row 1 of the second.
    assert [f.message[:5] for f in report.findings] == ["M 64:"]
    assert "BLOCK_SIZE_M 16 (row 1) is overwritten by 64" in report.findings[0].message
    assert not report.findings[0].fixable


def test_a_linked_file_is_read_and_never_replaced(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    entry(folder, FP8, num_stages="3")
    (folder / "inner").mkdir()
    (folder / FP8).rename(folder / "inner" / "real.txt")
    (folder / FP8).symlink_to("inner/real.txt")
    report = lint(folder, fix=True)
    assert [f.rule for f in report.findings] == ["entry.type"]
    assert not report.findings[0].fixable
    assert (folder / FP8).is_symlink()


def test_a_closed_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every file can be read, so the system's answer is made up."""
    folder = clean(tmp_path / "configs", "vllm-linear")
    opened = os.open

    def closed(path: Any, *arguments: Any) -> int:
        if str(path).endswith(FP8):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", closed)
    (finding,) = lint(folder).findings
    assert (finding.rule, finding.message[:17]) == ("path.closed", "Permission denied")


def test_a_read_only_folder_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    entry(folder, FP8, num_stages="3")
    before = texts(folder)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="cannot be written: read only: choose another"):
        lint(folder, fix=True)
    assert texts(folder) == before


def test_a_full_disk_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    entry(folder, FP8, num_stages="3")
    before = texts(folder)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "chmod", full)
    with pytest.raises(ValueError, match="No space left on device: free space"):
        lint(folder, fix=True)
    assert texts(folder) == before


@pytest.mark.parametrize("lasting", [False, True], ids=["one rename", "every rename from there on"])
def test_a_rename_that_fails_half_way_loses_nothing(
    lasting: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    for name in (FP8, INT8):
        entry(folder, name, num_stages="3")
    before = texts(folder)
    replace, calls = os.replace, []

    def failing(*names: Any) -> None:
        calls.append(names)
        if len(calls) == 2 or (lasting and len(calls) > 2):
            raise PermissionError(1, "Operation not permitted")
        replace(*names)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(ValueError, match="Operation not permitted"):
        lint(folder, fix=True)
    after = {path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert set(before.values()) <= after  # here or beside it
    if not lasting:
        assert texts(folder) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_told_by_their_folders(family: str, tmp_path: Path) -> None:
    """Where the engine's own tree is given, its path says it, whatever is in it."""
    tree = FAMILIES[family].folder
    for above in ("", "site-packages/"):
        folder = tmp_path / above / tree.removeprefix("python/" if above else "")
        clean(folder, family)
        assert lint(folder).families == (family,)


def test_families_are_not_told_by_what_lies_above_the_folder(tmp_path: Path) -> None:
    """Somebody's checkout of one engine, and in it what was tuned for the other."""
    for above, name, family in (
        ("sglang", FP8, "vllm-linear"),
        ("vllm", FP8_SPACED, "sglang-linear"),
    ):
        folder = tmp_path / above / "tuned"
        write(folder, {name: BODY})
        report = lint(folder)
        assert report.families == (family,)
        assert report.findings == ()
    # The folder that is given has a name of its own, and so have those in it.
    assert lint(tmp_path / "sglang").families == ("sglang-linear",)
    assert lint(tmp_path).families == ("sglang-linear", "vllm-linear")


@pytest.mark.parametrize(
    ("names", "family"),
    [
        ((INT8, INT8_SPACED), "vllm-linear"),
        ((INT8_SPACED,), "sglang-linear"),
        ((INT8, INT8_SPACED, FP8_SPACED), "vllm-linear"),  # twins are vLLM's
        ((FP8,), "vllm-linear"),
        ((FP8_SPACED, INT8), "vllm-linear"),  # as many with the blank as without
        ((FP8_SPACED, INT8_SPACED, INT8.replace("N=4096", "N=1")), "sglang-linear"),
        ((MOE,), "vllm-moe"),
        ((DOWN,), "sglang-moe"),
        ((SGLANG,), "sglang-moe"),
    ],
)
def test_families_are_told_by_spelling(names: tuple[str, ...], family: str, tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(names, BODY))
    assert lint(tmp_path).families == (family,)


#: Tiles that engines ship for a GPU, tuned on it: M, N, K, warps, stages.
SHIPPED = [
    ("vllm-linear", "N=1,K=1,device_name=NVIDIA_L40S,{fp8},{block}", (128, 128, 128, 8, 4)),
    ("vllm-linear", "N=1,K=1,device_name=NVIDIA_L40S,{fp8},{block}", (64, 256, 128, 8, 3)),
    ("vllm-linear", "N=1,K=1,device_name=NVIDIA_H200,{fp8},{block}", (64, 64, 128, 4, 5)),
    (
        "vllm-linear",
        "N=1,K=1,device_name=Intel(R)_Arc(TM)_B70,{fp8},{block}",
        (128, 128, 64, 32, 3),
    ),
    ("vllm-moe", "E=1,N=1,device_name=NVIDIA_B200", (256, 256, 64, 8, 3)),
    ("vllm-moe", "E=1,N=1,device_name=NVIDIA_H200,{fp8},{block}", (16, 64, 128, 4, 5)),
    ("vllm-moe", "E=1,N=1,device_name=NVIDIA_H200,dtype=int8_w8a16", (128, 128, 64, 4, 4)),
    ("vllm-moe", "E=1,N=1,device_name=NVIDIA_A100-SXM4-80GB", (128, 128, 64, 4, 3)),
    ("vllm-moe", "E=1,N=1,device_name=AMD_Instinct_MI325X,{fp8}", (64, 256, 128, 8, 2)),
    (
        "sglang-moe",
        "E=1,N=1,device_name=AMD_Instinct_MI350X,dtype=int4_w4a16",
        (128, 256, 32, 8, 1),
    ),
]


@pytest.mark.parametrize(("family", "name", "tile"), SHIPPED)
def test_tiles_that_engines_ship_are_not_complained_about(
    family: str, name: str, tile: tuple[int, ...], tmp_path: Path
) -> None:
    keys = ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "num_warps", "num_stages")
    values = {"GROUP_SIZE_M": 1, **dict(zip(keys, tile, strict=True))}
    full = name.format(fp8="dtype=fp8_w8a8", block="block_shape=[128,128]") + ".json"
    folder = f"{OURS}/" if family == "sglang-moe" else ""
    write(tmp_path, {folder + full: {"64": values}})
    assert lint(tmp_path, family=family).findings == ()


@pytest.mark.parametrize(
    ("family", "k", "rule"),
    [
        ("vllm-linear", 64, None),
        ("vllm-linear", 256, "tile.scale-k"),
        ("sglang-linear", 256, "tile.scale-k"),
        # The launch of vLLM's experts takes 128; its tuner keeps multiples.
        ("vllm-moe", 256, None),
        ("vllm-moe", 64, "tile.whole-blocks"),
        # SGLang's takes 256 as it stands, with the scale of the first block.
        ("sglang-moe", 256, "tile.scale-k"),
        ("sglang-moe", 64, None),
    ],
)
def test_rules_of_k_steps_differ_by_kernel(
    family: str, k: int, rule: str | None, tmp_path: Path
) -> None:
    name = {"vllm-linear": FP8, "sglang-linear": FP8_SPACED, "vllm-moe": MOE, "sglang-moe": SGLANG}
    write(tmp_path, {name[family]: {"64": ENTRY | {"BLOCK_SIZE_K": k}}})
    found = lint(tmp_path, family=family).findings
    assert [one.rule for one in found] == [rule] * (rule is not None)


def test_a_clamped_k_step_takes_the_shared_memory_of_its_block(tmp_path: Path) -> None:
    deep = ENTRY | {"BLOCK_SIZE_M": 128, "BLOCK_SIZE_K": 256, "num_warps": 8, "num_stages": 4}
    plain = "E=64,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8.json"
    write(tmp_path, {MOE: {"64": deep}, plain: {"64": deep}})
    found = lint(tmp_path, family="vllm-moe").findings
    assert [(str(one.path), one.rule) for one in found] == [(plain, "gpu.smem")]


def test_knobs_of_amd_are_known_by_devices_without_a_vendor(tmp_path: Path) -> None:
    name = FP8.replace("NVIDIA_H200", "MI308X")
    write(tmp_path, {name: {"1": ENTRY | {"waves_per_eu": 0}}})
    assert lint(tmp_path).findings == ()


def test_other_json_is_nobodys_business(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "sglang-moe")
    table = {"8-2048-bfloat16": {"1": {"BLOCK_M": 1, "num_warps": 2}}}
    others = {f"{OURS}/moe_sum_reduce_NVIDIA-H200_t8_h2048_bfloat16.json": table}
    write(folder, {**others, "config.json": {"model_type": "llama"}})
    report = lint(folder)
    assert report.findings == ()
    assert report.files == len(CLEAN["sglang-moe"])


def test_linear_and_experts_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    clean(tmp_path, "vllm-linear")
    clean(tmp_path, "vllm-moe")
    report = lint(tmp_path)
    assert report.families == ("vllm-linear", "vllm-moe")
    assert report.findings == ()


def test_a_tie_is_lost_by_order_alone(tmp_path: Path) -> None:
    """Equal rows in another order are another answer: 40 lies between 16 and 64."""
    write(tmp_path, {FP8: {"64": ENTRY, "16": ENTRY | {"BLOCK_SIZE_M": 16}}})
    (finding,) = lint(tmp_path).findings
    assert finding.rule == "body.order"


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"family": "vllm"}, "unknown family 'vllm': did you mean 'vllm-moe'"),
        ({"gpu": "h2000"}, "unknown GPU|no GPU|h2000"),
        ({"triton": "3.6"}, r"--triton '3.6': write three numbers, X.Y.Z"),
        ({"tp": 8}, "speak of a model: add --model"),
        ({"block_shape": "128"}, "add --model"),
        ({"model": "nowhere.json"}, "nowhere.json: cannot be read"),
        ({"run": "nowhere"}, "nowhere"),
    ],
)
def test_a_bad_question_is_one_line(question: dict[str, Any], message: str, tmp_path: Path) -> None:
    clean(tmp_path, "vllm-linear")
    with pytest.raises(ValueError, match=message) as caught:
        lint(tmp_path, **question)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder: give a folder of tuned files"):
        lint(tmp_path / "nowhere")
    file = tmp_path / "file.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match="not a folder"):
        lint(file)


def test_a_tree_that_is_far_too_deep_is_refused(tmp_path: Path) -> None:
    (tmp_path / "/".join("abcdefghij")).mkdir(parents=True)
    with pytest.raises(ValueError, match="deeper than 8: give the folder of tuned files"):
        lint(tmp_path)


def test_json_says_the_same(tmp_path: Path) -> None:
    folder = clean(tmp_path / "configs", "vllm-linear")
    entry(folder, FP8, num_stages="3")
    found = lint(folder).to_dict()
    assert found["schema"] == "tile-workbench/lint/1"
    assert found["findings"] == [
        {
            "rule": "entry.type",
            "effect": "crash",
            "path": FP8,
            "message": "M 64: num_stages '3': takes an integer, write 3",
            "fixable": True,
        }
    ]
