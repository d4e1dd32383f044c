"""Points of the traffic record: how they are chosen, and what a record keeps of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from counted_traffic import KERNEL, dry_run, point

import sim
from bench import traffic
from bench.traffic_points import PROBLEMS, Point, points, raster_of, summary
from tiles.kernels import ConfigTable, kernel
from tiles.problems import parse_problem

pytest.importorskip("torch")
GPU = sim.load_gpu("h200")


@pytest.fixture(scope="module")
def all_points() -> list[Point]:
    return points(GPU)


def test_points_are_spread_over_formats_rasters_and_sizes(all_points: list[Point]) -> None:
    assert len(all_points) >= 30
    assert len({one.key for one in all_points}) == len(all_points)
    assert len({one.problem for one in all_points}) == len(PROBLEMS)
    assert len({one.kernel for one in all_points}) >= 8
    rasters = {(one.problem, one.kernel): set[int]() for one in all_points}
    for one in all_points:
        rasters[one.problem, one.kernel].add(one.config.get("group_m", 0))
    assert sum(len(groups) >= 2 for groups in rasters.values()) >= 10
    replayed = [one for one in all_points if one.replayed is not None]
    assert len(replayed) >= 30
    for one in replayed:
        assert one.replayed is not None
        assert one.replayed["l2_read_bytes"] == pytest.approx(
            # Scales that a kernel holds in fp32 are counted as they are stored.
            one.predicted["l2_read_bytes"],
            rel=0.1 if ".mx" in one.problem or "mxfp8" in one.problem else 1e-6,
        )


@pytest.mark.parametrize("shared", [{"split_k": 2}, {"stream_k": True, "persistent": True}])
def test_tiles_that_programs_share_are_no_plain_raster(shared: dict[str, int]) -> None:
    problem, kind = parse_problem("gemm:64x14336x4096:bf16:bf16"), kernel("triton_gemm").config_type
    fields = {"block_m": 64, "block_n": 128, "block_k": 64, "group_m": 1, "num_warps": 4}
    plain = {**fields, "num_stages": 3, "tma": True, "persistent": False}
    assert raster_of(problem, "triton_gemm", kind.from_dict(plain), GPU) is not None
    config = kind.from_dict(plain | shared)
    assert raster_of(problem, "triton_gemm", config, GPU) is None


@pytest.mark.parametrize(
    ("block_m", "block_n", "grid"),
    [(128, 256, (16, 16)), (256, 128, (16, 16)), (128, 128, (16, 32))],
    ids=["shares B", "shares A", "shares B of a square tile"],
)
def test_clusters_lie_along_the_side_that_shares_the_larger_tile(
    block_m: int, block_n: int, grid: tuple[int, int]
) -> None:
    """What a replay reads through the L2 is what the model says: multicast counts once."""
    problem, family = parse_problem("gemm:4096x4096x4096:bf16:bf16"), kernel("hopper_gemm")
    config = family.config_type.from_dict(
        {
            "block_m": block_m,
            "block_n": block_n,
            "stages": 4,
            "cluster": 2,
            "group_m": 1,
            "pingpong": False,
            "store_buffers": 1,
            "chained": False,
        }
    )
    found = raster_of(problem, "hopper_gemm", config, GPU)
    assert found is not None
    assert (found.tiles_m, found.tiles_n) == grid
    priced = sim.price(problem, family, ConfigTable.of([config]), GPU)
    replayed = found.tiles_m * found.tiles_n * (found.a_bytes + found.b_bytes)
    assert priced.l2_read_bytes[0] == pytest.approx(replayed)


def test_errors_are_summed_up_beside_what_is_asked() -> None:
    found = [point(str(n), 100 + n, 100.0) for n in range(11)] + [point("x", 1, None)]
    content = summary(found)
    assert (content["points"], content["counted"]) == (12, 11)
    read = content["predicted dram_read_bytes"]
    assert read["median_error"] == pytest.approx(0.05)
    assert read["p90_error"] == pytest.approx(0.09)
    assert (read["asked_median"], read["asked_p90"]) == (0.10, 0.25)
    assert content["predicted l2_read_bytes"]["median_error"] == pytest.approx(0.25)
    assert "replayed dram_read_bytes" not in content


def test_a_dry_run_writes_every_point_without_a_count(
    tmp_path: Path, all_points: list[Point], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "traffic.json"
    assert dry_run(path, all_points) == 0
    data = json.loads(path.read_text())
    assert data["schema"] == traffic.SCHEMA
    assert data["sessions"] == []
    assert {one["counted"] for one in data["points"]} == {None}
    assert f"0 of {len(data['points'])} points counted" in capsys.readouterr().out


def test_a_record_is_gone_on_with(tmp_path: Path, all_points: list[Point]) -> None:
    path = tmp_path / "traffic.json"
    some = {"dram_read_bytes": 1.0, "dram_write_bytes": 1.0, "l2_read_bytes": 1.0}

    known = [replace(all_points[0], counted=some, kernels=(KERNEL,)), *all_points[1:]]
    path.write_text(traffic.record_text(known, [{"commit": "a"}], "h200"))
    assert dry_run(path, all_points) == 0
    data = json.loads(path.read_text())
    assert data["sessions"] == [{"commit": "a"}]
    assert [one["counted"] is not None for one in data["points"]].count(True) == 1
    assert data["points"][0]["kernels"] == [KERNEL]


def test_counts_of_points_that_are_not_chosen_any_more_stay(
    tmp_path: Path, all_points: list[Point]
) -> None:
    path = tmp_path / "traffic.json"
    some = {"dram_read_bytes": 1.0, "dram_write_bytes": 1.0, "l2_read_bytes": 1.0}

    def rerun(chosen: list[Point]) -> dict[str, dict[str, object]]:
        assert dry_run(path, chosen) == 0
        points = json.loads(path.read_text())["points"]
        return {one["config"]["name"]: one for one in points}

    names = [replace(one, config={"name": str(n)}) for n, one in enumerate(all_points[:3])]
    path.write_text(traffic.record_text([replace(n, counted=some) for n in names[:2]], [], "h200"))
    found = rerun(names[1:])
    assert list(found) == ["1", "2", "0"]
    assert found["0"]["counted"] == some
    assert [one["earlier"] for one in found.values()] == [False, False, True]
    summed = json.loads(path.read_text())["summary"]
    assert (summed["points"], summed["counted"], summed["earlier"]) == (2, 1, 1)
    found = rerun(names)  # chosen again
    assert [one["earlier"] for one in found.values()] == [False, False, False]
    assert found["0"]["counted"] == some


def test_another_record_is_not_overwritten(
    tmp_path: Path, all_points: list[Point], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "traffic.json"
    path.write_text(json.dumps({"schema": "tile-workbench/kernels/2"}))
    assert dry_run(path, all_points) == 2
    assert capsys.readouterr().err.count("\n") == 1
    path.write_text(traffic.record_text([], [], "b200"))
    assert dry_run(path, all_points) == 2
    assert "of b200" in capsys.readouterr().err
