"""The calibration file: what was written predicts the same, and what does not fit is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_data import GPU

import sim
from sim.calibration import Calibration, FamilyCalibration
from sim.calibration.arrays import from_json, to_json
from sim.calibration.features import features
from sim.calibration.file import About, calibration_text, parse_calibration
from sim.calibration.folder import calibration_path, choose_calibration
from sim.calibration.residual import fit_residual
from sim.calibration.trees import Trees
from sim.parameters import HOPPER_GEMM
from tiles.kernels import kernel
from tiles.problems import parse_problem

PROBLEM = parse_problem("gemm:512x4096x4096:bf16:bf16")
HOPPER = kernel("hopper_gemm")
TABLE = HOPPER.legal_space(PROBLEM, GPU.limits).accepted
#: One tree with a root and two leaves: a tenth slower where the first number is above 8.
STUMP = Trees(
    base=0.0,
    roots=np.array([0], np.int32),
    feature=np.array([0, -1, -1], np.int32),
    threshold=np.array([8.0, 0.0, 0.0]),
    left=np.array([1, 0, 0], np.int32),
    right=np.array([2, 0, 0], np.int32),
    value=np.array([0.0, 0.0, 0.1]),
    depth=1,
)


def calibrated() -> Calibration:
    """Figures, a family's parameters, a residual and intervals, all off the defaults."""
    priced = sim.price(PROBLEM, HOPPER, TABLE, GPU)
    names, numbers = features(priced, GPU.sm_count)
    rng = np.random.default_rng(0)
    residual = fit_residual(names, numbers[:40], 0.1 * rng.normal(size=40))
    return Calibration(
        base=GPU,
        figures={"sustained_clock_mhz": 1500.0, "l2_bytes": 4e7, "tensor_flop_per_clk.bf16": 4e3},
        templates={"hopper_gemm": HOPPER_GEMM.scaled({"drain_clk": 1.2})},
        families={
            "hopper_gemm": FamilyCalibration(
                rows=40,
                shapes=4,
                extents={"gemm": ((16, 4096), (1024, 8192), (256, 8192))},
                elements=("bf16", "e4m3fn"),
                residual=residual,
                widths={"* *": 0.1, "tensor bf16": 0.05},
                prior_error=0.1,
                physics_error=0.05,
                residual_error=0.04,
            )
        },
        title="NVIDIA H200, 2026-11-22, 40 timings",
    )


def text_of(calibration: Calibration) -> str:
    about = About(
        device="NVIDIA H200",
        driver="580.1",
        versions={"triton": "3.6.0"},
        made="2026-11-22T12:00:00Z",
        simulated=False,
        measured={"dram_read_gb_per_s": {"value": 3900.0, "unit": "GB/s", "spread": 0.01}},
        microbenchmarks=[{"name": "dram_read", "status": "correct", "reason": ""}],
        timings={"planned": 40, "measured": 40},
    )
    return calibration_text(calibration, about, {"sustained_clock_mhz": 0.02}, [HOPPER])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "h200.json"
    path.write_text(text_of(calibrated()))
    return path


