"""Packages with the weight-only product in CUDA C++: what ships, which call takes it, what else."""

import importlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from imported_package import imported
from weight_launches import DECODE, HOPPER, LONG, PREFILL, TRITON, Launches, weight_call

from tiles.formats import TensorFormat
from tiles.formats.torch_codec import quantize_tensor
from tiles.kernels import kernel
from tiles.kernels.hopper_weight_only import MOST_ROWS
from tiles.kernels.weight_only_resources import group_columns
from tiles.kernels.weight_only_workload import pack_quantized
from workbench.emission import EmittedPackage, emit
from workbench.emission.evidence import digest
from workbench.verification import Outcome, verify

ALONE = "gemm:8x64x256:w8a16:bf16"
FORMATS, EXTENTS = ("w4a16-g128", "bf16"), (64, 512)
NAME = "hopper_weights"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    """CUDA C++ is faster at M = 16, Triton alone was tuned at 4096, and CUDA C++ alone at 8."""
    made = (
        study(DECODE, family=HOPPER, simulated=False, time_us=10.0),
        study(DECODE, family=TRITON, simulated=False, time_us=12.0),
        study(LONG, family=TRITON, simulated=False, time_us=90.0),
        study(ALONE, family=HOPPER, simulated=False, time_us=9.0),
    )
    return emit(run_of(*made), tmp_path_factory.mktemp("weights") / "kernels", name=NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        yield found


def test_the_fastest_family_of_each_problem_ships(package: EmittedPackage) -> None:
    evidence = json.loads(package.evidence.read_text())
    shipped = {entry["problem"]: entry["kernel"] for entry in evidence["entries"]}
    assert shipped == {DECODE: HOPPER, LONG: TRITON, ALONE: HOPPER}
    (slower,) = evidence["not_emitted"]
    assert slower["reason"] == "hopper_weight_only is faster: 10.00 us against 12.00 us"
    readme = (package.folder / "README.md").read_text()
    assert "`linear_weight_only` launches `hopper_weight_only` through CuPy" in readme
    assert "a default of `triton_weight_only` runs in its place" in readme


def test_sources_and_defaults_ship_as_they_are(package: EmittedPackage) -> None:
    folder = package.folder / "src" / NAME
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    cuda = ("gemm_hopper_weight_only.cu", "gemm_hopper_weight_only.py", "hopper_weight_operands.py")
    cuda += ("hopper.cuh", "hopper_mma.cuh", "hopper_ring.cuh", "weight_codes.cuh")
    assert names >= {f"kernels/cuda/{name}" for name in cuda} | {
        "_hopper_weight_only.py",
        "_cupy_views.py",
        "kernels/triton/gemm_weight_only.py",
        f"configs/{HOPPER}-w8a16-bf16-64x256-h200.json",
        f"configs/{HOPPER}-w8a16-bf16-default.json",
        f"configs/{TRITON}-w8a16-bf16-default.json",
    }
    assert not names & {"_gemm.py", "gemm_cuda.py", "kernels/cuda/gemm_hopper.cu"}
    evidence = json.loads(package.evidence.read_text())
    source = kernel(HOPPER).template.with_suffix(".cu")
    path = f"src/{NAME}/kernels/cuda/{source.name}"
    assert evidence["templates"][path] == {"kernel": HOPPER, "sha256": digest(source.read_bytes())}
    assert (package.folder / path).read_bytes() == source.read_bytes()


def test_a_package_without_it_needs_no_cupy(tmp_path: Path) -> None:
    folder = emit(run_of(study(DECODE, family=TRITON)), tmp_path / "out", name="plain_pack").folder
    names = {path.name for path in folder.rglob("*")}
    assert "_weight_only.py" in names
    assert not names & {"_hopper_weight_only.py", "_hopper_gemm.py", "_cupy_views.py"}


@pytest.fixture
def launches(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Launches:
    return Launches(module, monkeypatch)


@pytest.mark.parametrize("m", [1, 5, 16, 255, MOST_ROWS])
def test_few_rows_take_the_tuned_entry(module: ModuleType, launches: Launches, m: int) -> None:
    assert weight_call(module, m) == []
    (told,) = launches.cuda
    x, codes, c, scale, zero = told["operands"]
    assert (x.shape, codes.shape, c.shape) == ((m, 512), (4, 64, 64), (m, 64))
    assert (x.dtype, codes.dtype, scale.dtype, zero) == ("uint16", "uint8", "float16", None)
    assert (told["weight"], told["scale_format"], told["group"]) == ("int4", "fp16", 128)
    assert told["stream"] == "torch's stream"


def test_more_rows_take_tritons_entry_however_near_the_other_is(
    module: ModuleType, launches: Launches
) -> None:
    assert module._weight_only.HOPPER_ROWS == MOST_ROWS
    assert weight_call(module, MOST_ROWS + 1) == []
    (choice,) = launches.triton
    assert (choice.file.kernel, choice.m, choice.tuned) == (TRITON, 4096, True)
    # Where nothing else was tuned a default runs.
    said = weight_call(module, MOST_ROWS + 1, "w8a16", k=256)
    assert "never tuned for extents (64, 256)" in said[0]
    assert not launches.triton[1].tuned
    assert launches.cuda == []


def test_what_it_cannot_run_has_a_stand_in_and_one_warning(
    module: ModuleType, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = torch.zeros(4, 516, dtype=torch.bfloat16)[:, :512]
    said = weight_call(module, 4, x=apart)
    assert "do not start at multiples of 16 bytes: running a conservative default" in said[0]
    assert weight_call(module, 4, x=apart) == []
    off = torch.zeros(65, dtype=torch.float32)[1:]
    assert weight_call(module, 4, row_scale=off) == []
    monkeypatch.setattr(launches.own, "missing", lambda device: "it needs CuPy (no module)")
    assert "hopper_weight_only w4a16-g128 bf16 64x512: it needs CuPy" in weight_call(module, 4)[0]
    assert launches.cuda == []
    assert {(c.file.kernel, c.file.gpu, c.tuned) for c in launches.triton} == {
        (TRITON, "h200", False)
    }
    assert len(launches.triton) == 4


def test_shared_tiles_have_a_workspace_unless_there_are_too_many(
    module: ModuleType, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose = module._weight_only.choose

    def shared(*asked: Any) -> Any:
        choice = choose(*asked)
        config = {**choice.config, "per_sm": 2, "block_m": 8, "block_n": 16, "warp_rows": 16}
        return replace(choice, config=config | {"warps_k": 1, "stages": 8, "cluster": 1})

    monkeypatch.setattr(module._weight_only, "choose", shared)
    weight_call(module, 8)
    assert launches.cuda[0]["config"]["per_sm"] == 2
    words = 2**14 + 2 * 4 * 4 * 8 * 16  # 4 tiles of 4 panels: 16 CTAs, two places each
    assert launches.cuda[0]["workspace"].shape[0] >= words
    # As many tiles as rows of one tile make: none is counted.
    monkeypatch.setattr(launches.own, "template", _counting(launches.own.template(None), 3))
    weight_call(module, 8)
    assert launches.cuda[1]["config"]["per_sm"] == 0
    assert launches.cuda[1]["workspace"] is None


@pytest.mark.parametrize(("k", "wanted"), [(96, 1), (264, 2), (512, 4), (1024, 8), (2048, 8)])
def test_no_cta_of_a_cluster_is_without_a_panel(
    module: ModuleType, launches: Launches, k: int, wanted: int
) -> None:
    """A configuration that was tuned for a longer K runs on what there is: 128 columns a panel."""
    packed = pack_quantized(quantize_tensor(torch.randn(64, k), TensorFormat.parse("int4.row")))
    file = next(f for f in module._lookup.FILES if f.kernel == HOPPER and f.extents == (64, 512))
    config = {**file.entries[0][1], "warps_k": 1, "stages": 8, "per_sm": 0, "cluster": 8}
    choice = SimpleNamespace(
        file=replace(file, layout={**file.layout, "block": (1, 0)}), config=config
    )
    x, out = torch.zeros(8, k, dtype=torch.bfloat16), torch.empty(8, 64, dtype=torch.bfloat16)
    parts = (packed.codes, packed.scale, packed.zero, packed.row_scale)
    module._weight_only.run(choice, x, parts, out, k)
    (told,) = launches.cuda
    assert told["config"] == {**config, "cluster": wanted}


def _counting(shown: SimpleNamespace, tiles: int) -> Any:
    few = SimpleNamespace(**{**vars(shown), "COUNTED_TILES": tiles})
    return lambda choice: few


#: Weights, and how their scales travel.
WEIGHTS = {
    "int4.g128+fp16": "float16",
    "int4.g32": "float16",
    "uint4.g128+fp16": "float16",
    "int4.g64+bf16": "uint16",
    "e2m1fn.mx": "uint8",
    "nvfp4": "uint8",
    "int8.b1x128": "float32",
    "e4m3fn.row": None,
}


@pytest.mark.parametrize("text", WEIGHTS)
def test_every_weight_reaches_the_launcher_as_it_takes_it(
    module: ModuleType, launches: Launches, text: str
) -> None:
    fmt = TensorFormat.parse(text)
    assert fmt.scaling is not None
    packed = pack_quantized(quantize_tensor(torch.randn(32, 256), fmt))
    file = next(f for f in module._lookup.FILES if f.kernel == HOPPER and f.extents is not None)
    layout = {
        "activation": "bf16",
        "element": fmt.element.name,
        "bits": fmt.element.bits,
        "block": (fmt.scaling.rows or 0, group_columns(fmt)),
        "stored": fmt.scaling.stored.name,
    }
    choice = SimpleNamespace(file=replace(file, layout=layout), config=file.entries[0][1])
    x, out = torch.zeros(8, 256, dtype=torch.bfloat16), torch.empty(8, 32, dtype=torch.bfloat16)
    parts = (packed.codes, packed.scale, packed.zero, packed.row_scale)
    module._weight_only.run(choice, x, parts, out, 256)
    (told,) = launches.cuda
    scale = told["operands"][3]
    assert (None if scale is None else str(scale.dtype)) == WEIGHTS[text]
    assert (told["operands"][4] is not None) == fmt.asymmetric


def test_patch_counts_its_entries_as_tuned_and_measured(module: ModuleType) -> None:
    """Of w8a16 nothing but CUDA C++ was tuned, and its times alone speak for it."""
    for name, extents in (("w8a16", (256, 64)), ("w4a16-g128", (512, 64))):
        model = torch.nn.Sequential(torch.nn.Linear(*extents)).bfloat16()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            report = module.patch(model, name)
        assert [one.tuned for one in report.replaced] == [True]
        assert (model[0].weight.recipe, model[0].weight.columns) == (name, extents[0])
    within = importlib.import_module(f"{NAME}._linear_recipes")
    known, refused = within.linear_recipes()
    assert refused == {}
    alone = {"w8a16": known["w8a16"]}
    assert within.choose_recipe(alone) == (
        "w8a16", "w8a16 is the only recipe with measured entries"
    )  # fmt: skip
    # By M = 4096 at (64, 512) in 90 us; w8a16 by M = 8 at (64, 256) in 9.
    model = torch.nn.Sequential(torch.nn.Linear(512, 64)).bfloat16()
    report = module.patch(model)
    assert (
        report.chosen == "w4a16-g128 is the fastest of 2 recipes on shapes of their own (measured)"
    )


@pytest.fixture(scope="module")
def prefill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Many rows are faster in CUDA C++, few rows in the other kernel of it."""
    made = (
        study(DECODE, family=HOPPER, simulated=False, time_us=10.0),
        study(LONG, family=PREFILL, simulated=False, time_us=80.0),
        study(LONG, family=TRITON, simulated=False, time_us=90.0),
    )
    package = emit(run_of(*made), tmp_path_factory.mktemp("prefill") / "kernels", name="prefill")
    names = {path.name for path in package.folder.rglob("*")}
    assert names >= {"gemm_hopper_weight_prefill.cu", "weight_panels.cuh", "hopper_staging.cuh"}
    with imported(package.folder, "prefill") as found:
        yield found


@pytest.mark.parametrize("m", [16, 4000])
def test_many_rows_take_the_kernel_of_many_rows(
    prefill: ModuleType, m: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches = Launches(prefill, monkeypatch)
    told: list[dict[str, Any]] = []
    if m > MOST_ROWS:

        def launch(x: Any, codes: Any, c: Any, scale: Any, zero: Any, **more: Any) -> None:
            told.append({"shapes": (x.shape, codes.shape, c.shape), **more})

        monkeypatch.setattr(launches.own, "template", lambda choice: SimpleNamespace(launch=launch))
    families: list[str] = []

    def run(choice: Any, *rest: Any) -> None:
        families.append(choice.file.kernel)
        prefill._hopper_weight_only.launch(choice, *rest[:3])

    monkeypatch.setattr(prefill._weight_only, "run", run)
    assert weight_call(prefill, m) == []
    assert families == [PREFILL if m > MOST_ROWS else HOPPER]
    for one in told:
        assert one["shapes"] == ((m, 512), (4, 64, 64), (m, 64))
        assert (one["weight"], one["scale_format"], one["group"]) == ("int4", "fp16", 128)
        assert "workspace" not in one
    assert len(told) == (m > MOST_ROWS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "problem"), [(HOPPER, ALONE), (PREFILL, "gemm:512x64x256:w4a16-g128:bf16")]
)
def test_what_can_be_verified_without_a_gpu_passes(
    tmp_path: Path, family: str, problem: str
) -> None:
    package = emit(run_of(study(problem, family=family)), tmp_path / "out", name="weight_pack")
    report = verify(package.folder, device="cpu", seed=5)
    assert {c.name: c.detail for c in report.checks if c.status is Outcome.FAILED} == {}
    outcomes = {check.name: check.status for check in report.checks}
    label = f"{family} {problem}"
    for part in ("configuration", "launcher", "stand-in: configuration", "stand-in: random"):
        assert outcomes[f"{label}: {part}"] is Outcome.PASSED
    assert outcomes[f"{label}: answers"] is Outcome.SKIPPED
