"""Tuned files with few M: what the engines' own lookup loses, at every M and for pairs."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from measured_studies import EXPERTS, PLAIN, linear, mixture, run_of, study
from serving_loaders import Configs, row, sglang_linear, sglang_moe, sglang_pair, vllm_linear
from serving_loaders import vllm_moe as load_vllm_moe

from sim import load_gpu, price
from tiles.kernels import ConfigTable, Status, TileConfig, kernel
from tiles.problems import parse_problem
from tuning import Measurement, Run, StudyRecord
from tuning.row_keys import Lookup, choose_keys
from tuning.row_times import RowTimes, row_times, rows_between
from workbench.deploy.config_targets import write_configs
from workbench.deploy.lint import lint
from workbench.deploy.written import WrittenConfigs
from workbench.emission.targets import TARGETS

LOSS = 0.02
SMALL = replace(PLAIN, block_m=16, group_m=1)
LARGE = replace(PLAIN, block_m=128, num_warps=8)
FAST = replace(PLAIN, tma=True, persistent=True)  # no entry can say it
GPU = load_gpu("h200")


@functools.cache
def times(m: int) -> Mapping[TileConfig, float]:
    """The model's times, off by a factor a configuration: each wins over a range of M."""
    factors = {SMALL: 0.7, PLAIN: 1.0, LARGE: 0.8}
    problem = parse_problem(f"gemm:{m}x4096x7168:deepseek-fp8:bf16")
    told = price(problem, kernel("triton_gemm"), ConfigTable.of(list(factors)), GPU).time_us
    return dict(zip(factors, told * list(factors.values()), strict=True))


def linear_run(ms: Sequence[int] = (1, 16, 64, 256, 512, 1024)) -> Run:
    timed = [(m, [*times(m).items(), (FAST, 5.0)]) for m in ms]
    return run_of(*(linear(m, one) for m, one in timed))


def read(folder: Path, target: str) -> Configs:
    if target == "vllm-linear":
        found = vllm_linear(folder, 4096, 7168, "NVIDIA H200", "fp8_w8a8", (128, 128), shared=True)
    else:
        found = sglang_linear(folder, 4096, 7168, "NVIDIA H200", "fp8_w8a8", (128, 128))
    assert found is not None
    return found


def said(table: RowTimes) -> list[dict[str, int]]:
    """The candidates as entries."""
    names = {
        "BLOCK_SIZE_M": "block_m",
        "BLOCK_SIZE_N": "block_n",
        "BLOCK_SIZE_K": "block_k",
        "GROUP_SIZE_M": "group_m",
        "num_warps": "num_warps",
        "num_stages": "num_stages",
    }
    return [
        {key: config.to_dict()[field] for key, field in names.items()}
        for _, config in table.candidates
    ]


def plain(run: Run) -> list[StudyRecord]:
    """Studies without what no entry can say."""
    return [
        replace(one, trials=tuple(t for t in one.trials if t.config != FAST)) for one in run.studies
    ]


def looked_up(configs: Configs, table: RowTimes) -> dict[int, float]:
    """By the engine's own loader: what it loses at every M that was looked at."""
    entries = said(table)
    cells = table.times_us
    return {
        m: float(cells[entries.index(row(configs, m)), at] / cells[:, at].min() - 1)
        for at, m in enumerate(table.rows)
    }


@pytest.mark.parametrize("target", ["vllm-linear", "sglang-linear"])
def test_the_engines_lookup_keeps_the_loss_at_every_m(target: str, tmp_path: Path) -> None:
    done = write_configs(linear_run(), target, tmp_path, rows_loss=LOSS)
    found = read(tmp_path, target)
    assert len(found) < 6
    losses = looked_up(found, row_times(plain(linear_run()), GPU))
    assert max(losses.values()) <= LOSS
    (kept,) = done.keys.values()
    assert list(kept.keys) == sorted(found)
    told = (kept.losses.measured, kept.losses.interpolated)
    assert max(one.loss for one in told if one is not None) == pytest.approx(max(losses.values()))
    assert lint(tmp_path, family=target).findings == ()