def edited(file: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def test_what_is_read_back_predicts_the_same(file: Path) -> None:
    given = (PROBLEM, HOPPER, TABLE, GPU)
    written = replace(
        calibrated(), figures={"dram_read_gb_per_s": 3900.0} | dict(calibrated().figures)
    ).price(*given)
    read = parse_calibration(file, GPU)
    assert read.notes == ()
    priced = read.price(*given)
    for name in ("time_us", "low_us", "high_us", "dram_read_bytes"):
        assert np.array_equal(getattr(priced, name), getattr(written, name)), name
    plain = sim.price(*given)
    assert priced.calibrated
    assert not plain.calibrated
    assert not np.array_equal(priced.time_us, plain.time_us)
    assert np.log(priced.high_us / priced.time_us).max() == pytest.approx(0.1)
    assert json.loads(file.read_text())["versions"] == {"triton": "3.6.0"}


def test_trees_are_read_back_and_answer() -> None:
    family = calibrated().families["hopper_gemm"]
    assert family.residual is not None
    head = replace(family.residual, trees=STUMP, weights=np.zeros(0), clip=1.0)
    whole = replace(calibrated(), families={"hopper_gemm": replace(family, residual=head)})
    stored = json.loads(text_of(whole))["families"]["hopper_gemm"]["residual"]["trees"]
    assert from_json(stored["threshold"]).tolist() == [8.0, 0.0, 0.0]
    # M = 512: its log2 is 9, beyond the threshold.
    assert STUMP.predict(np.array([[9.0], [8.0], [3.0]])).tolist() == [0.1, 0.0, 0.0]


def test_a_calibration_without_values_changes_no_bit() -> None:
    empty = Calibration(base=GPU, figures={}, templates={}, families={}, title="nothing")
    plain = sim.price(PROBLEM, HOPPER, TABLE, GPU)
    priced = empty.price(PROBLEM, HOPPER, TABLE, GPU)
    for name in ("time_us", "low_us", "high_us"):
        assert np.array_equal(getattr(priced, name), getattr(plain, name))


def test_another_gpus_calibration_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"of the gpu 'h200', not h100: name its own, or --cal"):
        parse_calibration(file, sim.load_gpu("h100"))
    read = parse_calibration(file, GPU)
    with pytest.raises(ValueError, match=r"the calibration is of h200, not of a100"):
        read.price(PROBLEM, HOPPER, TABLE, sim.load_gpu("a100"))
    changed = sim.parse_gpu(GPU.text.replace("value: 4800", "value: 4900").encode(), "gpu file x")
    with pytest.raises(ValueError, match="the GPU file of h200 has changed since"):
        parse_calibration(file, changed)


def test_a_changed_kernel_keeps_the_machines_figures_alone(file: Path) -> None:
    def other(content: dict[str, Any]) -> None:
        content["templates"]["hopper_gemm"]["source_sha256"] = "0" * 64

    read = parse_calibration(edited(file, other), GPU)
    assert read.notes == ("hopper_gemm changed since: parameters and intervals are the defaults'",)
    assert read.gpu.sustained_clock_mhz == 1500.0
    assert read.templates == {}
    assert not read.price(PROBLEM, HOPPER, TABLE, GPU).calibrated


def test_another_cost_model_keeps_what_was_measured_alone(file: Path) -> None:
    def other(content: dict[str, Any]) -> None:
        content["model_sha256"] = "0" * 64

    read = parse_calibration(edited(file, other), GPU)
    assert read.notes == ("the cost model has changed since: only measured figures are used",)
    assert read.gpu.dram_read_gb_per_s == 3900.0
    assert read.gpu.sustained_clock_mhz == GPU.sustained_clock_mhz
    assert read.families == {}


