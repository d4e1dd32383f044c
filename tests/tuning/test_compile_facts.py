"""A sweep that launches nothing its compiler has shown to be in vain."""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import fake_kernels
import pytest
from compiled_facts import FACTS

import sim
import tuning
from tiles.kernels import ConfigTable, Limits, Rule, Status, TileConfig
from tiles.kernels.compile_facts import CompileFacts
from tiles.problems import Problem
from tuning import JobLimits, Plan, Strategy, StudyPlan
from tuning.facts_cache import FactsCache
from tuning.precompile import CompilePool
from tuning.worker import Target

H200 = sim.load_gpu("h200").limits

KINDS = ("fits", "too much memory", "does not compile", "compiler crashes", "compiler hangs")
LOG = "COMPILE_LOG"
#: A compiler's limit.  The others are done in milliseconds, but a busy host may stand still.
HANG_S = 3.0
PATIENCE_S = 120  #: after which a test gives up what has to happen


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledConfig(TileConfig):
    kind: int
    size: int


class CompiledWorkload(fake_kernels.FakeWorkload):
    def launchers(self, config: TileConfig, sets: int) -> list[Callable[[], None]]:
        return [lambda: None] * sets

    def check(self, config: TileConfig) -> fake_kernels.Accuracy:
        assert isinstance(config, CompiledConfig)
        with open(os.environ[LOG], "a") as file:
            file.write(f"launch {KINDS[config.kind]}\n")
        return fake_kernels.Accuracy(ok=True, max_error_over_bound=0.1, relative_rms=1e-3)


class CompiledKernel(fake_kernels.FakeKernel):
    """A family with a compiler that needs no device."""

    name: ClassVar[str] = "compiled"
    config_type: ClassVar[type[TileConfig]] = CompiledConfig

    def space(self, problem: Problem, limits: Limits) -> ConfigTable:
        return ConfigTable.product(CompiledConfig, kind=list(range(len(KINDS))), size=[10, 20])

    def rules(self, problem: Problem, table: ConfigTable, limits: Limits) -> list[Rule]:
        again = (table["kind"] > 1) & (table["size"] > 10)
        return [Rule("once", again, lambda row: "one of each failure is enough")]

    def default(self, problem: Problem, limits: Limits) -> TileConfig:
        return CompiledConfig(kind=0, size=10)

    @property
    def template(self) -> Path:
        return Path(__file__)

    def workload(self, problem: Problem, *, device: str, seed: int) -> CompiledWorkload:
        return CompiledWorkload(problem)

    def compile_offline(self, problem: Problem, config: TileConfig, limits: Limits) -> CompileFacts:
        assert isinstance(config, CompiledConfig)
        kind = KINDS[config.kind]
        with open(os.environ[LOG], "a") as file:
            file.write(f"compile {kind} {config.size}\n")
        if kind == "does not compile":
            raise fake_kernels.CompilationError("no register left")
        if kind == "compiler crashes":
            os.abort()
        if kind == "compiler hangs":
            time.sleep(600)
        smem = 10**6 if kind == "too much memory" else 1000
        return replace(FACTS, smem_bytes=smem + config.size)


#: Facts that each pricing was given, by row.
PRICED: list[dict[int, CompileFacts]] = []


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    monkeypatch.setenv(LOG, str(path))
    return path


def sweep(
    folder: Path, strategy: Strategy = Strategy.EXHAUSTIVE, measurements: int = 32
) -> tuning.Run:
    plan = Plan(
        studies=(
            StudyPlan(problem=fake_kernels.gemm(), kernel="test_compile_facts:CompiledKernel"),
        ),
        folder=folder,
        gpu=fake_kernels.GPU,
        strategy=strategy,
        max_measurements=measurements,
    )

    def price(*arguments: Any) -> Any:
        import hostile_kernels

        PRICED.append(dict(arguments[4]) if len(arguments) > 4 else {})
        return hostile_kernels.price(*arguments[:4])

    return tuning.run(
        plan, price=price, limits=JobLimits(compile_s=HANG_S), precompile=1, retry_failures=True
    )


