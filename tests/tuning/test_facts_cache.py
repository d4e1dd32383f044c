"""Facts of compilations kept on disk: told apart, damaged, written by several at once."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from compiled_facts import FACTS

import sim
from tiles.kernels import Limits, Status, kernel
from tiles.problems import parse_problem
from tuning import Measurement
from tuning.facts_cache import FactsCache
from tuning.worker import Target, Worker

H200 = sim.load_gpu("h200").limits
GEMM = kernel("triton_gemm")
PROBLEM = parse_problem("gemm:4096x4096x4096:bf16:bf16")
CONFIG = GEMM.default(PROBLEM, H200)


@pytest.fixture
def cache(tmp_path: Path) -> FactsCache:
    return FactsCache(tmp_path / "facts")


def entries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_facts_are_kept(cache: FactsCache, tmp_path: Path) -> None:
    assert cache.get(GEMM, PROBLEM, CONFIG, H200) is None
    cache.put(GEMM, PROBLEM, CONFIG, H200, FACTS)
    assert cache.get(GEMM, PROBLEM, CONFIG, H200) == FACTS
    (path,) = entries(tmp_path / "facts")
    entry = json.loads(path.read_text())
    assert entry["schema"] == "tile-workbench/compile-facts/1"
    assert entry["config"] == CONFIG.to_dict()


def test_another_compiler_gpu_problem_or_config_has_facts_of_its_own(
    cache: FactsCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put(GEMM, PROBLEM, CONFIG, H200, FACTS)
    other = replace(CONFIG, num_stages=2)  # type: ignore[call-arg]  # a GemmConfig
    assert cache.get(GEMM, PROBLEM, other, H200) is None
    assert cache.get(GEMM, parse_problem("gemm:16x4096x4096:bf16:bf16"), CONFIG, H200) is None
    assert cache.get(GEMM, PROBLEM, CONFIG, sim.load_gpu("a100").limits) is None
    from tuning import facts_cache

    facts_cache._topic.cache_clear()
    monkeypatch.setattr(facts_cache, "version", lambda name: "9.9.9")
    assert cache.get(GEMM, PROBLEM, CONFIG, H200) is None
    monkeypatch.undo()
    facts_cache._topic.cache_clear()
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "0")
    assert cache.get(GEMM, PROBLEM, CONFIG, H200) is None
    facts_cache._topic.cache_clear()


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"schema": "x"}', b"\xff", b'{"schema": 1, "facts": {}}']
)
def test_a_damaged_entry_is_absent_and_written_anew(
    cache: FactsCache, tmp_path: Path, damage: bytes
) -> None:
    cache.put(GEMM, PROBLEM, CONFIG, H200, FACTS)
    (path,) = entries(tmp_path / "facts")
    path.write_bytes(damage)
    assert cache.get(GEMM, PROBLEM, CONFIG, H200) is None
    cache.put(GEMM, PROBLEM, CONFIG, H200, FACTS)
    assert cache.get(GEMM, PROBLEM, CONFIG, H200) == FACTS


@pytest.mark.parametrize("field", ["registers", "mma"])
def test_an_entry_of_the_wrong_types_is_absent(
    cache: FactsCache, tmp_path: Path, field: str
) -> None:
    cache.put(GEMM, PROBLEM, CONFIG, H200, FACTS)
    (path,) = entries(tmp_path / "facts")
    entry = json.loads(path.read_text())
    entry["facts"][field] = None
    path.write_text(json.dumps(entry))
    assert cache.get(GEMM, PROBLEM, CONFIG, H200) is None


def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = FactsCache(tmp_path / "file" / "facts")
    cache.put(GEMM, PROBLEM, CONFIG, H200, FACTS)
    assert cache.get(GEMM, PROBLEM, CONFIG, H200) is None


def _write(folder: Path) -> None:
    cache = FactsCache(folder)
    for _ in range(50):
        cache.put(GEMM, PROBLEM, CONFIG, H200, FACTS)


def test_several_processes_may_write_at_once(cache: FactsCache, tmp_path: Path) -> None:
    folder = tmp_path / "facts"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(folder,)) for _ in range(3)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        found = cache.get(GEMM, PROBLEM, CONFIG, H200)
        assert found in (None, FACTS)
        assert found is not None or not seen
        seen += found is not None
    for writer in writers:
        writer.join()
    assert [path.suffix for path in entries(folder)] == [".json"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"smem_bytes": 232_449}, "smem 232449 B > 232448 B on h200"),
        ({"threads": 2048, "registers": 10}, "2048 threads > 1024 a CTA on h200"),
        ({"threads": 512, "registers": 128}, ""),
        (
            {"threads": 512, "registers": 129},
            "129 registers x 512 threads > 65536 registers on h200",
        ),
    ],
)
def test_what_a_gpu_cannot_launch_is_told(changes: dict[str, int], reason: str) -> None:
    assert replace(FACTS, **changes).refusal(H200) == reason  # type: ignore[arg-type]


def test_limits_travel_to_the_compiling_process() -> None:
    assert Limits.from_dict(json.loads(json.dumps(H200.to_dict()))) == H200


def test_facts_are_stored_with_the_trial() -> None:
    outcome = Measurement(status=Status.CORRECT, simulated=False, time_us=2.0, facts=FACTS)
    assert Measurement.from_dict(json.loads(json.dumps(outcome.to_dict()))) == outcome


def test_a_worker_compiles_for_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    target = Target(
        problem=str(PROBLEM), kernel="triton_gemm", device="cuda", seed=0, cache="cold", l2_bytes=1
    )
    with Worker("cpu") as worker:
        compiled = worker.compile(target, CONFIG, H200)
    assert compiled.status is None, compiled.reason
    assert compiled.facts is not None
    assert compiled.facts.mma == "wgmma"
    assert compiled.facts.pipeline_depth == CONFIG.to_dict()["num_stages"]
    assert FactsCache().get(GEMM, PROBLEM, CONFIG, H200) == compiled.facts