PLAIN_TREES = {"base": 0.0, "depth": 1}  #: the numbers; arrays are looked at after them


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(schema="tile-workbench/calibration/9"), "schema .*: calibrate anew"),
        (lambda c: c.pop("fitted"), "'fitted' is missing: calibrate anew"),
        (lambda c: c["fitted"].update(speed={"value": 1}), "unknown figure 'speed'"),
        (
            lambda c: c["fitted"]["sustained_clock_mhz"].update(value=1_500_000.0),
            "sustained_clock_mhz = 1500000.0 must lie in 100..10000: check its unit",
        ),
        (
            lambda c: c["measured"]["dram_read_gb_per_s"].update(value=-3.0),
            "dram_read_gb_per_s = -3.0 must lie in",
        ),
        (
            lambda c: c["measured"]["dram_read_gb_per_s"].update(value=4900.0),
            "dram_read_gb_per_s = 4900.0 must not exceed dram_gb_per_s, 4800: calibrate anew",
        ),
        (
            lambda c: c["fitted"]["sustained_clock_mhz"].update(value=1981.0),
            "sustained_clock_mhz = 1981.0 must not exceed max_clock_mhz, 1980",
        ),
        (
            lambda c: c["measured"].update(sm_count={"value": 4000}),
            "sm_count: no measurement finds it: it stands in the GPU file",
        ),
        (
            lambda c: c["fitted"].update({"dram_read_gb_per_s.bf16": {"value": 4000}}),
            r"unknown figure 'dram_read_gb_per_s.bf16': rates are tensor_flop_per_clk.ELEMENT",
        ),
        (
            lambda c: c["fitted"].update(tensor_flop_per_clk={"value": 4000}),
            "unknown figure 'tensor_flop_per_clk': rates are",
        ),
        (
            lambda c: c["families"]["hopper_gemm"].update(elements="bf16"),
            "elements = 'bf16' must be a list of names",
        ),
        (
            lambda c: c["families"]["hopper_gemm"].update(rows=-1),
            "rows = -1 must be a whole number from 1 on",
        ),
        (
            lambda c: c["families"]["hopper_gemm"].update(prior_error=float("nan")),
            "prior_error = nan must be a number in 0..1500",
        ),
        (
            lambda c: c["families"]["hopper_gemm"]["extents"]["gemm"][0].__setitem__(1, 4096.5),
            r"extents 16..4096.5 of 'gemm': whole numbers, 1 <= low <= high",
        ),
        (
            lambda c: c["templates"]["hopper_gemm"]["parameters"].update(drain_clk=-1),
            "drain_clk = -1 must lie in",
        ),
        (
            lambda c: c["families"]["hopper_gemm"]["widths"].update({"* *": -0.1}),
            r"the interval of '\* \*' in log time = -0.1 must be a number in",
        ),
        (lambda c: c["families"]["hopper_gemm"]["widths"].update({"* *": 0}), "= 0 must be a"),
        (
            lambda c: c["families"]["hopper_gemm"]["extents"]["gemm"][0].__setitem__(0, -1),
            "1 <= low <= high",
        ),
        (
            lambda c: c["families"]["hopper_gemm"]["residual"].update(clip=None),
            "a residual's clip = None must be a number in 0..10",
        ),
        (
            lambda c: c["families"]["hopper_gemm"]["residual"].update(
                trees={**PLAIN_TREES, "depth": 10**9}
            ),
            "the depth of trees = 1000000000 must be a number in 0..64",
        ),
        (
            lambda c: c["families"]["hopper_gemm"]["residual"]["scale"].update(base64="AAAA"),
            "bytes, type and shape do not agree",
        ),
        (
            lambda c: c["families"]["hopper_gemm"]["residual"].update(names=["a"]),
            "another length than its features",
        ),
        (
            lambda c: c["templates"]["hopper_gemm"].update(files=["../../x"]),
            "a kernel's files lie in one folder",
        ),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(
    file: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse_calibration(edited(file, change), GPU)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"not JSON .*: calibrate anew"):
        parse_calibration(path, GPU)
    with pytest.raises(ValueError, match="cannot be read"):
        parse_calibration(tmp_path / "none.json", GPU)


@pytest.mark.parametrize(
    ("problem", "reason", "wider"),
    [
        ("gemm:512x4096x4096:bf16:bf16", "", 1.0),
        ("gemm:8192x4096x4096:bf16:bf16", "extent 0 = 8192 beyond 16..4096", 1.5),
        ("gemm:512x4096x128:bf16:bf16", "extent 2 = 128 beyond 256..8192", 1.5),
        ("gemm:512x4096x4096:int8-row:bf16", "int8 was not measured", 1.5),
        ("gemm:512x4096x4096:deepseek-fp8:bf16", "e4m3fn in blocks was not measured", 1.5),
        (
            "gemm:16384x512x4096:bf16:bf16",
            "extent 0 = 16384 beyond 16..4096; extent 1 = 512 beyond 1024..8192",
            2.5,
        ),
    ],
)
def test_a_shape_beyond_what_was_measured_says_so(problem: str, reason: str, wider: float) -> None:
    family = calibrated().families["hopper_gemm"]
    assert family.beyond(parse_problem(problem)) == (reason, wider)
    one = parse_problem(problem)
    whole = replace(calibrated(), families={"hopper_gemm": replace(family, widths={"* *": 0.1})})
    priced = whole.price(one, HOPPER, HOPPER.legal_space(one, GPU.limits).accepted, GPU)
    assert priced.extrapolated == reason
    assert priced.best().extrapolated == reason
    plain = replace(whole, families={}).price(one, HOPPER, priced.table, GPU)
    prior = np.log(plain.high_us / plain.time_us)
    width = np.log(priced.high_us / priced.time_us)
    assert width == pytest.approx(np.hypot(0.1 * wider, prior * (1 - 1 / wider)))


