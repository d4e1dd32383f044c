"""Sweeps written as tuned files, read back by the engines' loaders at every M and between."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured_studies import ENVIRONMENT, EXPERTS, PLAIN, linear, mixture, run_of, study
from serving_loaders import (
    linear_kernel,
    row,
    sglang_linear,
    sglang_moe,
    sglang_pair,
    vllm_linear,
    vllm_moe,
)
from tuned_folders import texts

from sim import load_gpu
from tuning import Run, StudyRecord
from workbench.deploy import config_targets
from workbench.deploy.config_targets import CONFIG_TARGETS, write_configs
from workbench.deploy.earlier_rows import rows_that_stay
from workbench.deploy.families import FAMILIES
from workbench.deploy.lint import lint
from workbench.deploy.tile_rules import tile_findings


def keys(**changed: int) -> tuple[int, ...]:
    config = {"m": 64, "n": 128, "k": 128, "group": 8, "warps": 4, "stages": 3} | changed
    return tuple(config.values())


@pytest.fixture
def linear_run() -> Run:
    fast = replace(PLAIN, tma=True, persistent=True)
    return run_of(
        linear(1, [(replace(PLAIN, block_m=16, group_m=1), 20.0), (fast, 16.0)]),
        linear(64, [(PLAIN, 30.0), (replace(PLAIN, num_stages=4), 29.0)]),
        linear(1024, [(replace(PLAIN, block_m=128, num_warps=8), 80.0)]),
    )


@pytest.mark.parametrize("target", ["vllm-linear", "sglang-linear"])
def test_linear_files_are_read_at_every_m_and_between(
    target: str, linear_run: Run, tmp_path: Path
) -> None:
    done = write_configs(linear_run, target, tmp_path)
    found = (
        vllm_linear(tmp_path, 4096, 7168, "NVIDIA H200", "fp8_w8a8", (128, 128), shared=True)
        if target == "vllm-linear"
        else sglang_linear(tmp_path, 4096, 7168, "NVIDIA H200", "fp8_w8a8", (128, 128))
    )
    assert found is not None
    expected = {
        1: keys(m=16, group=1),
        64: keys(stages=4),
        1024: keys(m=128, warps=8),
    }
    nearest = {1: 1, 2: 1, 32: 1, 33: 64, 64: 64, 544: 64, 545: 1024, 1024: 1024, 9999: 1024}
    for m, key in nearest.items():
        assert linear_kernel(**row(found, m)) == expected[key]
    assert [path.name for path in done.files] == [
        f"N=4096,K=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,"
        f"{' ' * (target == 'sglang-linear')}128].json"
    ]
    assert done.left_out == ()
    assert lint(tmp_path, family=target).findings == ()


def test_the_fastest_that_can_be_said_is_taken_and_the_loss_told(
    linear_run: Run, tmp_path: Path
) -> None:
    done = write_configs(linear_run, "vllm-linear", tmp_path)
    assert [round(one.loss, 6) for one in done.rows] == [0.25, 0, 0]
    assert str(done.rows[0]).endswith(
        "M 1: 20.00 us measured, chosen from 1 entries, 25.0 % slower than the fastest, which no "
        "entry can say"
    )
    side = json.loads((tmp_path / "tile-workbench.json").read_text())
    (record,) = side["files"].values()
    assert str(done.rows[1]).endswith(
        "29.00 us measured, chosen from 2 entries, the fastest of all"
    )
    first = record["rows"][0]
    assert first["measured_us"] == 20.0
    assert first["fastest"] == {
        "config": replace(PLAIN, tma=True, persistent=True).to_dict(),
        "measured_us": 16.0,
    }
    assert first["not_said"] == {"load by tensor-memory-access descriptors": 1}
    assert first["environment"]["versions"] == {"triton": "3.6.0"}


def test_int8_is_written_under_both_of_vllms_names(tmp_path: Path) -> None:
    run = run_of(linear(16, [(PLAIN, 20.0)], "int8-b128"))
    write_configs(run, "vllm-linear", tmp_path)
    for shared in (False, True):
        found = vllm_linear(
            tmp_path, 4096, 7168, "NVIDIA H200", "int8_w8a8", (128, 128), shared=shared
        )
        assert found is not None
        assert linear_kernel(**row(found, 16)) == keys()


MODES: list[tuple[dict[str, Any], str]] = [
    ({"tma": True}, "1 load by tensor-memory-access descriptors"),
    ({"split_k": 4}, "1 share K among programs"),
    ({"stream_k": True, "persistent": True}, "1 share K among programs"),
    ({"persistent": True}, "1 are persistent"),
    ({"overlap": True}, "1 overlap promotion"),
    ({"specialize": True}, "1 specialise warps"),
    ({"block_k": 256}, "1 cross scale blocks"),
]


@pytest.mark.parametrize(("mode", "reason"), MODES)
def test_a_study_without_a_configuration_to_say_is_left_out_with_its_reason(
    mode: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    run = run_of(
        linear(1, [(PLAIN, 20.0)]),
        linear(64, [(replace(PLAIN, **mode), 20.0)]),
    )
    done = write_configs(run, "vllm-linear", tmp_path)
    assert [str(one) for one in done.left_out] == [
        "gemm:64x4096x7168:deepseek-fp8:bf16 triton_gemm: none of its 1 correct configurations can "
        f"be said: {reason}"
    ]
    assert [one.m for one in done.rows] == [1]


@pytest.mark.parametrize(
    ("other", "target", "reason"),
    [
        (
            study("gemm:16x512x512:e4m3-row:bf16"),
            "vllm-linear",
            "holds FP8 and INT8 with weights in blocks of scales, not e4m3-row",
        ),
        (
            study("gemm:16x512x512:int8-fallback:bf16"),
            "vllm-linear",
            "blocks of scales, not int8-fallback",
        ),
        (
            study("gemm:16x512x512:deepseek-fp8:bf16", family="hopper_gemm"),
            "sglang-linear",
            "SGLang's kernel has the parameters of triton_gemm, not of hopper_gemm",
        ),
        (
            study("gemm:16x512x512:deepseek-fp8:bf16", correct=False),
            "sglang-linear",
            "nothing correct was measured",
        ),
        (
            study("quantize:128x256:int8.row:bf16", family="triton_quantize"),
            "vllm-moe",
            "the parameters of triton_grouped_gemm, not of triton_quantize",
        ),
        (
            study("grouped_gemm:8x256x512x512:bf16:contiguous:bf16", family="triton_grouped_gemm"),
            "vllm-moe",
            "vLLM sorts token ids: measure layout gathered, not this one",
        ),
        (
            mixture(16, 512, 512, 2, [(EXPERTS, 9.0)], "int8-row"),
            "vllm-moe",
            "vLLM has no label for INT8 W8A8 experts",
        ),
        (
            mixture(16, 512, 512, 2, [(EXPERTS, 9.0)], "e5m2-row"),
            "sglang-moe",
            "no label of sglang-moe means e5m2-row",
        ),
        (
            mixture(16, 512, 512, 2, [(replace(EXPERTS, block_k=64), 9.0)]),
            "vllm-moe",
            "1 hold parts of blocks",
        ),
        (
            mixture(16, 513, 512, 2, [(EXPERTS, 9.0)], "bf16"),
            "vllm-moe",
            "the first product holds gate and up, an even N",
        ),
    ],
)
def test_other_studies_are_refused_with_the_reason_and_nothing_is_written(
    other: StudyRecord, target: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"nothing to write for {target}: .*{reason}"):
        write_configs(run_of(other), target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_of_two_studies_of_a_row_the_one_that_is_served_is_taken(tmp_path: Path) -> None:
    run = run_of(
        linear(16, [(PLAIN, 10.0)], "int8-b128"),
        linear(16, [(replace(PLAIN, num_stages=4), 20.0)], "int8-b1x128"),
        linear(16, [(PLAIN, 5.0)], "int8-b1x128", out="fp16"),
    )
    done = write_configs(run, "sglang-linear", tmp_path)
    assert [one.problem for one in done.rows] == ["gemm:16x4096x7168:int8-b1x128:bf16"]
    assert len(done.left_out) == 2
    assert all("a file has one row for it" in one.reason for one in done.left_out)


def test_experts_of_vllm_are_read_by_w2(tmp_path: Path) -> None:
    """The first product is [2 x 512, 7168]; M is tokens, not rows."""
    run = run_of(
        mixture(16, 1024, 7168, 8, [(replace(EXPERTS, block_m=16), 40.0)]),
        mixture(256, 1024, 7168, 8, [(EXPERTS, 90.0), (replace(EXPERTS, tma=True), 80.0)]),
    )
    done = write_configs(run, "vllm-moe", tmp_path)
    found = vllm_moe(tmp_path, 64, 512, "NVIDIA H200 NVL", "fp8_w8a8", (128, 128))
    assert found is not None
    assert sorted(found) == [16, 256]
    assert linear_kernel(**row(found, 136)) == keys(m=16)  # half way: the first of both
    assert linear_kernel(**row(found, 137)) == keys()
    assert json.loads(done.files[0].read_text())["triton_version"] == "3.6.0"
    assert done.files[0].name == (
        "E=64,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json"
    )


def test_both_products_of_sglangs_experts_share_block_size_m(tmp_path: Path) -> None:
    """The pair with the smallest sum of times, not each product's own best."""
    small = replace(EXPERTS, block_m=16)
    run = run_of(
        mixture(16, 1024, 7168, 8, [(EXPERTS, 40.0), (small, 42.0)]),
        mixture(128, 7168, 512, 1, [(EXPERTS, 30.0), (small, 20.0)]),
    )
    done = write_configs(run, "sglang-moe", tmp_path)
    up, down = (
        sglang_moe(tmp_path, "3.6.0", 64, 512, "NVIDIA H200", "fp8_w8a8", (128, 128), down=second)
        for second in (False, True)
    )
    assert up is not None
    for m in (1, 16, 99):
        assert sglang_pair(up, down, m) == (keys(m=16), keys(m=16))
    assert {path.parent.name for path in done.files} == {"triton_3_6_0"}
    assert [one.m for one in done.rows] == [16, 16]
    assert lint(tmp_path, family="sglang-moe", triton="3.6.0").findings == ()


