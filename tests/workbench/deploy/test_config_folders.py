"""Tuned files written into folders that hold some already: what stays, goes or is refused."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured_studies import ENVIRONMENT, EXPERTS, PLAIN, linear, mixture, run_of
from tuned_folders import texts

from tuning import Run, StudyRecord
from workbench.deploy import config_targets
from workbench.deploy.config_targets import write_configs
from workbench.deploy.earlier_rows import rows_that_stay


def test_versions_do_not_mix_in_a_file(tmp_path: Path) -> None:
    later = mixture(64, 1024, 7168, 8, [(EXPERTS, 50.0)])
    newer = replace(ENVIRONMENT, versions={"triton": "3.7.0"})
    run = run_of(mixture(16, 1024, 7168, 8, [(EXPERTS, 40.0)]), replace(later, environment=newer))
    done = write_configs(run, "vllm-moe", tmp_path / "vllm")
    assert [one.reason for one in done.left_out] == [
        "measured with Triton 3.7.0, others of its file with another"
    ]
    folders = {p.parent.name for p in write_configs(run, "sglang-moe", tmp_path / "s").files}
    assert folders == {"triton_3_6_0", "triton_3_7_0"}


def test_writing_again_is_the_same_and_foreign_files_are_kept(
    linear_run: Run, tmp_path: Path
) -> None:
    (path,) = write_configs(linear_run, "vllm-linear", tmp_path).files
    before = texts(tmp_path)
    write_configs(linear_run, "vllm-linear", tmp_path)
    assert texts(tmp_path) == before
    newer = run_of(linear(64, [(replace(PLAIN, num_stages=5), 9.0)]))
    old = json.loads(path.read_text())
    done = write_configs(newer, "vllm-linear", tmp_path)  # our own, unchanged since
    found = json.loads(path.read_text())
    assert list(found) == list(old) == ["1", "64", "1024"]
    assert found == old | {"64": found["64"]}
    assert found["64"]["num_stages"] == 5
    assert done.kept == {path: (1, 1024)}
    assert f"{path.name}: M 1, 1024 stay as an earlier run wrote them" in done.lines()
    record = json.loads((tmp_path / "tile-workbench.json").read_text())["files"][path.name]
    assert [row["m"] for row in record["rows"]] == [1, 64, 1024]
    assert record["rows"][0]["run"] == linear_run.folder.name
    assert record["rows"][0]["measured_us"] == 20.0
    # Where keys are chosen for what lookup may lose, further ones would serve M of theirs.
    done = write_configs(newer, "vllm-linear", tmp_path, rows_loss=0.1)
    assert list(json.loads(path.read_text())) == ["64"]
    assert [str(one).partition(":")[0] for one in done.left_out] == [
        f"M {m} of {path.name}, there before" for m in (1, 1024)
    ]
    write_configs(linear_run, "vllm-linear", tmp_path)
    path.write_text(path.read_text().replace("128", "64", 1))
    edited = texts(tmp_path)
    with pytest.raises(ValueError, match="was not written by us, or was edited since: move it"):
        write_configs(linear_run, "vllm-linear", tmp_path)
    assert texts(tmp_path) == edited


def test_rows_of_another_triton_are_told_when_they_go(tmp_path: Path) -> None:
    def at(m: int, time_us: float) -> StudyRecord:
        return mixture(m, 1024, 7168, 8, [(EXPERTS, time_us)])

    (path,) = write_configs(run_of(at(16, 40.0), at(64, 50.0)), "vllm-moe", tmp_path).files
    newer = replace(ENVIRONMENT, versions={"triton": "3.7.0"})
    later = run_of(replace(at(64, 49.0), environment=newer))
    done = write_configs(later, "vllm-moe", tmp_path)
    assert [str(one) for one in done.left_out] == [
        f"M 16 of {path.name}, there before: written with Triton 3.6.0, the others of its file now "
        "with 3.7.0"
    ]
    assert list(json.loads(path.read_text())) == ["triton_version", "64"]


def test_both_products_of_experts_keep_the_same_rows(tmp_path: Path) -> None:
    def pair(m: int) -> tuple[StudyRecord, StudyRecord]:
        return (
            mixture(m, 1024, 7168, 8, [(EXPERTS, 40.0)]),
            mixture(8 * m, 7168, 512, 1, [(EXPERTS, 20.0)]),
        )

    alone = mixture(64, 1024, 7168, 8, [(EXPERTS, 41.0)])
    write_configs(run_of(*pair(16)), "sglang-moe", tmp_path)
    done = write_configs(run_of(*pair(32)), "sglang-moe", tmp_path)
    assert [json.loads(p.read_text()).keys() for p in done.files] == [{"16", "32"}] * 2
    write_configs(run_of(alone), "sglang-moe", tmp_path)  # of the first product alone
    done = write_configs(run_of(*pair(32)), "sglang-moe", tmp_path)
    assert [json.loads(p.read_text()).keys() for p in done.files] == [{"16", "32"}] * 2
    (told,) = done.left_out
    assert told.study.startswith("M 64 of triton_3_6_0/E=")
    assert told.reason == "the other product's file has no row for it"


def test_a_link_in_the_output_is_not_followed(linear_run: Run, tmp_path: Path) -> None:
    (path,) = write_configs(linear_run, "vllm-linear", tmp_path / "a").files
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / path.name).symlink_to(path)
    with pytest.raises(ValueError, match="leads out of"):
        write_configs(linear_run, "vllm-linear", tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [path.name]


OURS = '{"schema": "tile-workbench/tuned-files/1", "files": %s}'


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"schema": "other/1", "files": {}}',
        OURS % "null",
        OURS % "[]",
        OURS % '{"a.json": 1}',
        OURS % '{"a.json": {}}',
        OURS % '{"a.json": {"sha256": "", "from": "x"}}',
        OURS % '{"a.json": {"sha256": "", "rows": 5}}',
        OURS % '{"a.json": {"sha256": "", "rows": null}}',
        OURS % '{"a.json": {"sha256": "", "rows": [1]}}',
        OURS % '{"a.json": {"sha256": "", "rows": [{"m": [1]}]}}',
        OURS % '{"a.json": {"sha256": "", "rows": [{"m": "16"}]}}',
        OURS % '{"a.json": {"sha256": "", "rows": [{"m": 16, "measured_us": NaN}]}}',
    ],
)
def test_a_side_file_that_is_not_ours_is_refused(
    content: str, linear_run: Run, tmp_path: Path
) -> None:
    (tmp_path / "tile-workbench.json").write_text(content)
    with pytest.raises(ValueError, match=r"tile-workbench.json: .*move (it|the side file) away"):
        write_configs(linear_run, "vllm-linear", tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_rows_that_two_write_at_once_are_all_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has looked at what is there when the second begins; neither loses a row."""
    looked, go = threading.Event(), threading.Event()
    real = rows_that_stay

    def slow(*told: Any, **more: Any) -> Any:
        found = real(*told, **more)
        if threading.current_thread().name == "first":
            looked.set()
            assert go.wait(60)
        return found

    monkeypatch.setattr(config_targets, "rows_that_stay", slow)
    out = tmp_path / "new" / "folder"

    def write(m: int) -> None:
        write_configs(run_of(linear(m, [(PLAIN, 20.0)])), "vllm-linear", out)

    first = threading.Thread(target=write, args=(16,), name="first")
    second = threading.Thread(target=write, args=(64,))
    first.start()
    assert looked.wait(60)
    second.start()
    second.join(0.2)  # long enough to be done, where nothing holds it
    go.set()
    first.join(60)
    second.join(60)
    (path,) = out.glob("N=*.json")
    assert list(json.loads(path.read_text())) == ["16", "64"]
    record = json.loads((out / "tile-workbench.json").read_text())["files"][path.name]
    assert [row["m"] for row in record["rows"]] == [16, 64]


def test_a_folder_that_was_made_in_vain_is_gone(
    linear_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path, *told: Any) -> None:
        assert folder.is_dir()
        raise ValueError("no")

    monkeypatch.setattr(config_targets, "write_folder", refuse)
    with pytest.raises(ValueError, match="no"):
        write_configs(linear_run, "vllm-linear", tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
