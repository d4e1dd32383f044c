"""Time, energy and error together: who is beaten by nobody, and where each number comes from."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from report_runs import invented_run
from site_page import Page, rows_of
from site_projects import make, site

from sim import load_gpu, matmul_error, price
from sim.energy import launch_energy
from tiles.kernels import ConfigTable, kernel
from tiles.problems import Gemm, Quantize
from tuning import Run
from tuning.objective import Objective
from workbench.reporting import write_report
from workbench.reporting.convergence_figure import convergence
from workbench.reporting.sections import sections
from workbench.reporting.tradeoff import Tradeoff, TradeoffFront, fronts, tradeoffs
from workbench.reporting.tradeoff_figure import HEADS, tradeoff_csv, tradeoff_figure
from workbench.reporting.winner_table import winner_table

SHAPE = (512, 1024, 1024)
RECIPES = ("bf16", "e4m3-row", "int8-row")


def energetic(*, simulated: bool = False, quantize: bool = True) -> Run:
    return invented_run(
        shapes=(SHAPE,), recipes=RECIPES, energy=True, simulated=simulated, quantize=quantize
    )


def timed(**changes: bool) -> Run:
    return invented_run(shapes=(SHAPE,), recipes=RECIPES, **changes)  # type: ignore[arg-type]


def only(run: Run) -> TradeoffFront:
    (found,) = fronts(tradeoffs(run))
    return found


def data(run: Run) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(tradeoff_csv(fronts(tradeoffs(run))))))


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


@pytest.mark.parametrize("simulated", [False, True])
def test_the_front_is_what_nothing_beats_in_all_three(simulated: bool) -> None:
    found = only(energetic(simulated=simulated))
    points = []
    for row in found.rows:
        assert row.energy_mj is not None
        error = float(matmul_error(row.problem.recipe, "normal").sqnr_db)
        points.append((row.time_us, row.energy_mj, -error))
    for mine, kept in zip(points, found.front, strict=True):
        assert kept == (not any(beats(other, mine) for other in points))
    assert True in found.front
    assert found.by_read_energy


def test_all_configurations_that_trade_time_for_energy_are_there() -> None:
    run = energetic(quantize=False)
    found = only(run)
    for study in run.studies:
        assert isinstance(study.problem, Gemm)
        own = [row for row in found.rows if row.problem == study.problem]
        read = [
            (t.measurement.time_us, t.measurement.energy.energy_mj)
            for t in study.trials
            if t.measurement.time_us is not None and t.measurement.energy is not None
        ]
        best = {one for one in read if not any(beats(other, one) for other in read)}
        assert {(row.time_us, row.energy_mj) for row in own} == best
        assert len(own) > 1


def test_of_a_run_for_time_the_winners_energy_is_predicted() -> None:
    run = timed(quantize=False)
    found = only(run)
    assert not found.by_read_energy
    assert found.energy_word == "predicted"
    gpu = load_gpu("h200")
    for row, study in zip(found.rows, run.studies, strict=True):
        best = study.best
        assert best is not None
        assert row.energy_mj is None
        assert (row.time_us, row.predicted_us) == (best.measurement.time_us, best.predicted_us)
        priced = price(
            study.problem, kernel(study.kernel), ConfigTable.of([best.config]), gpu
        ).prediction(0)
        power_w = launch_energy(priced, gpu).power_w
        assert row.predicted_energy_mj == pytest.approx(power_w * best.predicted_us / 1e3)


def test_quantising_counts_for_all_of_a_shape_or_for_none() -> None:
    run = energetic()
    whole = only(run)
    assert all(row.with_quantize for row in whole.rows)
    alone = only(energetic(quantize=False))
    assert not any(row.with_quantize for row in alone.rows)
    lacking = tuple(
        one
        for one in run.studies
        if not (isinstance(one.problem, Quantize) and "int8" in str(one.problem))
    )
    assert not any(row.with_quantize for row in only(replace(run, studies=lacking)).rows)
    step = next(one for one in run.studies if isinstance(one.problem, Quantize)).best
    assert step is not None
    assert step.measurement.time_us is not None
    assert step.measurement.energy is not None
    plain = min(
        r.time_us for r in only(replace(run, studies=lacking)).rows if r.recipe == "e4m3-row"
    )
    both = min(r.time_us for r in whole.rows if r.recipe == "e4m3-row")
    assert both == pytest.approx(plain + step.measurement.time_us)


def test_the_data_has_a_column_for_each_kind_of_number() -> None:
    filled = {
        "measured": {"measured time, us", "measured energy, mJ"},
        "simulated": {"simulated time, us", "simulated energy, mJ"},
    }
    for word, run in (("measured", energetic()), ("simulated", energetic(simulated=True))):
        for row in data(run):
            assert set(row) == set(HEADS)
            for kind, columns in filled.items():
                for column in columns:
                    assert bool(row[column]) == (kind == word), column
            assert row["predicted time, us"]
            assert row["predicted energy, mJ"]
    for row in data(timed()):
        assert row["measured time, us"]
        assert not row["measured energy, mJ"]
        assert not row["simulated energy, mJ"]
        assert row["predicted energy, mJ"]


def page(run: Run, tmp_path: Path) -> Page:
    return Page(write_report(run, tmp_path / "report.html"))


@pytest.mark.parametrize("simulated", [False, True])
def test_the_page_has_plot_table_and_download(tmp_path: Path, simulated: bool) -> None:
    run = energetic(simulated=simulated)
    got = page(run, tmp_path)
    found = only(run)
    word = "simulated" if simulated else "measured"
    rows = rows_of(got, f"{word} energy, mJ")
    assert len(rows) == sum(found.front)
    columns = [heading for heads, _ in got.tables() for heading in heads]
    assert not [one for one in columns if "energy" in one and one.count("d ") > 1]
    if simulated:
        assert not [one for one in columns if "measured" in one]
    assert got.downloads()["time-energy-error.csv"] == data(run)
    assert f"area: {word} energy" in got.source
    assert "not beaten" in got.text


def test_a_run_for_time_says_that_its_energies_are_predicted(tmp_path: Path) -> None:
    got = page(timed(), tmp_path)
    assert "Energies are predicted: this run searched for time" in got.text
    (row, *_) = rows_of(got, "predicted energy, mJ")
    assert "measured energy, mJ" not in row
    assert "area: predicted energy" in got.source


def test_what_no_model_prices_is_counted(tmp_path: Path) -> None:
    run = timed(quantize=False)
    odd = replace(run.studies[1], kernel="somewhere:Else")
    run = replace(run, studies=(run.studies[0], odd, run.studies[2]))
    assert len(only(run).rows) == 2
    assert (
        "1 of 3 entries are left out: no cost model has their energy." in page(run, tmp_path).text
    )
    none = replace(run, studies=(odd,))
    assert tradeoff_figure(fronts(tradeoffs(none))) is None
    (section,) = [one for one in sections(none, []) if one.key == "pareto"]
    assert "No product has a correct result whose energy is known" in section.before


def test_winners_and_searches_are_shown_by_energy() -> None:
    run = energetic()
    studies = run.studies
    table = winner_table(studies, False)
    assert "measured energy, mJ" in table
    assert "predicted energy, mJ" in table
    assert "energy" not in winner_table(timed().studies, False)
    assert "measured energy" not in winner_table(energetic(simulated=True).studies, True)
    figure = convergence(run)
    assert figure is not None
    one = figure.views[1]
    assert one.layout["yaxis"]["title"]["text"] == "measured energy, mJ"
    line = [y for y in one.data[0]["y"] if y is not None]
    assert line == sorted(line, reverse=True)
    best = studies[0].best
    assert best is not None
    assert line[-1] == Objective.ENERGY.of(best.measurement)


def test_a_search_ends_at_its_winner_though_others_were_outpaced() -> None:
    run = timed()
    for place, found in enumerate(run.studies):
        best = found.best
        assert best is not None
        assert best.measurement.time_us is not None
        slow = replace(best.measurement, time_us=1.5 * best.measurement.time_us)
        trials = tuple(
            replace(one, measurement=slow) if one is best else replace(one, outpaced=1.5)
            for one in found.trials
        )
        turned = replace(found, trials=trials)
        assert turned.best is not None
        assert turned.best.config == best.config
        figure = convergence(replace(run, studies=(turned,)))
        assert figure is not None
        assert figure.views[1].data[0]["y"][-1] == pytest.approx(slow.time_us), place
        assert any("turns" in note for note in figure.notes)


def test_energies_that_were_outpaced_are_set_against_those_in_turns() -> None:
    run = energetic(quantize=False)
    found = run.studies[0]
    won = found.best
    assert won is not None
    assert won.measurement.energy is not None
    less = replace(
        won.measurement,
        time_us=0.99 * (won.measurement.time_us or 0.0),
        energy=replace(won.measurement.energy, energy_mj=0.99 * won.measurement.energy.energy_mj),
    )
    lost = replace(won, measurement=less, outpaced=1.1)
    turned = replace(run, studies=(replace(found, trials=(lost, won)),))
    taken = {row.energy_mj for row in only(turned).rows}
    assert won.measurement.energy.energy_mj in taken


def test_a_site_has_a_page_of_all_runs_with_measured_and_simulated_apart(tmp_path: Path) -> None:
    runs = {
        "runs/energy": energetic(),
        "runs/model": energetic(simulated=True),
        "runs/other": invented_run(shapes=((1024, 1024, 1024),), recipes=RECIPES),
    }
    make(tmp_path / "project", runs)
    got = Page(site(tmp_path / "project", runs) / "pareto.html")
    downloads = got.downloads()
    assert len(downloads) == 3
    by_run = {name: data(run) for name, run in runs.items()}
    assert list(downloads.values()) == list(by_run.values())
    measured = rows_of(got, "measured energy, mJ")
    simulated = rows_of(got, "simulated energy, mJ")
    assert {row["run"] for row in measured} == {"runs/energy", "runs/other"}
    assert {row["run"] for row in simulated} == {"runs/model"}
    assert "measured time, us" not in simulated[0]
    assert "simulated time, us" not in measured[0]
    # Of a run for time the measured energy is a dash.
    others = [row for row in measured if row["run"] == "runs/other"]
    assert {row["measured energy, mJ"] for row in others} == {"–"}
    assert all(row["predicted energy, mJ"] != "–" for row in others)


def test_runs_of_one_shape_compete(tmp_path: Path) -> None:
    """Two measured runs: the slower one's entries that take more energy are beaten."""
    run = energetic(quantize=False)
    twice: list[Tradeoff] = [
        replace(row, run="slow", time_us=2 * row.time_us, energy_mj=2 * (row.energy_mj or 0))
        for row in tradeoffs(run)
    ]
    (found,) = fronts([*tradeoffs(run), *twice])
    for row, kept in zip(found.rows, found.front, strict=True):
        assert not (kept and row.run == "slow")
    # Where one entry has no reading, all go by what is predicted.
    (mixed,) = fronts([*tradeoffs(run), replace(twice[0], energy_mj=None)])
    assert mixed.energy_word == "predicted"


def test_a_recipe_that_quantises_nothing_launches_its_product_alone() -> None:
    launches = {row.recipe: row.launches for row in tradeoffs(energetic())}
    assert launches == {
        "bf16": "product",
        "e4m3-row": "product, quantize",
        "int8-row": "product, quantize",
    }
    alone = tradeoffs(energetic(quantize=False))
    assert {row.launches for row in alone} == {"product"}
