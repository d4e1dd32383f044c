"""What lint mends is clean afterwards, and nothing that was there is lost."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_faults import (
    PLANTED,
    entry,
)
from tuned_folders import (
    BODY,
    DOWN,
    ENTRY,
    FP8,
    INT8,
    OURS,
    clean,
    texts,
    write,
)

from workbench.deploy.lint import lint
from workbench.deploy.rules import RULES


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
