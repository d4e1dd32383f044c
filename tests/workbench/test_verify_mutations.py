"""Small faults in an emitted kernel that verification sees without a GPU."""

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
    return {name: {one for one in bad if f":{name}:" in one} for name in recipes}


@pytest.mark.slow
def test_results_one_per_cent_too_large_fail_for_every_recipe(tmp_path: Path) -> None:
    old = "acc = acc.to(tl.float32)\n"
    new = old.replace("\n", " * 1.01\n")
    failed = _failed(tmp_path, RECIPES, "gemm_scaled.py", old, new)
    assert all(failed.values()), failed


@pytest.mark.slow
def test_the_third_scale_block_along_k_is_read(tmp_path: Path) -> None:
    old = "next_step // (A_COLS // BLOCK_K),"
    new = "tl.minimum(next_step // (A_COLS // BLOCK_K), 1),"
    failed = _failed(tmp_path, ("deepseek-fp8", "int8-b128"), "gemm_tile.py", old, new)
    assert all(any("outlier per block" in one for one in bad) for bad in failed.values()), failed
    assert all(any("tails" in one for one in bad) for bad in failed.values()), failed