def test_the_rule_is_the_engines_not_the_packages(tmp_path: Path) -> None:
    """Keys chosen for the nearest M in log space lose more under |key - M|."""
    write_configs(linear_run(), "vllm-linear", tmp_path, rows_loss=LOSS)
    table = row_times(plain(linear_run()), GPU)

    def worst(lookup: Lookup) -> float:
        choice = choose_keys(
            table.rows, table.times_us, loss=LOSS, lookup=lookup, anchors=table.correct
        )
        entries = said(table)
        configs = {key.m: dict(entries[key.config]) for key in choice.keys}
        return max(looked_up(configs, table).values())

    assert worst(Lookup.LOG) > LOSS >= worst(Lookup.LINEAR)
    found = read(tmp_path, "vllm-linear")
    choice = choose_keys(
        table.rows, table.times_us, loss=LOSS, lookup=Lookup.LINEAR, anchors=table.correct
    )
    assert sorted(found) == [key.m for key in choice.keys]


def test_the_summary_says_the_worst_loss_and_the_keys_before_and_after(tmp_path: Path) -> None:
    done = write_configs(linear_run(), "vllm-linear", tmp_path, rows_loss=LOSS)
    (path,) = done.files
    ((_, kept),) = done.keys.items()
    line = next(one for one in done.lines() if "keys before" in one)
    assert line.startswith(f"{path.name}: 6 keys before, {len(kept.keys)} after (M 1 to 1024, ")
    assert "worst loss " in line
    assert "(measured)" in line
    assert "(interpolated)" in line
    assert kept.losses.predicted is None
    record = json.loads((tmp_path / "tile-workbench.json").read_text())["files"][path.name]
    assert record["keys"] == json.loads(json.dumps(kept.to_dict()))
    assert done.to_dict()["keys"][str(path)]["tuned"] == kept.tuned
    spared = [one for one in done.left_out if "takes the entry under M" in one.reason]
    assert len(spared) == 6 - len({one.problem for one in done.rows})


def test_without_the_option_every_tuned_m_is_a_key(tmp_path: Path) -> None:
    done = write_configs(linear_run(), "vllm-linear", tmp_path)
    assert sorted(read(tmp_path, "vllm-linear")) == [1, 16, 64, 256, 512, 1024]
    assert not done.keys
    assert not any("worst loss" in line for line in done.lines())


def test_a_simulated_file_says_predicted(tmp_path: Path) -> None:
    studies = [
        study(f"gemm:{m}x4096x7168:deepseek-fp8:bf16", list(times(m).items()), simulated=True)
        for m in (16, 256, 1024)
    ]
    (kept,) = write_configs(run_of(*studies), "vllm-linear", tmp_path, rows_loss=0.5).keys.values()
    assert str(kept).endswith("(predicted)")
    assert kept.losses.measured is kept.losses.interpolated is None


def test_a_loss_that_no_keys_keep_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    ends = linear_run((1, 1024))
    with pytest.raises(ValueError, match=r"vllm-linear N=4096,K=7168: no keys keep the loss of M"):
        write_configs(ends, "vllm-linear", tmp_path / "out", rows_loss=0.0)
    assert not (tmp_path / "out").exists()


def test_a_row_says_at_which_m_it_was_measured(tmp_path: Path) -> None:
    done = write_configs(linear_run(), "vllm-linear", tmp_path, rows_loss=LOSS)
    for one in done.rows:
        assert (f" at M {one.of_m}," in str(one)) == (one.of_m != one.m)
    assert any(one.of_m != one.m for one in done.rows), "no key stands between tuned M"
    config = {m: min(times(m).values()) for m in (1, 16, 64, 256, 512, 1024)}
    assert all(one.time_us == pytest.approx(config[one.of_m]) for one in done.rows)


def test_an_entry_that_fails_somewhere_does_not_serve_there(tmp_path: Path) -> None:
    run = linear_run((16, 64))
    write_configs(run, "vllm-linear", tmp_path / "all", rows_loss=0.3)
    assert row(read(tmp_path / "all", "vllm-linear"), 64)["BLOCK_SIZE_M"] == 16
    failed = Measurement(status=Status.CORRECTNESS, simulated=False, reason="C[0, 0] = 7")
    studies = [
        replace(
            one,
            trials=tuple(
                replace(t, measurement=failed)
                if t.config == SMALL and one.problem.tokens == 64
                else t
                for t in one.trials
            ),
        )
        for one in run.studies
    ]
    write_configs(run_of(*studies), "vllm-linear", tmp_path, rows_loss=0.3)
    found = read(tmp_path, "vllm-linear")
    assert [row(found, m)["BLOCK_SIZE_M"] for m in (16, 59, 64)] == [16, 16, 64]


