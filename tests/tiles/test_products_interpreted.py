"""Batched and grouped GEMMs: indexing, layouts, masks, scales, tails, in Triton's interpreter."""

import pytest
from own_process import Outcomes, interpreted

pytest.importorskip("torch")
pytest.importorskip("triton")

BATCHED = {
    "block_m": 32,
    "block_n": 64,
    "block_k": 64,
    "group_m": 2,
    "num_warps": 4,
    "num_stages": 2,
    "tma": False,
}
GROUPED = {**BATCHED, "ctas_per_sm": 1}
RECIPES = ("bf16", "e4m3-tensor", "e4m3-row", "deepseek-fp8", "int8-row", "int8-b1x128")
LAYOUTS = ("contiguous", "padded.32", "masked.40", "gathered.2")


def _case(problem: str, **changes: object) -> dict:
    """A case; what is no other field is of the configuration."""
    base = GROUPED if problem.startswith("grouped") else BATCHED
    own = {"decode": False, "seed": 1} | {
        name: changes.pop(name)
        for name in ("decode", "seed", "counts", "again", "bad", "heads")
        if name in changes
    }
    return {"problem": problem, "config": {**base, **changes}, **own}


def _cases() -> dict[str, dict]:
    cases = {}
    for name in RECIPES:
        # Where every scale mode has been, two layouts are enough for those that it shares.
        for layout in LAYOUTS if name in ("deepseek-fp8", "int8-row") else LAYOUTS[::2]:
            # 90 columns and 157 of K leave tails; 3 experts share 60 rows.
            text = f"grouped_gemm:3x60x90x157:{name}:{layout}:fp32"
            cases[f"{name} {layout}"] = _case(text)
        text = f"grouped_gemm:3x60x80x160:{name}:masked.40:fp32"
        cases[f"{name} masked tma"] = _case(text, tma=True, ctas_per_sm=2)
    for name in ("bf16", "int8-b1x128"):
        text = f"grouped_gemm:3x30x80x160:{name}:gathered.2:bf16"
        cases[f"{name} gathered tma"] = _case(text, tma=True, block_m=16)
    for second in ("nk", "kn"):
        for name in ("e4m3-tensor", "int8-row", "deepseek-fp8", "int8-b128"):
            text = f"batched_gemm:2x40x90x157:{name}:{second}:fp32"
            cases[f"{name} {second}"] = _case(text)
        cases[f"bf16 {second}"] = _case(f"batched_gemm:2x40x90x157:bf16:{second}:fp32")
        cases[f"tma {second}"] = _case(f"batched_gemm:2x40x96x128:e4m3-row:{second}:bf16", tma=True)
        text = f"batched_gemm:4x40x50x70:e4m3-row:{second}:fp32"
        cases[f"heads {second}"] = _case(text, heads=2)
        cases[f"decoded {second}"] = _case(text, decode=True)
    cases["heads of blocks"] = _case(
        "batched_gemm:4x20x140x260:deepseek-fp8:nk:fp32", heads=2, block_k=128, block_n=128
    )
    cases["tma with a tail of K"] = _case("batched_gemm:2x40x50x144:int8-row:nk:fp32", tma=True)
    blocks = "deepseek-fp8"
    cases["decoded"] = _case(f"grouped_gemm:3x70x50x141:{blocks}:contiguous:fp32", decode=True)
    whole = f"grouped_gemm:3x70x260x300:{blocks}:contiguous:fp32"
    cases["whole blocks"] = _case(whole, block_k=128, block_n=128)
    for layout in ("contiguous", "padded.16", "masked.64"):
        text = f"grouped_gemm:6x80x50x64:{blocks}:{layout}:fp32"
        cases[f"empty experts {layout}"] = _case(text, counts=[0, 33, 0, 46, 1, 0])
        cases[f"one expert takes all {layout}"] = _case(
            f"grouped_gemm:6x64x50x64:{blocks}:{layout}:fp32", counts=[0, 0, 64, 0, 0, 0]
        )
        cases[f"counts beyond memory {layout}"] = _case(text, bad="counts")
    # Rows keep their place in memory where every one of them is used whatever the counts.
    cases["other counts, same launch"] = _case(
        f"grouped_gemm:6x80x50x64:{blocks}:contiguous:fp32", again=2
    )
    for recipe in (blocks, "int8-row"):
        cases[f"ids beyond memory {recipe}"] = _case(
            f"grouped_gemm:6x80x50x64:{recipe}:gathered.2:fp32", bad="ids"
        )
    cases["other ids, same launch"] = _case(
        f"grouped_gemm:6x80x50x64:{blocks}:gathered.2:fp32", again=2
    )
    cases["every row full"] = _case(
        f"grouped_gemm:4x160x50x64:{blocks}:masked.40:fp32", counts=[40, 40, 40, 40]
    )
    cases["more experts than programs"] = _case("grouped_gemm:17x20x32x32:bf16:contiguous:fp32")
    cases["one row"] = _case("grouped_gemm:7x1x20x40:int8-row:contiguous:fp32", block_m=16)
    cases["one element"] = _case("grouped_gemm:1x1x1x1:int8-row:contiguous:fp32", block_m=16)
    return cases


CASES = _cases()
QUICK = (
    "e4m3-tensor contiguous",
    "deepseek-fp8 padded.32",
    "deepseek-fp8 masked tma",
    "int8-b1x128 masked.40",
    "int8-row gathered.2",
    "bf16 gathered tma",
    "deepseek-fp8 nk",
    "bf16 kn",
    "tma kn",
    "heads nk",
    "decoded nk",
    "decoded",
    "empty experts masked.64",
    "counts beyond memory contiguous",
    "ids beyond memory deepseek-fp8",
    "other ids, same launch",
    "one element",
)


OUTCOMES = Outcomes(CASES, QUICK, interpreted("interpreted_products.py"))


@pytest.mark.parametrize("name", OUTCOMES.parameters())
def test_products_lie_within_their_bounds(name: str) -> None:
    assert OUTCOMES[name]["ok"], OUTCOMES[name]["reason"]


@pytest.mark.parametrize("name", OUTCOMES.parameters(lambda case: case["problem"][-4:] == "fp32"))
def test_interpreted_products_are_as_good_as_fp32(name: str) -> None:
    # The bounds allow for what tensor cores drop; the interpreter drops nothing, so a scale that
    # is off, or a tail left out, cannot hide behind them here.
    assert OUTCOMES[name]["relative_rms"] < 1e-6
