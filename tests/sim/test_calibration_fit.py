"""The fit finds again what made the data; a residual has to earn its place."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from calibration_data import GPU, SHAPES, every_time, log_error, measured

import sim
from sim.calibration.fit import _secant, fit_robust, refit_without
from sim.calibration.intervals import widenings, with_intervals
from sim.calibration.learn import learn
from sim.calibration.observations import Observations
from sim.calibration.unknowns import Machine, Unknowns
from sim.evaluation.calibrated import CalibratedModel
from sim.measured import MeasuredTable
from sim.parameters import HOPPER_GEMM
from tiles.problems import Problem

#: A board that differs from the GPU file and the defaults by about a standard deviation each.
TRUE = Machine(
    gpu=replace(GPU, sustained_clock_mhz=1450.0, dram_read_gb_per_s=4100.0),
    templates={"hopper_gemm": HOPPER_GEMM.scaled({"promotion_stretch": 1.3, "staging_clk": 0.6})},
)
UNSEEN = ("2048x5120x5120", "64x7168x2048", "6144x1536x3072")
#: Enough, with SHAPES, for what all shapes share to stand out from what two of them share.
MORE_SHAPES = (
    "2048x4096x1024",
    "4096x2112x7168",
    "128x7168x2048",
    "1024x1024x1024",
    "16384x4096x512",
    "2048x8192x4096",
)


def fitted(tables: list[MeasuredTable]) -> tuple[Observations, Unknowns]:
    observations = Observations(tables)
    pairs = [(one.problem, one.kernel) for one in observations.tables]
    return observations, Unknowns(GPU, pairs)


def test_a_fit_carries_no_figure_beyond_its_peak() -> None:
    """Tenfold in every log: what is left is the file's peak, which a file is read back with."""
    _, unknowns = fitted(measured(TRUE, noise=0.0, rows=2))
    far = unknowns.machine(np.full(len(unknowns), np.log(10.0))).gpu
    assert far.dram_read_gb_per_s == far.dram_copy_gb_per_s == GPU.dram_gb_per_s
    assert far.sustained_clock_mhz == GPU.max_clock_mhz
    assert (far.tensor_share, far.mma_sync_share) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("wild", "tolerance"), [(0.0, 1.0), (0.1, 1.5)], ids=["clean", "a tenth of them wild"]
)
def test_known_parameters_are_recovered(wild: float, tolerance: float) -> None:
    tables = measured(TRUE, noise=0.01, wild=wild, rows=12)
    learned = learn(tables, GPU, residual=False)
    machine = learned.fit.machine
    assert log_error(machine.gpu.sustained_clock_mhz, 1450.0) < 0.03 * tolerance
    assert (
        log_error(
            machine.templates["hopper_gemm"].promotion_stretch,  # type: ignore[attr-defined]
            1.3 * HOPPER_GEMM.promotion_stretch,
        )
        < 0.14 * tolerance
    )
    # What was not wrong stays near its prior, and on new shapes the times are the machine's.
    assert log_error(machine.templates["hopper_gemm"].promotion_share, 1.0) < 0.1  # type: ignore[attr-defined]
    unseen = measured(TRUE, shapes=UNSEEN, noise=0.0, rows=20, seed=1)
    calibration = learned.calibration
    found, prior = [], []
    for table in unseen:
        given = (table.problem, table.kernel, table.table, GPU)
        found.append(calibration.price(*given).time_us)
        prior.append(replace(calibration, figures={}, templates={}).price(*given).time_us)
    errors = np.abs(np.log(np.concatenate(found) / every_time(unseen)))
    before = np.abs(np.log(np.concatenate(prior) / every_time(unseen)))
    assert np.median(before) > 0.03
    assert np.median(errors) < 0.01 * tolerance
    assert np.quantile(errors, 0.9) < 0.03 * tolerance


def test_a_secant_gives_the_change_that_the_step_gave_and_leaves_zeros() -> None:
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(5, 4)) * (rng.random((5, 4)) < 0.7)
    jacobian[2] = 0.0
    moved, change = rng.normal(size=4), rng.normal(size=5)
    found = _secant(jacobian, moved, change)
    kept = np.any(jacobian != 0, axis=1)
    assert found[kept] @ moved == pytest.approx(change[kept])
    assert ((found == 0) == (jacobian == 0)).all()
    # Where the step changed what the derivatives said, they stay.
    assert _secant(jacobian, moved, jacobian @ moved) == pytest.approx(jacobian)


