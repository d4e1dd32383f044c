"""Verification refuses changed packages, passes honest ones and fails wrong kernels."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
from emit_runs import reseal, run_of, simulated_run, study

from workbench.emission import EmittedPackage, emit
from workbench.verification import Outcome, VerifyReport, verify
from workbench.verification.package import open_package

RECIPES = ("e4m3-row", "deepseek-fp8", "jetfire")
QUANTIZE = "quantize:64x256:int8.b32x32:bf16"
TEMPLATE = "src/tile_pack/kernels/triton/gemm_scaled.py"

WITHOUT_WEIGHT_SCALES = """

_honest_launch = launch


def launch(a, b, c, a_scale, b_scale, **keywords):
    _honest_launch(a, b, c, a_scale, torch.ones_like(b_scale), **keywords)
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    folder = tmp_path_factory.mktemp("verify")
    problems = [(f"gemm:48x64x256:{name}:bf16", "triton_gemm") for name in RECIPES]
    problems.append((QUANTIZE, "triton_quantize"))
    return emit(simulated_run(folder / "sweep", problems), folder / "kernels", name="tile_pack")


@pytest.fixture(scope="module")
def of_one(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    """A single product: checking every other takes seconds, and tells no more of the package."""
    made = run_of(study("gemm:48x64x256:e4m3-row:bf16"))
    return emit(made, tmp_path_factory.mktemp("one") / "kernels", name="tile_pack")


@pytest.fixture
def single(of_one: EmittedPackage, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(of_one.folder, tmp_path / "kernels"))


@pytest.fixture
def package(original: EmittedPackage, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "kernels"
    shutil.copytree(original.folder, copy)
    return copy


def _failed(report: VerifyReport) -> dict[str, str]:
    return {c.name: c.detail for c in report.checks if c.status is Outcome.FAILED}


def _status(report: VerifyReport, name: str) -> Outcome:
    (check,) = [c for c in report.checks if c.name == name]
    return check.status


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.slow
def test_simulated_sweep_passes_on_a_cpu(original: EmittedPackage, tmp_path: Path) -> None:
    report = verify(original.folder, device="cpu", seed=3)
    assert _failed(report) == {}
    assert report.passed
    assert report.device == "cpu"
    assert report.statement.startswith("simulated, never measured")
    assert _status(report, "evidence") is Outcome.SKIPPED
    for name in ("digests", "installed files", "templates", "light import", "independence"):
        assert _status(report, name) is Outcome.PASSED
    for recipe in RECIPES:
        label = f"triton_gemm gemm:48x64x256:{recipe}:bf16"
        for part in ("random", "tails of the tuned tile", "outlier per block", "NaN block"):
            assert _status(report, f"{label}: {part}") is Outcome.PASSED
    for part in ("random", "nasty values", "untuned odd extents"):
        assert _status(report, f"triton_quantize {QUANTIZE}: {part}") is Outcome.PASSED
    assert report.rivals == ()
    assert any("times" in line for line in report.not_checked)
    assert not any("CuPy" in line for line in report.not_checked)
    report.write(tmp_path / "verify.json")
    data = json.loads((tmp_path / "verify.json").read_text())
    assert data["schema"] == "tile-workbench/verify/1"
    assert data["passed"] is True
    assert data["seed"] == 3
    assert data["environment"]["versions"]["triton"]
    assert len(data["checks"]) == len(report.checks)


@pytest.mark.slow
def test_kernel_that_drops_a_scale_fails_although_its_digests_match(single: Path) -> None:
    with (single / TEMPLATE).open("a") as template:
        template.write(WITHOUT_WEIGHT_SCALES)
    reseal(single)
    report = verify(single, device="cpu", seed=3)
    assert not report.passed
    failed = _failed(report)
    assert "triton_gemm gemm:48x64x256:e4m3-row:bf16: random" in failed
    assert "reference" in failed["triton_gemm gemm:48x64x256:e4m3-row:bf16: random"]
    (templates,) = [c for c in report.checks if c.name == "templates"]
    assert templates.status is Outcome.SKIPPED
    assert "gemm_scaled.py" in templates.detail


@pytest.mark.slow
def test_wheel_alone_passes(of_one: EmittedPackage) -> None:
    report = verify(of_one.wheel, device="cpu")
    assert _failed(report) == {}


@pytest.mark.slow
def test_package_that_imports_the_workbench_fails(single: Path) -> None:
    _edit(
        single / "src/tile_pack/_gemm.py", "import torch\n", "import tiles.formats\nimport torch\n"
    )
    reseal(single)
    failed = _failed(verify(single, device="cpu"))
    assert "tiles" in failed["independence"]


@pytest.mark.slow
def test_package_that_kills_its_process_is_a_failed_check(single: Path) -> None:
    _edit(
        single / "src/tile_pack/_gemm.py",
        "import torch\n",
        "import os; os._exit(7)\nimport torch\n",
    )
    reseal(single)
    failed = _failed(verify(single, device="cpu"))
    assert "ended with 7" in failed["checking process"]


@pytest.mark.slow
def test_configuration_that_is_not_the_evidence_fails(single: Path) -> None:
    (path,) = (single / "src/tile_pack/configs").glob("*e4m3-row*64x256*")
    data = json.loads(path.read_text())
    data["entries"][0]["config"]["group_m"] += 1
    path.write_text(json.dumps(data))
    reseal(single)
    failed = _failed(verify(single, device="cpu"))
    assert list(failed) == ["triton_gemm gemm:48x64x256:e4m3-row:bf16: configuration"]


@pytest.mark.slow
def test_every_recipe_output_and_quantisation_passes_on_a_cpu(tmp_path: Path) -> None:
    made = [
        study(f"gemm:{m}x96x256:{name}:{out}")
        for m, name, out in (
            (1, "bf16", "fp32"),
            (16, "fp16", "fp16"),
            (64, "e4m3-tensor", "bf16"),
            (64, "e5m2-row", "bf16"),
            (16, "e5m2-b128", "fp32"),
            (64, "int8-tensor", "bf16"),
            (512, "int8-row", "fp16"),
            (256, "int8-b128", "bf16"),
        )
    ]
    targets = ("int8.row", "int8.tensor", "int8.b128x128", "e4m3fn.b1x128", "e5m2.row")
    made += [study(f"quantize:64x256:{t}:bf16", family="triton_quantize") for t in targets]
    made += [study("quantize:64x256:int8.b1x128:fp32", family="triton_quantize")]
    made += [study("quantize:64x256:int8.b32x32:fp16", family="cuda_quantize")]
    package = emit(run_of(*made), tmp_path / "out", name="tile_pack")
    report = verify(package.folder, device="cpu", seed=5)
    assert _failed(report) == {}
    checked = {c.name for c in report.checks if c.status is Outcome.PASSED}
    for one in made[:-1]:
        assert f"{one.kernel} {one.problem}: random" in checked
    cupy = {
        c.name.removeprefix(f"{made[-1].kernel} {made[-1].problem}").lstrip(": "): c.status
        for c in report.checks
        if c.name.startswith("cuda_quantize")
    }
    for part in ("configuration", "launcher", "stand-in: random", "stand-in: nasty values"):
        assert cupy.pop(part) is Outcome.PASSED
    assert cupy.pop("answers") is cupy.pop("by quantize_cuda") is Outcome.SKIPPED


@pytest.mark.parametrize(
    "name", ["README.md", "src/tile_pack/_lookup.py", TEMPLATE, "tests/test_package.py"]
)
def test_edited_file_is_refused_by_name(package: Path, name: str) -> None:
    with (package / name).open("a") as stream:
        stream.write("\n")
    with pytest.raises(ValueError, match=f"{name} is not what EVIDENCE.json recorded"):
        verify(package, device="cpu")


def test_missing_file_is_refused_by_name(package: Path) -> None:
    (package / TEMPLATE).unlink()
    with pytest.raises(ValueError, match=rf"{TEMPLATE} is missing"):
        verify(package, device="cpu")


def test_extra_file_is_refused_by_name(package: Path) -> None:
    (package / "src/tile_pack/sitecustomize.py").write_text("")
    with pytest.raises(ValueError, match=r"sitecustomize\.py is not in EVIDENCE\.json"):
        verify(package, device="cpu")


def test_caches_and_version_control_are_no_change(package: Path) -> None:
    leftovers = (".git/config", ".pytest_cache/x", "tests/.pytest_cache/x", "src/__pycache__/x.pyc")
    for name in leftovers:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    (package / ".venv").symlink_to(package.parent)
    assert open_package(package).name == "tile_pack"
    (package / "src/tile_pack/.hidden.py").write_text("")
    with pytest.raises(ValueError, match=r"tile_pack/\.hidden\.py is not in EVIDENCE\.json"):
        open_package(package)


@pytest.mark.parametrize("size", [0, 1, 500])
def test_truncated_evidence_is_one_line(package: Path, size: int) -> None:
    path = package / "EVIDENCE.json"
    path.write_text(path.read_text()[:size])
    with pytest.raises(ValueError, match=r"EVIDENCE\.json is damaged") as caught:
        verify(package, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"schema": "tile-workbench/evidence/2"}',
        '{"schema": "tile-workbench/evidence/1"}',
    ],
)
def test_other_json_is_no_evidence(package: Path, content: str) -> None:
    (package / "EVIDENCE.json").write_text(content)
    with pytest.raises(ValueError, match="does not carry the schema"):
        verify(package, device="cpu")


