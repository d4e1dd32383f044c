"""Sweeps written as tuned files, read back by the engines' loaders at every M and between."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from measured_studies import EXPERTS, PLAIN, linear, mixture, run_of, study
from serving_loaders import keys, linear_kernel, row, sglang_linear, vllm_linear

from sim import load_gpu
from tuning import Run, StudyRecord
from workbench.deploy.config_targets import CONFIG_TARGETS, write_configs
from workbench.deploy.families import FAMILIES
from workbench.deploy.lint import lint
from workbench.deploy.tile_rules import tile_findings


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


def test_what_lost_before_the_turns_is_not_taken_for_its_own_time(tmp_path: Path) -> None:
    """Alone 100 and 104 us; in turns, where the first took part, the GPU is a tenth slower."""
    found = linear(64, [(PLAIN, 104.0), (replace(PLAIN, num_stages=4), 110.0)])
    lost, won = found.trials
    turned = replace(found, trials=(replace(lost, outpaced=1.1), won))
    done = write_configs(run_of(turned), "vllm-linear", tmp_path)
    (row,) = done.rows
    assert (row.time_us, row.loss) == (110.0, 0.0)


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