def test_a_fit_takes_derivatives_twice_or_thrice_not_at_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = measured(TRUE, noise=0.02, wild=0.1, rows=6)
    prices: list[str] = []

    def counted(problem: Problem, *given: Any, **options: Any) -> sim.PricedTable:
        prices.append(str(problem))
        return sim.price(problem, *given, **options)

    monkeypatch.setattr("sim.calibration.observations.price", counted)
    observations, unknowns = fitted(tables)
    fit = fit_robust(observations, unknowns)
    assert fit.converged
    assert fit.steps >= 4
    assert len(prices) < 3 * len(unknowns) * len(tables)


def test_what_the_data_do_not_tell_stays_where_it_was() -> None:
    tables = measured(TRUE, recipes=["bf16"], rows=8)
    observations, unknowns = fitted(tables)
    fit = fit_robust(observations, unknowns)
    logs = {(one.owner, one.name): log for one, log in zip(unknowns.all, fit.logs, strict=True)}
    # bf16 products of this kernel multiply by warpgroups and promote nothing.
    for name in ("mma_sync_share", "int_per_clk", "convert_per_clk"):
        assert logs["gpu", name] == 0.0
    assert logs["hopper_gemm", "promotion_share"] == 0.0
    assert logs["tensor_flop_per_clk", "int8"] == 0.0
    assert fit.machine.gpu.mma_sync_share == GPU.mma_sync_share


def test_an_unseen_format_is_predicted_by_what_the_others_taught() -> None:
    learned = learn(measured(TRUE, recipes=["deepseek-fp8"], rows=10), GPU, residual=False)
    unseen = measured(TRUE, recipes=["int8-b128"], noise=0.0, rows=10, seed=2)
    found, before = [], []
    for table in unseen:
        given = (table.problem, table.kernel, table.table, GPU)
        priced = learned.calibration.price(*given)
        assert priced.extrapolated == "int8 in blocks was not measured"
        found.append(priced.time_us)
        before.append(replace(learned.calibration, figures={}, templates={}).price(*given).time_us)
    true = every_time(unseen)
    error = np.mean(np.abs(np.log(np.concatenate(found) / true)))
    assert error < 0.03
    assert error < np.mean(np.abs(np.log(np.concatenate(before) / true))) / 2


def test_leaving_a_shape_out_on_the_linear_model_is_near_a_fit_without_it() -> None:
    tables = measured(TRUE, recipes=["bf16"], noise=0.03, rows=5)
    observations, unknowns = fitted(tables)
    fit = fit_robust(observations, unknowns)
    for shape in (1,):
        left = observations.shapes == shape
        quick = refit_without(fit, observations, unknowns.sigmas, left)[left]
        rest = [one for one in tables if str(one.problem).split(":")[1] != SHAPES[shape]]
        slow_fit = learn(rest, GPU, residual=False).fit
        slow = (observations.log_us - observations.predicted(slow_fit.machine))[left]
        assert np.abs(quick - slow).max() < 0.02
        assert np.abs(quick - fit.errors[left]).max() > 0  # it did leave them out


def test_a_residual_that_does_not_help_is_not_used() -> None:
    learned = learn(measured(TRUE, noise=0.03, rows=4), GPU)
    family = learned.calibration.families["hopper_gemm"]
    assert family.residual is None
    assert family.residual_error is not None  # it was tried
    assert family.physics_error < family.prior_error


def distorted(**options: object) -> list[MeasuredTable]:
    """Timings that no parameter explains: launch groups of 8 rows and more are 30 % slower."""
    tables = measured(TRUE, **options)  # type: ignore[arg-type]
    return [
        replace(one, time_us=one.time_us * np.where(one.table["group_m"] >= 8, 1.3, 1.0))
        for one in tables
    ]


@pytest.mark.slow
def test_a_residual_that_helps_unseen_shapes_is_used() -> None:
    learned = learn(distorted(shapes=SHAPES + MORE_SHAPES, noise=0.01, rows=8), GPU)
    family = learned.calibration.families["hopper_gemm"]
    assert family.residual is not None
    assert family.residual.trees is not None  # 192 rows: boosted trees
    assert family.residual_error < 0.85 * family.physics_error  # type: ignore[operator]
    unseen = distorted(shapes=UNSEEN, noise=0.0, rows=20, seed=5)
    with_it, without = [], []
    for table in unseen:
        given = (table.problem, table.kernel, table.table, GPU)
        with_it.append(learned.calibration.price(*given).time_us)
        bare = replace(family, residual=None)
        plain = replace(learned.calibration, families={"hopper_gemm": bare})
        without.append(plain.price(*given).time_us)
    true = every_time(unseen)
    assert np.mean(np.abs(np.log(np.concatenate(with_it) / true))) < 0.9 * np.mean(
        np.abs(np.log(np.concatenate(without) / true))
    )