@pytest.mark.parametrize(
    "entry", [[], {}, {"kernel": "mine", "problem": QUANTIZE, "config": {}}, {"kernel": []}]
)
def test_an_entry_of_another_kernel_is_no_evidence(package: Path, entry: object) -> None:
    data = json.loads((package / "EVIDENCE.json").read_text())
    (package / "EVIDENCE.json").write_text(json.dumps({**data, "entries": [entry]}))
    with pytest.raises(ValueError, match="does not carry the schema"):
        open_package(package)


def test_what_is_no_package_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        verify(tmp_path / "nothing", device="cpu")
    with pytest.raises(ValueError, match="is not a folder that emit wrote"):
        verify(tmp_path, device="cpu")
    (tmp_path / "x.whl").write_bytes(b"no zip")
    with pytest.raises(ValueError, match="is not a wheel that can be read"):
        verify(tmp_path / "x.whl", device="cpu")
    with zipfile.ZipFile(tmp_path / "y.whl", "w") as wheel:
        wheel.writestr("y/__init__.py", "")
    with pytest.raises(ValueError, match=r"holds no EVIDENCE\.json"):
        verify(tmp_path / "y.whl", device="cpu")


def test_unknown_device_is_refused(package: Path) -> None:
    with pytest.raises(ValueError, match="choose one of auto, cuda, cpu"):
        verify(package, device="tpu")


