"""Recording in slices: nothing twice, nothing lost, whatever cuts it off."""

import gzip
import json
from dataclasses import dataclass, replace
from pathlib import Path

import fake_kernels
import numpy as np
import pytest
from recorded_designs import Desk, config, fake_design

from tiles.kernels import Status, TileConfig
from tuning.recording.design import Design
from tuning.recording.passes import Pass, read_passes
from tuning.recording.record import done_passes, record
from tuning.recording.tables import recorded_sets


def run(design: Design, folder: Path, desk: Desk, seconds: float = 1e3, **options: object) -> bool:
    done = record(
        design,
        fake_kernels.GPU,
        folder,
        time_limit_s=seconds,
        measuring=desk,
        clock=desk.clock,
        **options,  # type: ignore[arg-type]
    )
    assert done.passes == len(desk.asked)
    return done.finished


def test_passes_of_a_study_go_there_and_back_and_check_once(tmp_path: Path) -> None:
    desk = Desk()
    assert run(fake_design(studies=1), tmp_path, desk)
    first = [("64", size, False) for size in (16, 32, 64, 128)]
    again = [("64", size, True) for size in (128, 64, 32, 16)]
    assert desk.asked == first + again


def test_every_pass_tells_what_it_took(tmp_path: Path) -> None:
    desk = Desk()
    done = record(
        fake_design(studies=2),
        fake_kernels.GPU,
        tmp_path,
        time_limit_s=1e3,
        measuring=desk,
        clock=desk.clock,
    )
    ((_, passes),) = read_passes(tmp_path)
    assert [one.seconds for one in passes] == [1.0] * 16
    assert (done.opening_s, done.pass_s) == (1.0, 1.0)
    plain = passes[0].to_dict()
    del plain["seconds"]  # as before passes told it
    assert Pass.from_dict(plain) == replace(passes[0], seconds=None)


def test_the_models_best_and_every_sixth_configuration_are_repeated() -> None:
    study = fake_design(studies=1, sizes=tuple(range(16, 26))).studies[0]
    repeated = [one.to_dict()["size"] for one in study.repeated]
    assert repeated == [16, 17, 18, 19, 25]


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_slices_measure_everything_once(tmp_path: Path, cut: int) -> None:
    design = fake_design()
    asked: list[tuple[str, int, bool]] = []
    for _ in range(40):
        desk = Desk()
        finished = run(design, tmp_path, desk, seconds=cut)
        asked += desk.asked
        if finished:
            break
    whole = Desk()
    run(design, tmp_path / "whole", whole)
    assert asked == whole.asked
    last = Desk()
    assert run(design, tmp_path, last)
    assert not last.asked


def test_later_passes_are_compiled_ahead_too(tmp_path: Path) -> None:
    design, desk = fake_design(studies=2), Desk(failing=32)
    run(design, tmp_path, desk, seconds=5)  # the first study's second pass has begun
    assert desk.announced == [("64", [16, 32, 64, 128]), ("128", [16, 32, 64, 128])]
    again = Desk(failing=32)
    assert run(design, tmp_path, again)
    assert again.announced == [("64", [16, 64]), ("128", [16, 32, 64, 128])]
    third = Desk(failing=32)
    assert run(design, tmp_path, third, passes=3)
    assert third.announced == [("64", [16, 64, 128]), ("128", [16, 64, 128])]


def test_processes_share_the_work_whatever_their_number(tmp_path: Path) -> None:
    design = fake_design(studies=5)
    desks = [Desk(), Desk(), Desk()]
    run(design, tmp_path, desks[0], shard=(0, 2), seconds=3)
    run(design, tmp_path, desks[1], shard=(1, 2))
    run(design, tmp_path, desks[2])  # later there is one GPU
    asked = [one for desk in desks for one in desk.asked]
    assert len(asked) == len(set(asked)) == 5 * (4 + 4)
    assert {rows for rows, _, _ in desks[1].asked} == {"128", "256"}


def test_what_fails_is_kept_and_not_repeated(tmp_path: Path) -> None:
    design, desk = fake_design(studies=1), Desk(failing=32)
    assert run(design, tmp_path, desk)
    assert [size for _, size, _ in desk.asked] == [16, 32, 64, 128, 128, 64, 16]
    again = Desk()
    assert run(design, tmp_path, again)
    assert not again.asked
    (one,) = recorded_sets(tmp_path, design)
    assert one.failed == {"runtime": 1}
    assert [one.config(row).to_dict()["size"] for one in [one.tables[0].table] for row in range(3)]
    later = Desk()
    assert run(design, tmp_path, later, retry_failed=True)
    assert later.asked == [("64", 32, False), ("64", 32, True)]
    (one,) = recorded_sets(tmp_path, design)
    assert not one.failed
    assert len(one.tables[0]) == 4