def test_a_second_product_without_a_pair_at_every_m_is_left_out(tmp_path: Path) -> None:
    run = run_of(
        mixture(16, 1024, 7168, 8, [(EXPERTS, 40.0)]),
        mixture(64, 1024, 7168, 8, [(EXPERTS, 50.0)]),
        mixture(128, 7168, 512, 1, [(EXPERTS, 30.0)]),
        mixture(8, 7168, 512, 1, [(EXPERTS, 10.0)]),
    )
    done = write_configs(run, "sglang-moe", tmp_path)
    assert [path.name[-11:] for path in done.files] == [", 128].json"]
    assert [one.reason[:30] for one in done.left_out] == [
        "not at every M of the first pr",
        "the first product has no study",
    ]


def test_channels_are_said_by_sglang_alone(tmp_path: Path) -> None:
    run = run_of(mixture(16, 1024, 512, 8, [(EXPERTS, 9.0)], "int8-row"))
    write_configs(run, "sglang-moe", tmp_path)
    found = sglang_moe(
        tmp_path, "3.6.0", 64, 512, "NVIDIA H200", "int8_w8a8", None, per_channel=True
    )
    assert found == {
        16: dict(
            zip(
                ("BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M"),
                keys()[:4],
                strict=True,
            )
        )
        | {"num_warps": 4, "num_stages": 3}
    }