def test_wheel_of_another_state_is_refused(package: Path) -> None:
    (wheel,) = (package / "dist").glob("*.whl")
    stale = wheel.read_bytes()
    _edit(package / "README.md", "Tuned low-precision", "Tuned, low-precision")
    reseal(package)
    wheel.write_bytes(stale)
    with pytest.raises(ValueError, match="was not built from"):
        verify(package, device="cpu")


def _rewrite(source: Path, target: Path, changes: dict[str, bytes]) -> None:
    """Copy a wheel with members replaced or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            new.writestr(info, changes.pop(info.filename, old.read(info)))
        for name, data in changes.items():
            new.writestr(name, data)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tile_pack/_lookup.py", "is not what EVIDENCE.json recorded"),
        ("tile_pack/more.py", "is not in EVIDENCE.json"),
        ("torch.py", "is not in EVIDENCE.json"),
        ("evil.pth", "is not in EVIDENCE.json"),
        ("../evil.py", "leads out of the wheel"),
        ("/evil.py", "leads out of the wheel"),
    ],
)
def test_tampered_wheel_is_refused(
    original: EmittedPackage, tmp_path: Path, name: str, message: str
) -> None:
    wheel = tmp_path / original.wheel.name
    _rewrite(original.wheel, wheel, {name: b"import os\n"})
    with pytest.raises(ValueError, match=message):
        verify(wheel, device="cpu")


def test_link_in_the_folder_is_refused(package: Path) -> None:
    readme = package / "README.md"
    readme.rename(package.parent / "elsewhere.md")
    readme.symlink_to(package.parent / "elsewhere.md")
    with pytest.raises(ValueError, match=r"README\.md is a link"):
        verify(package, device="cpu")
