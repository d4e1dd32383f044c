"""``predict`` with a calibration: used, named, refused, or left alone."""

import json
from pathlib import Path

import pytest
from command_line import Call

import sim
import workbench
from sim.calibration import Calibration, FamilyCalibration
from sim.calibration.file import About, calibration_text
from sim.calibration.folder import calibration_path
from sim.parameters import HOPPER_GEMM
from tiles.kernels import kernel

SHAPE = "512x4096x4096"
TITLE = "NVIDIA H200, 2026-11-22, 48 timings"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A board whose memory is a third as fast, calibrated for bf16 at up to 512 rows."""
    calibration = Calibration(
        base=sim.load_gpu("h200"),
        figures={"dram_read_gb_per_s": 1300.0},
        templates={"hopper_gemm": HOPPER_GEMM},
        families={
            "hopper_gemm": FamilyCalibration(
                rows=48,
                shapes=8,
                extents={"gemm": ((16, 512), (4096, 4096), (4096, 4096))},
                elements=("bf16",),
                residual=None,
                widths={"* *": 0.07},
                prior_error=0.1,
                physics_error=0.05,
                residual_error=None,
            )
        },
        title=TITLE,
    )
    about = About(
        device="NVIDIA H200",
        driver="580",
        versions={},
        made="2026-11-22",
        simulated=False,
        measured={},
        microbenchmarks=[],
        timings={},
    )
    path = tmp_path / "mine.json"
    path.write_text(calibration_text(calibration, about, {}, [kernel("hopper_gemm")]))
    return path


def hopper(**options: object) -> workbench.PredictedRow:
    options = {"recipes": ["bf16"], "shapes": [SHAPE], "families": ["hopper_gemm"], **options}
    (row,) = workbench.predict(**options).rows  # type: ignore[arg-type]
    return row


def test_predictions_are_the_calibrated_machines(file: Path) -> None:
    plain, calibrated = hopper(calibration="none"), hopper(calibration=file)
    assert calibrated.gemm.time_us > 1.1 * plain.gemm.time_us
    assert calibrated.gemm.high_us / calibrated.gemm.time_us == pytest.approx(1.0725, abs=1e-3)
    assert calibrated.gemm.calibrated
    assert not plain.gemm.calibrated


def test_the_users_own_is_used_without_being_asked_for(file: Path) -> None:
    assert hopper() == hopper(calibration="none")
    path = calibration_path("h200")
    path.parent.mkdir(parents=True)
    path.write_bytes(file.read_bytes())
    assert hopper() == hopper(calibration=file)
    assert hopper(gpu="h100") == hopper(gpu="h100", calibration="none")


def test_a_rehearsals_file_is_never_taken_by_itself(file: Path) -> None:
    content = json.loads(file.read_text())
    path = calibration_path("h200")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**content, "simulated": True}))
    found = workbench.predict(recipes=["bf16"], shapes=[SHAPE])
    assert found.calibration == (
        f"not calibrated: calibration {path}: of a simulated machine: calibrate on the GPU, or "
        "name the file with --calibration to rehearse",
    )
    assert not any(row.gemm.calibrated for row in found.rows)
    named = workbench.predict(recipes=["bf16"], shapes=[SHAPE], calibration=path)
    assert (
        "of a simulated machine, for rehearsals: its predictions mean nothing" in named.calibration
    )


def test_the_output_says_what_it_rests_on(call: Call, file: Path) -> None:
    asked = ["predict", "--shape", SHAPE, "--shape", "4096x4096x4096", "--kernel", "hopper_gemm"]
    asked += ["--recipe", "bf16", "--recipe", "int8-row", "--calibration", str(file)]
    answer = call(*asked)
    assert answer.code == 0
    lines = answer.out.splitlines()
    assert f"calibration: {TITLE}" in lines
    assert [line for line in lines if line.startswith("extrapolated")] == [
        "extrapolated, wider interval: int8 was not measured: int8-row (hopper_gemm)",
        "extrapolated, wider interval: extent 0 = 4096 beyond 16..512: bf16 (hopper_gemm)",
        "extrapolated, wider interval: extent 0 = 4096 beyond 16..512; int8 was not measured: "
        "int8-row (hopper_gemm)",
    ]
    answer = call(*asked, "--json")
    assert answer.code == 0
    said = json.loads(answer.out)
    assert said["calibration"] == [f"calibration: {TITLE}"]
    assert [row["extrapolated"] for row in said["predicted"]][:2] == ["", "int8 was not measured"]


def test_a_calibration_of_another_gpu_is_one_line(call: Call, file: Path) -> None:
    asked = ["predict", "--gpu", "h100", "--shape", SHAPE, "--calibration", str(file)]
    said = call(*asked)
    assert said.code == 2
    assert said.out == ""
    assert said.err == (
        f"error: calibration {file}: of the gpu 'h200', not h100: name its own, or "
        "--calibration none\n"
    )


MODEL = "examples/models/llama-3-8b.json"


def block_us(**options: object) -> dict[str, float]:
    """Times of a layer's operators on 512 tokens, by name."""
    options = {"model": MODEL, "sequence": 512, "recipes": ["bf16"], **options}
    (row,) = workbench.predict_network(**options).rows  # type: ignore[arg-type]
    return {one.operator.name: one.span.time_us for one in row.cost.operators}


def test_networks_are_predicted_on_the_calibrated_machine(file: Path) -> None:
    plain, calibrated = block_us(calibration="none"), block_us(calibration=file)
    # Products of 512 rows wait for weights, the normalisation for its rows.
    assert calibrated["qkv"] > 1.1 * plain["qkv"]
    assert calibrated["norm 1"] > 1.2 * plain["norm 1"]
    assert block_us() == plain
    path = calibration_path("h200")
    path.parent.mkdir(parents=True)
    path.write_bytes(file.read_bytes())
    assert block_us() == calibrated
    assert block_us(gpu="h100") == block_us(gpu="h100", calibration="none")


def test_the_output_about_a_network_says_what_it_rests_on(call: Call, file: Path) -> None:
    asked = ["predict", "--network", "--model", MODEL, "--sequence", "128", "--recipe", "bf16"]
    answer = call(*asked, "--calibration", str(file))
    assert answer.code == 0
    assert f"calibration: {TITLE}" in answer.out.splitlines()
    answer = call(*asked, "--calibration", str(file), "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["calibration"] == [f"calibration: {TITLE}"]
    answer = call(*asked, "--gpu", "h100", "--calibration", str(file))
    assert answer.code == 2
    assert "of the gpu 'h200', not h100" in answer.err
