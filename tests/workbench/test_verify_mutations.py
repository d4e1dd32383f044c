"""Small faults in an emitted kernel that verification sees without a GPU."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from emit_runs import reseal, run_of, study

from workbench.emission import emit
from workbench.verification import Outcome, verify

RECIPES = ("bf16", "e4m3-row", "deepseek-fp8", "int8-b128", "jetfire", "e5m2-row")
KERNELS = "src/tile_pack/kernels/triton"


def _failed(
    folder: Path, recipes: Sequence[str], file: str, old: str, new: str
) -> dict[str, set[str]]:
    """By recipe, the checks that fail once ``old`` reads ``new`` in a package of the recipes."""
    made = (study(f"gemm:48x64x256:{name}:bf16") for name in recipes)
    package = emit(run_of(*made), folder / "kernels", name="tile_pack").folder
    path = package / KERNELS / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    reseal(package)
    checks = verify(package, device="cpu", seed=3).checks
    bad = [c.name for c in checks if c.status is Outcome.FAILED]
    return {name: {one for one in bad if f":{name}:bf16" in one} for name in recipes}


@pytest.mark.slow
def test_results_one_per_cent_too_large_fail_for_every_recipe(tmp_path: Path) -> None:
    old = "acc = acc.to(tl.float32)\n"
    new = old.replace("\n", " * 1.01\n")
    failed = _failed(tmp_path, RECIPES, "gemm_epilogue.py", old, new)
    assert all(failed.values()), failed


@pytest.mark.slow
def test_the_third_scale_block_along_k_is_read(tmp_path: Path) -> None:
    old = "next_step // (A_COLS // BLOCK_K),"
    new = "tl.minimum(next_step // (A_COLS // BLOCK_K), 1),"
    failed = _failed(tmp_path, ("deepseek-fp8", "int8-b128"), "gemm_tile.py", old, new)
    assert all(any("outlier per block" in one for one in bad) for bad in failed.values()), failed
    assert all(any("tails" in one for one in bad) for bad in failed.values()), failed


def _spoil_a_default(package: Path, pattern: str, m: int, key: str, value: int) -> None:
    (path,) = (package / "src/tile_pack/configs").glob(pattern)
    data = json.loads(path.read_text())
    (entry,) = [one for one in data["entries"] if one["m"] == m]
    entry["config"][key] = value
    path.write_text(json.dumps(data))


@pytest.mark.slow
def test_every_default_configuration_is_launched(tmp_path: Path) -> None:
    made = (
        study("gemm:48x64x256:int8-row:bf16"),
        study("quantize:64x256:int8.row:bf16", family="triton_quantize"),
    )
    package = emit(run_of(*made), tmp_path / "kernels", name="tile_pack").folder
    # No extents of two powers of two: the launchers refuse them.
    _spoil_a_default(package, "triton_gemm-*-default.json", 4096, "block_m", 48)
    _spoil_a_default(package, "triton_quantize-*-default-h200.json", 1024, "block_cols", 48)
    reseal(package)
    failed = [c.name for c in verify(package, device="cpu").checks if c.status is Outcome.FAILED]
    assert failed == [
        "triton_gemm int8-row bf16: default for M = 4096 on any GPU",
        "triton_quantize int8.row bf16: default for M = 1024 on h200",
    ]


@pytest.mark.slow
def test_an_infinity_that_becomes_a_number_fails(tmp_path: Path) -> None:
    old = "acc = acc.to(tl.float32)\n"
    new = old + '    acc = tl.where(tl.abs(acc) == float("inf"), 3e38, acc)\n'
    recipes = ("bf16", "e5m2-b128")  # without scales, and with
    failed = _failed(tmp_path, recipes, "gemm_epilogue.py", old, new)
    assert failed == {
        name: {f"triton_gemm gemm:48x64x256:{name}:bf16: infinity"} for name in recipes
    }