def test_a_torn_last_line_costs_that_line_alone(tmp_path: Path) -> None:
    design, desk = fake_design(studies=1), Desk()
    run(design, tmp_path, desk, seconds=3)
    (path,) = tmp_path.glob("*.jsonl.gz")
    text = gzip.decompress(path.read_bytes()).decode()
    path.unlink()
    (tmp_path / "a.jsonl").write_text(text[:-20])
    ((_, passes),) = read_passes(tmp_path)
    assert [one.config["size"] for one in passes] == [16, 32]
    again = Desk()
    assert run(design, tmp_path, again)
    assert again.asked[0][1] == 64
    lines = text.splitlines()
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0], lines[1][:-9], lines[2]]) + "\n")
    with pytest.raises(ValueError, match=r"a\.jsonl: damaged"):
        run(design, tmp_path, Desk())


def test_rehearsed_and_measured_passes_do_not_mix(tmp_path: Path) -> None:
    design = fake_design(studies=1)
    run(design, tmp_path, Desk())
    with pytest.raises(ValueError, match="holds simulated passes"):
        done_passes(tmp_path, design, simulated=False)


def test_passes_of_an_older_source_are_measured_again_and_kept_apart(tmp_path: Path) -> None:
    design = fake_design(studies=1)
    run(design, tmp_path, Desk())
    for path in tmp_path.glob("*.gz"):
        path.rename(tmp_path / "early.jsonl.gz")
    (name,) = design.sources
    later = Design(
        gpu=design.gpu,
        gpu_sha256=design.gpu_sha256,
        seed=0,
        sources={name: "0" * 64},
        studies=design.studies,
    )
    desk = Desk()
    run(later, tmp_path, desk)
    assert len(desk.asked) == 8
    (one,) = recorded_sets(tmp_path, later)
    assert [table.source for table in one.tables] == sorted([design.sources[name], "0" * 64])


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownConfig(fake_kernels.FakeConfig):
    extra: int = 0


def test_passes_stay_when_a_familys_configurations_gain_a_field(tmp_path: Path) -> None:
    design = fake_design(studies=1)
    run(design, tmp_path, Desk(), seconds=3)
    (study,) = design.studies
    later = replace(
        design,
        studies=(replace(study, configs=tuple(map(grown, study.configs))),),
    )
    desk = Desk()
    assert run(later, tmp_path, desk)
    assert [size for _, size, _ in desk.asked] == [128, 128, 64, 32, 16]
    (one,) = recorded_sets(tmp_path, later)
    assert one.tables[0].table.columns["extra"].tolist() == [0, 0, 0, 0]
    assert sorted(one.tables[0].table.columns["size"].tolist()) == [16, 32, 64, 128]
    with pytest.raises(ValueError, match="cannot be read: FakeConfig: unknown field 'extra'"):
        recorded_sets(tmp_path, design)


def grown(one: TileConfig) -> GrownConfig:
    return GrownConfig.from_dict(one.to_dict())


def test_tables_hold_all_passes_samples_and_the_noise_between_them(tmp_path: Path) -> None:
    design = fake_design(studies=2)
    run(design, tmp_path, Desk())
    (one,) = recorded_sets(tmp_path, design)
    table = one.tables[0]
    assert table.gpu == "simulated-fake"  # nothing takes these for an H200's
    assert table.whole_space
    assert table.cold
    assert table.environment == {
        "device": "desk",
        "driver": "1",
        "torch": "2",
        "sampling_ms": "5",
    }
    samples = np.array([15, 16, 16, 17, 15.32, 16.32, 16.32, 17.32])
    assert table.time_us[0] == np.median(samples)
    assert table.iqr_us[0] == pytest.approx(np.subtract(*np.percentile(samples, [75, 25])))
    assert one.noise is not None
    assert one.noise.pairs == 8
    assert one.noise.median == pytest.approx(0.02 / 1.01)


def test_a_part_of_a_study_is_no_whole_space(tmp_path: Path) -> None:
    design = fake_design(studies=1)
    run(design, tmp_path, Desk(), seconds=2)
    (one,) = recorded_sets(tmp_path, design)
    assert not one.tables[0].whole_space
    assert len(one.tables[0]) == 2
    assert one.planned == 4


def test_the_measuring_process_records_and_a_repeat_checks_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "checks"
    monkeypatch.setenv(fake_kernels.LOG_VARIABLE, str(log))
    design = fake_design(studies=2, sizes=(16, 32))
    done = record(design, fake_kernels.GPU, tmp_path / "passes", time_limit_s=60, sampling_ms=1.0)
    assert (done.passes, done.failed, done.finished) == (8, 0, True)
    assert len(log.read_text().splitlines()) == 4  # the repeats were timed alone
    ((head, passes),) = read_passes(tmp_path / "passes")
    assert not head.simulated
    assert head.sampling_ms == 1.0
    assert {one.measurement.status for one in passes} == {Status.CORRECT}
    # A fifth of a millisecond of the host's clock, but never fewer than five samples.
    counts = [len(one.measurement.samples_us) for one in passes]
    assert min(counts) >= 5
    assert max(counts) <= 10
    assert len({json.dumps(one.to_dict()) for one in passes}) == 8
    assert {one.config["size"] for one in passes} == {config(16).size, config(32).size}
