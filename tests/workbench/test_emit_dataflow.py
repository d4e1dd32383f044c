"""Packages with the dataflow operators: calls, refusals, and answers of the kernels on the CPU."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from imported_package import imported

from sim import load_gpu
from tiles.kernels.offline_cuda import available, facts_of
from tiles.kernels.registry import kernel
from tiles.problems import Dataflow, parse_problem
from workbench.emission import EmittedPackage, emit
from workbench.verification.dataflow_function import DataflowFunctionChecks
from workbench.verification.dataflow_launcher import judge_launcher
from workbench.verification.function_checks import Subject
from workbench.verification.recorder import Recorder
from workbench.verification.torch_checks import judge_seeds, seeds_of

sys.path.append(str(Path(__file__).parents[1] / "tiles"))
import dataflow_on_host

NAME = "dataflow_pack"
BLOCKS, ROWS = "cuda_dataflow_blocks", "cuda_dataflow_rows"
PROBLEMS = (
    (BLOCKS, "dataflow:256x96:gelu:int8.b32x32+sr"),
    (BLOCKS, "dataflow:256x96:silu-bwd:int8.b32x32"),
    (BLOCKS, "dataflow:256x96:dropout:e4m3fn.b1x32"),
    (BLOCKS, "dataflow:256x96:layernorm-apply:int8.b32x32"),
    (ROWS, "dataflow:256x96:residual:int8.b32x32+sr"),
    (ROWS, "dataflow:256x96:rmsnorm:int8.b1x32"),
    (ROWS, "dataflow:256x96:layernorm-bwd:int8.b32x32"),
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    run = run_of(*(study(problem, family=family) for family, problem in PROBLEMS))
    return emit(run, tmp_path_factory.mktemp("dataflow") / "kernels", name=NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        importlib.import_module(f"{NAME}._dataflow")
        importlib.import_module(f"{NAME}._lookup")
        yield found


def test_it_ships_with_its_sources_and_what_it_needs(
    package: EmittedPackage, module: ModuleType
) -> None:
    assert module.__all__ == ["dataflow", "DataflowResult"]
    cuda = {path.name for path in (package.folder / f"src/{NAME}/kernels/cuda").iterdir()}
    assert {"dataflow_blocks.cu", "dataflow_rows.cu", "dataflow_device.cuh"} <= cuda
    project = (package.folder / "pyproject.toml").read_text()
    for needed in ("torch>=", "triton>=", "cupy-cuda13x>="):
        assert needed in project.partition("[tool.flit.module]")[0]
    assert "optional-dependencies" not in project
    readme = (package.folder / "README.md").read_text()
    assert 'y = dataflow("gelu", x, x_scales, format="int8.b32x32+sr", seed=1)' in readme
    assert "Nothing\nstands in for them" in readme


@pytest.mark.parametrize(
    ("rows", "cols", "tuned", "m"),
    [
        (256, 96, True, (256, 128)),
        (9000, 96, True, (256, 128)),
        (256, 97, False, (4096, 128)),
        (256, 5000, False, (4096, 8192)),
    ],
)
def test_untuned_columns_take_a_default_made_for_rows_as_long(
    module: ModuleType, rows: int, cols: int, tuned: bool, m: tuple[int, int]
) -> None:
    problem = parse_problem(f"dataflow:{rows}x{cols}:layernorm-bwd:int8.b32x32")
    choice = DataflowFunctionChecks().choice(_subject(module), None, problem)  # type: ignore[arg-type]
    assert (choice.file.kernel, choice.tuned, choice.m) == (ROWS, tuned, m)
    limits = load_gpu("h200").limits
    family = kernel(ROWS)
    table = family.legal_space(problem, limits).accepted
    config = family.config_type(**choice.config)
    assert any(table.config(i) == config for i in range(len(table)))


def _subject(module: ModuleType) -> Subject:
    evidence = {
        "entries": [
            {"kernel": family, "problem": problem, "config": {}} for family, problem in PROBLEMS
        ]
    }
    return Subject(package=module, evidence=evidence, device="cpu", seed=3)


def test_shapes_alone_need_no_gpu(module: ModuleType) -> None:
    def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    x, scales = meta(70, 96, dtype=torch.int8), meta(3, 3)
    found = module.dataflow("gelu", x, scales, format="int8.b32x32+sr", seed=1)
    assert (found.codes.shape, found.scales.shape) == ((70, 96), (3, 3))
    assert found.mean is None
    found = module.dataflow(
        "residual", x, scales, other=x, other_scales=scales, format="int8.b32x32+sr", seed=1
    )
    assert (found.mean.shape, found.variance.shape, found.d_gamma) == ((70,), (70,), None)
    found = module.dataflow("rmsnorm", x, meta(70, 3), gamma=meta(96), format="int8.b1x32")
    assert found.scales.stride() == (1, 72)
    found = module.dataflow(
        *("layernorm-bwd", x, scales), other=x, other_scales=scales, gamma=meta(96),
        mean=meta(70), variance=meta(70), format="int8.b32x32",
    )  # fmt: skip
    assert (found.d_gamma.shape, found.d_beta.shape) == ((96,), (96,))


@pytest.mark.slow  # loads torch's compiler
def test_seeds_of_every_step_are_compiled_once(module: ModuleType) -> None:
    """On shapes alone: a compiled function takes any seed, and not one a compilation."""
    x, scales = (
        torch.empty(64, 96, device="meta").to(torch.int8),
        torch.empty(2, 3, device="meta"),
    )

    def step(seed: int) -> torch.Tensor:
        found = module.dataflow("gelu", x, scales, format="int8.b32x32+sr", seed=seed)
        codes: torch.Tensor = found.codes
        return codes

    torch.compiler.reset()
    compiled = torch.compile(step, fullgraph=True, backend="eager")
    for seed in (*range(12), 2**40, 2**63 - 1):
        assert compiled(seed).shape == (64, 96)


@pytest.mark.slow  # loads torch's compiler
def test_the_check_of_seeds_sees_an_operator_that_specialises() -> None:
    """An ``int`` of a schema is a compilation a value, which torch refuses after some."""
    seen: dict[str, dict[str, Any]] = {}
    for kind in ("SymInt", "int"):
        made = torch.library.custom_op(
            f"seed_check::{kind.lower()}",
            lambda x, seed: x + seed % 7,
            mutates_args=(),
            schema=f"(Tensor x, {kind}? seed) -> Tensor",
        )
        made.register_fake(lambda x, seed: torch.empty_like(x))
        overload = getattr(torch.ops.seed_check, kind.lower()).default
        x = torch.arange(4.0)
        assert seeds_of(overload, (x, None)) == []
        assert seeds_of(overload, (x, 5)) == [1]
        with Recorder(lambda line: seen.update({line["check"]: line}), kind) as check:
            judge_seeds(check, overload, (x, 5), backend="eager")
    assert [line["status"] for line in seen.values()] == ["passed", "failed"], seen


def test_what_does_not_fit_is_refused_in_one_line(module: ModuleType) -> None:
    x, scales = torch.zeros(64, 96, dtype=torch.int8), torch.ones(2, 3)
    plain = {"format": "int8.b32x32"}
    stochastic = {"format": "int8.b32x32+sr"}
    rows = torch.ones(64)
    call = module.dataflow
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "no operator 'gelu' in 'int8.b32x32': there is dropout", lambda: call(
            "gelu", x, scales, **plain)),
        (ValueError, "seed: int8.b32x32[+]sr needs a seed", lambda: call(
            "gelu", x, scales, **stochastic)),
        (ValueError, "other is given: gelu takes none", lambda: call(
            "gelu", x, scales, other=x, seed=1, **stochastic)),
        (ValueError, "other_scales is missing: silu-bwd reads it", lambda: call(
            "silu-bwd", x, scales, other=x, **plain)),
        (ValueError, r"other must be contiguous of shape \(64, 96\), got \(64, 95\)", lambda: call(
            "silu-bwd", x, scales, other=x[:, 1:], other_scales=scales, **plain)),
        (ValueError, r"x_scales must be \(2, 3\), got \(3, 2\)", lambda: call(
            "gelu", x, scales.t(), seed=1, **stochastic)),
        (TypeError, "x_scales must be torch.float32", lambda: call(
            "gelu", x, scales.half(), seed=1, **stochastic)),
        (TypeError, "x must be torch.int8 for this format", lambda: call(
            "gelu", x.float(), scales, seed=1, **stochastic)),
        (TypeError, "x_scales is list", lambda: call("gelu", x, [1], seed=1, **stochastic)),
        (ValueError, r"gamma must be contiguous of shape \(96,\), got \(64,\)", lambda: call(
            "layernorm-apply", x, scales, mean=rows, variance=rows, gamma=rows,
            beta=torch.ones(96), **plain)),
        (ValueError, "probability 0.5: gelu drops nothing", lambda: call(
            "gelu", x, scales, seed=1, probability=0.5, **stochastic)),
        (ValueError, "epsilon 0.0: it must be positive", lambda: call(
            "gelu", x, scales, seed=1, epsilon=0.0, **stochastic)),
        # Past torch's dispatcher, whose first call takes seconds.
        (ValueError, "x lies on cpu: move it to a GPU, no interpreter runs cuda_dataflow_blocks",
         lambda: module._dataflow._launch(
             "gelu", x, scales, *[None] * 6, "int8.b32x32+sr", 1, 0.0, 0, 1e-5, x, scales)),
    ]  # fmt: skip
    for kind, words, asked in cases:
        with pytest.raises(kind, match=words) as caught:
            asked()
        assert "\n" not in str(caught.value)


@pytest.fixture
def on_host(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package with its kernels run by the CPU, on torch's own memory."""
    target = module._dataflow

    def view(tensor: torch.Tensor) -> Any:
        return (tensor if tensor.dtype != torch.float8_e4m3fn else tensor.view(torch.uint8)).numpy()

    def template(choice: Any) -> Any:
        real = module._lookup.template(choice)
        run = dataflow_on_host.run_blocks
        run = run if choice.file.kernel == BLOCKS else dataflow_on_host.run_rows

        def launch(*, config: Any, stream: Any, **rest: Any) -> None:
            arrays = {name: a for name, a in rest.items() if hasattr(a, "ctypes")}
            named = {name: a for name, a in rest.items() if name not in arrays}
            assert run(arrays, config, **named) == ""

        sums = getattr(real, "partial_sums", None)
        return SimpleNamespace(launch=launch, partial_sums=sums)

    monkeypatch.setattr(target, "view", view)
    monkeypatch.setattr(target, "template", template)
    monkeypatch.setattr(target, "stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    return module


def _small(family: str, problem: str) -> tuple[str, dict[str, int]]:
    """Forty rows, and a configuration of two warps; of rows more CTAs than blocks across."""
    config = {"threads": 64, "lanes": 2 if "b1x" in problem else 32, "ctas": 1}
    if family == BLOCKS:
        return problem.replace("256x96", "40x51"), config | {"steps": 1}
    clusters = 2 if "bwd" in problem else 1
    return problem.replace("256x96", "40x96"), config | {
        "rows": 32,
        "splits": 4,
        "clusters": clusters,
    }


#: An operator of two matrices, of vectors that are read, of vectors that are written, of sums.
ON_HOST = tuple(_small(*PROBLEMS[i]) for i in (1, 3, 4, 6))


@pytest.mark.slow
@pytest.mark.parametrize(("text", "config"), ON_HOST)
def test_answers_of_the_packages_launches_are_right(
    on_host: ModuleType, text: str, config: dict[str, int]
) -> None:
    verdict = _answer(on_host, text, config)
    assert (verdict["status"], "of the bound" in verdict["detail"]) == ("passed", True), verdict


def _answer(module: ModuleType, text: str, config: dict[str, int]) -> dict[str, Any]:
    checks, problem = DataflowFunctionChecks(), parse_problem(text)
    assert isinstance(problem, Dataflow)
    case = checks.case(_subject(module), problem, "random")
    (served,) = [file for file in module._lookup.FILES if file.formats == problem.formats][:1]
    choice = module._lookup.Choice(file=served, m=1, config=config)
    lines: list[dict[str, Any]] = []
    with Recorder(lines.append, "answer") as check:
        case.judge(check, case.launch(choice), choice)
    return lines[0]


@pytest.mark.slow
def test_a_wrong_answer_is_seen(on_host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second operand swapped for the first, as a careless package would."""
    right = on_host._dataflow.view
    seen: list[Any] = []

    def view(tensor: torch.Tensor) -> Any:
        seen.append(right(tensor))
        return seen[0] if len(seen) == 3 else seen[-1]

    monkeypatch.setattr(on_host._dataflow, "view", view)
    verdict = _answer(on_host, *ON_HOST[0])
    assert verdict["status"] == "failed"
    assert "scale of the block" in verdict["detail"] or "code at row" in verdict["detail"]


def _launcher(module: ModuleType, text: str, **changes: Any) -> dict[str, Any]:
    problem = parse_problem(text)
    assert isinstance(problem, Dataflow)
    choice = DataflowFunctionChecks().choice(_subject(module), None, problem)  # type: ignore[arg-type]
    real = module._lookup.template(choice)
    names = ("launch", "prepare", "partial_sums")
    parts = {name: getattr(real, name, None) for name in names}
    lines: list[dict[str, Any]] = []
    with Recorder(lines.append, "launcher") as check:
        judge_launcher(check, SimpleNamespace(**parts | changes), problem, choice)
    return lines[0]


def test_a_careless_launcher_fails(module: ModuleType) -> None:
    for _, problem in PROBLEMS:
        assert _launcher(module, problem)["status"] == "passed", problem

    def takes_all(**arguments: Any) -> None:
        return None

    def refuses_all(**arguments: Any) -> None:
        raise ValueError("no")

    for _, problem in PROBLEMS[:1] + PROBLEMS[-1:]:
        assert "takes an output" in _launcher(module, problem, launch=takes_all)["detail"]
        assert "refuses its own: no" in _launcher(module, problem, launch=refuses_all)["detail"]


@pytest.mark.slow
@pytest.mark.skipif(not available(), reason="needs NVRTC and cuobjdump")
def test_the_packages_sources_compile_for_hopper(
    package: EmittedPackage, module: ModuleType
) -> None:
    limits = load_gpu("h200").limits
    for _, text in (PROBLEMS[0], PROBLEMS[-1]):
        problem = parse_problem(text)
        assert isinstance(problem, Dataflow)
        choice = DataflowFunctionChecks().choice(_subject(module), None, problem)  # type: ignore[arg-type]
        template, layout = module._lookup.template(choice), choice.file.layout
        shape = {} if choice.file.kernel == BLOCKS else {"shape": problem.shape}
        options = template.options(
            op=layout["op"], element=layout["element"], block=layout["block"], aligned=True,
            stochastic=layout["stochastic"], config=choice.config, **shape,
        )  # fmt: skip
        source = Path(template.__file__).with_suffix(".cu")
        assert package.folder in source.parents
        facts = facts_of(source, options, choice.config["threads"], limits, target="sm_90a")
        assert facts is not None
        assert (facts.target, facts.stack_bytes) == ("sm_90a", 0)