@pytest.mark.slow
def test_intervals_cover_nine_tenths_of_unseen_shapes() -> None:
    rng = np.random.default_rng(3)
    extents = [2 ** int(e) for e in range(5, 13)]

    def shapes(count: int) -> list[str]:
        return ["x".join(str(rng.choice(extents)) for _ in range(3)) for _ in range(count)]

    def draw(count: int, seed: int) -> list[MeasuredTable]:
        return measured(TRUE, shapes=shapes(count), recipes=["bf16"], rows=4, noise=0.05, seed=seed)

    predictor = CalibratedModel(residual=False)
    predictor.fit(draw(30, 0), GPU)
    covered = []
    for table in draw(60, 1):
        found = predictor.predict(table, GPU)
        time_us, low, high = found.time_us, found.low_us, found.high_us
        assert low is not None
        assert high is not None
        assert ((low < time_us) & (time_us < high)).all()
        covered += ((low <= table.time_us) & (table.time_us <= high)).tolist()
    sigma = np.sqrt(0.9 * 0.1 / len(covered) + 0.9 * 0.1 / 120)  # of the test's and the fit's rows
    assert abs(np.mean(covered) - 0.9) < 2.5 * sigma


def test_a_family_of_few_shapes_has_the_width_of_all_together() -> None:
    shapes = [*SHAPES, "64x4096x4096", "2048x2048x2048", "128x8192x2048", "32x2048x8192"]
    tables = measured(TRUE, shapes=shapes, recipes=["bf16"], rows=3, noise=0.05)
    tables += measured(
        TRUE, shapes=SHAPES[:2], recipes=["bf16"], families=["hopper_skinny_gemm"], rows=3
    )
    families = learn(tables, GPU, residual=False).calibration.families
    assert families["hopper_skinny_gemm"].shapes == 2
    assert families["hopper_skinny_gemm"].widths["* *"] > 0


def test_every_family_has_the_widths_of_its_own_errors_in_units_of_their_widening() -> None:
    """Nine shapes each, all inside but the two ends; errors of 1 % and of 20 %."""
    shapes = [f"{2**power}x256x256" for power in range(4, 13)]
    names = ("hopper_gemm", "hopper_skinny_gemm")
    tables = measured(TRUE, shapes=shapes, recipes=["bf16"], families=names, rows=2)
    observations = Observations(tables)
    families = learn(observations.tables, GPU, residual=False).calibration.families
    priced = [sim.price(one.problem, one.kernel, one.table, GPU) for one in tables]
    owners = np.repeat([one.kernel.name for one in tables], [len(one) for one in tables])
    size = np.where(owners == "hopper_gemm", 0.01, 0.2)
    wider = widenings(families, observations, observations.shapes)
    assert set(wider) == {1.0, 1.5}
    found = with_intervals(families, observations, priced, size * wider, observations.shapes)
    widths = [found[name].widths["* *"] for name in names]
    assert widths == pytest.approx([0.01, 0.2])


def test_a_left_out_error_counts_in_units_of_its_widening() -> None:
    shapes = ("64x256x256", "128x256x256", "512x256x256")
    observations = Observations(measured(TRUE, shapes=shapes, recipes=["bf16"], rows=2))
    families = learn(observations.tables, GPU, residual=False).calibration.families
    # Without the first one doubling is beyond the others, without the last two; none inside.
    found = widenings(families, observations, observations.shapes)
    assert found.tolist() == [1.5, 1.5, 1.0, 1.0, 2.0, 2.0]
    # With nothing else of the family there is nothing to extend.
    alone = widenings(families, observations, np.zeros(6, np.int64))
    assert (alone == 1.5).all()


def test_weights_of_another_element_are_not_taken_for_measured() -> None:
    tables = measured(TRUE, recipes=["w8a16"], families=["triton_weight_only"], rows=3)
    calibration = learn(tables, GPU, residual=False).calibration
    (one,) = measured(
        TRUE, recipes=["w4a16-g128"], families=["triton_weight_only"], shapes=SHAPES[:1], rows=2
    )
    priced = calibration.price(one.problem, one.kernel, one.table, GPU)
    assert priced.extrapolated == "bf16 by int4 in blocks was not measured"


def test_nothing_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured: give at least one"):
        learn([], GPU)
    with pytest.raises(ValueError, match="nothing was measured"):
        CalibratedModel().fit([], GPU)
    tables = measured(TRUE, shapes=SHAPES[:1], rows=2)
    with pytest.raises(ValueError, match="tables of a100, h200: fit one GPU at a time"):
        CalibratedModel().fit([tables[0], replace(tables[1], gpu="a100")], GPU)
    with pytest.raises(ValueError, match="nothing was fitted: call fit first"):
        CalibratedModel().predict(tables[0], GPU)