def test_a_residual_moves_times_towards_what_was_measured() -> None:
    """Everything took a tenth longer than the physics says: so it is predicted."""
    plain = sim.price(PROBLEM, HOPPER, TABLE, GPU)
    names, numbers = features(plain, GPU.sm_count)
    slower = fit_residual(names, numbers[:60], np.full(60, np.log(1.1)))
    family = replace(calibrated().families["hopper_gemm"], residual=slower)
    whole = replace(calibrated(), figures={}, templates={}, families={"hopper_gemm": family})
    seen = whole.price(PROBLEM, HOPPER, TABLE.take(np.arange(60)), GPU)
    assert seen.time_us == pytest.approx(1.1 * plain.time_us[:60])


def test_what_no_interval_was_learned_for_keeps_the_priors_and_widens_them() -> None:
    family = replace(calibrated().families["hopper_gemm"], residual=None, widths={})
    whole = replace(calibrated(), figures={}, templates={}, families={"hopper_gemm": family})
    for text, wider in (("512x4096x4096", 1.0), ("8192x4096x4096", 1.5)):
        problem = parse_problem(f"gemm:{text}:bf16:bf16")
        table = HOPPER.legal_space(problem, GPU.limits).accepted
        plain = sim.price(problem, HOPPER, table, GPU)
        prior = np.log(plain.high_us / plain.time_us)
        found = whole.price(problem, HOPPER, table, GPU)
        assert np.log(found.high_us / found.time_us) == pytest.approx(prior * wider)


def test_another_kind_of_problem_was_not_measured() -> None:
    family = calibrated().families["hopper_gemm"]
    other = parse_problem("quantize:512x4096:int8.b32x32:bf16")
    assert family.beyond(other) == ("quantize problems were not measured", 1.5)


def test_luck_on_a_few_timings_is_no_knowledge_of_what_was_not_timed() -> None:
    """Errors of 1 % on four shapes: INT8's, never timed, were held to 1.5 %."""
    sure = replace(calibrated().families["hopper_gemm"], widths={"* *": 0.01}, residual=None)
    whole = replace(calibrated(), families={"hopper_gemm": sure})
    widths = {}
    for text in (
        "gemm:512x4096x4096:e4m3-row:bf16",
        "gemm:512x4096x4096:deepseek-fp8:bf16",
        "gemm:512x4096x4096:int8-b128:bf16",
        "gemm:65536x4096x4096:e4m3-row:bf16",
    ):
        one = parse_problem(text)
        priced = whole.price(one, HOPPER, HOPPER.legal_space(one, GPU.limits).accepted, GPU)
        widths[text] = float(np.log(priced.high_us / priced.time_us).min())
    timed, in_blocks, int8, far = widths.values()
    assert timed == pytest.approx(0.01)
    assert in_blocks > 0.08  # as many bits, and promotion besides
    assert int8 > 0.08
    assert far > 0.18  # four doublings beyond: two thirds of the interval of no timing at all


def test_the_users_own_calibration_is_found_and_a_bad_one_named(file: Path) -> None:
    assert choose_calibration(None, GPU).calibration is None
    path = calibration_path("h200")
    path.parent.mkdir(parents=True)
    path.write_text(file.read_text())
    found = choose_calibration(None, GPU)
    assert found.calibration is not None
    assert found.lines == ("calibration: NVIDIA H200, 2026-11-22, 40 timings",)
    assert choose_calibration("none", GPU).calibration is None
    path.write_text("{")
    bad = choose_calibration(None, GPU)
    assert bad.calibration is None
    assert bad.lines[0].startswith(f"not calibrated: calibration {path}: not JSON")
    with pytest.raises(ValueError, match="not JSON"):
        choose_calibration(path, GPU)


def test_arrays_keep_their_bits() -> None:
    for array in (np.array([1e-300, np.pi, -0.0]), np.arange(6, dtype=np.int32).reshape(2, 3)):
        back = from_json(json.loads(json.dumps(to_json(array))))
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)
    with pytest.raises(ValueError, match="not finite"):
        from_json(to_json(np.array([np.inf])))
