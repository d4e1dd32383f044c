"""Sweeps of experts written as tuned files, read back by the engines' loaders."""

import json
from dataclasses import replace
from pathlib import Path

from measured_studies import EXPERTS, mixture, run_of
from serving_loaders import keys, linear_kernel, row, sglang_moe, sglang_pair, vllm_moe

from workbench.deploy.config_targets import write_configs
from workbench.deploy.lint import lint


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