TOKENS = (16, 128, 512, 2048)


def experts_run(choices: int = 8) -> Run:
    """First products like small tiles up to 512 tokens, second ones large ones from 128 on."""
    studies = []
    for m in TOKENS:
        for n, k, top_k, knee in ((1024, 7168, choices, 700), (7168, 512, 1, 60)):
            timed = [
                (replace(EXPERTS, block_m=16), 40.0 + m / 20),
                (replace(EXPERTS, block_m=64), 40.0 + knee / 20 - knee / 40 + m / 40),
            ]
            rows = m if top_k > 1 else m * choices
            studies.append(mixture(rows, n, k, top_k, timed))
    return run_of(*studies)


def test_experts_are_looked_up_by_tokens(tmp_path: Path) -> None:
    done = write_configs(experts_run(), "vllm-moe", tmp_path, rows_loss=0.06)
    found = load_vllm_moe(tmp_path, 64, 512, "NVIDIA H200", "fp8_w8a8", (128, 128))
    assert found is not None
    (kept,) = done.keys.values()
    assert kept.tuned == TOKENS
    assert list(kept.keys) == sorted(found)
    assert len(found) < len(TOKENS)
    firsts = [one for one in experts_run().studies if one.problem.shape[2] == 1024]
    rows = [8 * m for m in rows_between(TOKENS)]
    table = row_times(firsts, GPU, rows)
    tokens = replace(table, rows=rows_between(TOKENS), tuned=TOKENS)
    assert max(looked_up(found, tokens).values()) <= 0.06


def test_pairs_of_experts_share_block_size_m_at_every_m(tmp_path: Path) -> None:
    done = write_configs(experts_run(), "sglang-moe", tmp_path, rows_loss=0.05)
    up, down = (
        sglang_moe(tmp_path, "3.6.0", 64, 512, "NVIDIA H200", "fp8_w8a8", (128, 128), down=second)
        for second in (False, True)
    )
    assert up is not None
    assert down is not None
    assert sorted(up) == sorted(down)
    assert len(up) < len(TOKENS)
    assert len(done.keys) == 2
    tokens = rows_between(TOKENS)
    sides = [
        row_times(
            [one for one in experts_run().studies if one.problem.shape[2] == n],
            GPU,
            [8 * m for m in tokens],
        )
        for n in (1024, 7168)
    ]
    cells = [side.times_us for side in sides]
    blocks = [[config.to_dict()["block_m"] for _, config in side.candidates] for side in sides]
    for at, m in enumerate(tokens):
        one, two = sglang_pair(up, down, m)
        assert two == tuple(row(down, m).values()), "the second product's own BLOCK_SIZE_M"
        taken = sum(
            cell[block.index(entry[0]), at]
            for cell, block, entry in zip(cells, blocks, (one, two), strict=True)
        )
        best = min(
            sum(c[b.index(size), at] for c, b in zip(cells, blocks, strict=True))
            for size in (16, 64)
        )
        assert taken / best - 1 <= 0.05 + 1e-9
    assert lint(tmp_path, family="sglang-moe", triton="3.6.0").findings == ()


def test_a_mixtures_rows_stay_whole_tokens() -> None:
    """M between tuned ones is a multiple of the choices, and the experts stay as many."""

    def told(m: int) -> float:
        problem = parse_problem(f"grouped_gemm:64x{m}x1024x7168:deepseek-fp8:gathered.8:bf16")
        family = kernel("triton_grouped_gemm")
        return float(price(problem, family, ConfigTable.of([EXPERTS]), GPU).time_us[0])

    found = row_times([mixture(m, 1024, 7168, 8, [(EXPERTS, told(8 * m))]) for m in (16, 256)], GPU)
    assert all(m % 8 == 0 for m in found.rows)
    assert found.modelled_us[0].tolist() == pytest.approx([told(m) for m in found.rows])


def test_every_engines_target_takes_the_option() -> None:
    for name in ("vllm-linear", "vllm-moe", "sglang-linear", "sglang-moe"):
        assert "rows_loss" in TARGETS[name].options


def test_the_target_passes_it_on(tmp_path: Path) -> None:
    done = TARGETS["vllm-linear"].write(linear_run(), tmp_path / "out", rows_loss=LOSS)
    assert isinstance(done, WrittenConfigs)
    assert done.keys