def test_simulated_times_are_called_so_and_name_no_triton(tmp_path: Path) -> None:
    problem = "gemm:16x4096x7168:deepseek-fp8:bf16"
    run = run_of(study(problem, [(PLAIN, 20.0)], simulated=True))
    done = write_configs(run, "vllm-linear", tmp_path)
    assert "20.00 us simulated" in str(done.rows[0])
    record = json.loads((tmp_path / "tile-workbench.json").read_text())["files"]
    assert record[done.files[0].name]["rows"][0]["simulated_us"] == 20.0
    experts = "grouped_gemm:64x128x1024x512:bf16:gathered.8:bf16"
    grouped = run_of(study(experts, [(EXPERTS, 9.0)], family="triton_grouped_gemm", simulated=True))
    with pytest.raises(ValueError, match=r"no Triton version X\.Y\.Z is known.*: add --triton"):
        write_configs(grouped, "sglang-moe", tmp_path / "sglang")
    told = write_configs(grouped, "sglang-moe", tmp_path / "sglang", triton="3.7.0")
    assert told.files[0].parent.name == "triton_3_7_0"


def test_another_device_is_named_as_drivers_do(linear_run: Run, tmp_path: Path) -> None:
    (path,) = write_configs(linear_run, "sglang-linear", tmp_path, device="NVIDIA H200 NVL").files
    assert "device_name=NVIDIA_H200_NVL," in path.name
    with pytest.raises(ValueError, match="device name"):
        write_configs(linear_run, "sglang-linear", tmp_path, device="../x")
    # Another GPU's tuning under this one's name is nobody's.
    for device, name in (("AMD Instinct MI300X", "mi300x"), ("NVIDIA_H20", "h20")):
        with pytest.raises(ValueError, match=f"that is {name}, and .* was swept for h200: sweep"):
            write_configs(linear_run, "vllm-linear", tmp_path / "other", device=device)
    assert not (tmp_path / "other").exists()


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


def test_targets_tell_every_row_and_every_study_left_out(tmp_path: Path) -> None:
    run = run_of(linear(16, [(PLAIN, 10.0)]), study("gemm:16x512x512:bf16:bf16"))
    done = CONFIG_TARGETS["vllm-linear"].write(run, tmp_path, device="NVIDIA H200 NVL")
    path, row_line, left = done.lines()
    assert Path(path).is_file()
    assert row_line.startswith(f"{Path(path).name}: M 16: 10.00 us measured")
    assert left.startswith("left out: gemm:16x512x512:bf16:bf16 triton_gemm: vllm-linear holds")
    told = json.loads(json.dumps(done.to_dict()))
    assert told["schema"] == "tile-workbench/tuned-files-written/1"
    assert told["rows"][0]["measured_us"] == 10.0
    assert len(told["left_out"]) == 1
    assert list(CONFIG_TARGETS) == list(FAMILIES)


def test_what_is_written_fits_the_gpu(linear_run: Run, tmp_path: Path) -> None:
    """No rule on tiles is broken by a configuration that our own gate accepted."""
    from workbench.deploy.folder import sort_out
    from workbench.deploy.scan import scan

    write_configs(linear_run, "sglang-linear", tmp_path)
    files, _ = sort_out(scan(tmp_path), tmp_path)
    assert [list(tile_findings(file, load_gpu("h200"))) for file in files] == [[]]