def test_nothing_is_launched_that_the_compiler_has_shown_to_be_in_vain(
    tmp_path: Path, log: Path
) -> None:
    run = sweep(tmp_path / "run")
    found = {KINDS[t.config.to_dict()["kind"]]: t.measurement for t in run.studies[0].trials}
    fits = found["fits"]
    assert fits.status is Status.CORRECT
    assert fits.facts is not None
    assert fits.facts.pipeline_depth == 3
    refused = found["too much memory"]
    assert (refused.status, refused.reason) == (
        Status.CONSTRAINTS,
        "smem 1000020 B > 232448 B on fake",
    )
    assert refused.facts is not None
    assert found["does not compile"].status is Status.COMPILE
    assert found["does not compile"].reason == "CompilationError: no register left"
    assert found["compiler hangs"].status is Status.TIMEOUT
    assert found["compiler hangs"].reason == "compiling took longer than 3 s"
    # Whether a crash was the compiler's is for the measuring process to find out.
    assert found["compiler crashes"].status is Status.CORRECT
    lines = Counter(log.read_text().splitlines())
    assert {line for line in lines if line.startswith("launch")} == {
        "launch fits",
        "launch compiler crashes",
    }
    assert set(lines.values()) <= {1, 2}  # two sizes fit
    assert tuning.load_run(tmp_path / "run") == run

    # What is known too large is not even compiled again.
    log.unlink()
    again = sweep(tmp_path / "again", Strategy.MODEL, 2)
    statuses = [t.measurement.status for t in again.studies[0].trials]
    assert statuses == [Status.CORRECT, Status.CONSTRAINTS]
    assert "compile too much memory 10" not in log.read_text().splitlines()
    table = CompiledKernel().legal_space(fake_kernels.gemm(), H200).accepted
    limits = fake_kernels.GPU.limits
    known = FactsCache().known(CompiledKernel(), fake_kernels.gemm(), table, limits)
    assert set(known) == {0, 1, 2, 3}
    assert known[3].smem_bytes == 1_000_020


def test_a_study_is_priced_with_the_facts_that_were_known_when_it_began(
    tmp_path: Path, log: Path
) -> None:
    PRICED.clear()
    sweep(tmp_path / "first", Strategy.MODEL, 2)
    assert PRICED == [{}]  # nothing was compiled before
    PRICED.clear()
    sweep(tmp_path / "second", Strategy.MODEL, 1)
    assert PRICED[0] == {}
    known = PRICED[1]
    assert known
    assert all(facts.registers == FACTS.registers for facts in known.values())
    # Whoever goes on with it ranks by the same facts, whatever has been compiled since.
    PRICED.clear()
    sweep(tmp_path / "third", Strategy.EXHAUSTIVE)
    sweep(tmp_path / "second", Strategy.MODEL, 1)
    assert PRICED[-1] == known
    table = CompiledKernel().legal_space(fake_kernels.gemm(), H200).accepted
    later = FactsCache().known(
        CompiledKernel(), fake_kernels.gemm(), table, fake_kernels.GPU.limits
    )
    assert set(known) < set(later)


def test_a_pool_tells_how_compiling_ended(log: Path) -> None:
    target = Target(
        problem=str(fake_kernels.gemm()),
        kernel="test_compile_facts:CompiledKernel",
        device="cpu",
        seed=0,
        cache="cold",
        l2_bytes=2**20,
    )
    configs = [CompiledConfig(kind=kind, size=10) for kind in (4, 3, 1)]
    with CompilePool(JobLimits(compile_s=HANG_S), 1) as pool:
        pool.announce(target, configs, H200)
        hastened = pool.hasten(target, configs[2])  # before the crash, whatever runs now
        facts = hastened.result(PATIENCE_S).facts
        assert facts is not None
        assert facts.smem_bytes == 10**6 + 10
        crashed = pool.hasten(target, configs[1]).result(PATIENCE_S)
        assert crashed.status is Status.RUNTIME
        assert "SIGABRT" in crashed.reason
        pool.announce(target, [CompiledConfig(kind=4, size=20)], H200)
        left = pool.hasten(target, CompiledConfig(kind=4, size=20))
    assert left.done()  # nobody waits for a pool that is gone
