"""The scaled GEMM's indexing, masks, scales and tails, under Triton's interpreter."""

import json

import pytest
from own_process import lines_of

from sim import load_gpu
from tiles.kernels import kernel
from tiles.problems import Gemm
from tiles.recipes import RECIPES

pytest.importorskip("torch")
pytest.importorskip("triton")

SMALL = {
    "block_m": 32,
    "block_n": 64,
    "block_k": 32,
    "group_m": 2,
    "num_warps": 4,
    "num_stages": 2,
    "tma": False,
    "persistent": False,
}


#: How scales lie, once each: the loop over tiles is the same for all.
PERSISTENT = ("bf16", "e4m3-row", "deepseek-fp8", "int8-b128", "jetfire")


def _case(
    problem: str,
    *,
    formats: tuple[str, str] | None = None,
    decode: bool = False,
    seed: int = 0,
    guarded: bool = False,
    **config: int | bool,
) -> dict:
    shared = {"problem": problem, "formats": formats, "decode": decode}
    shared |= {"seed": seed, "guarded": guarded}
    return {**shared, "config": {**SMALL, **config}}


def _cases() -> dict[str, dict]:
    cases = {}
    limits = load_gpu("h200").limits
    # Recipes of the same operands share a product.
    products = {(r.activation, r.weight): r for r in reversed(RECIPES.values())}
    for recipe in products.values():
        name = recipe.name
        if kernel("triton_gemm").refusal(Gemm(m=70, n=88, k=176, recipe=recipe), limits):
            continue
        # 70 x 50 x 157 leaves a tail in every extent of tile and quantisation block.
        cases[f"{name} tails"] = _case(f"gemm:70x50x157:{name}:fp32")
        cases[f"{name} tma"] = _case(f"gemm:70x88x176:{name}:bf16", tma=True)
        if name not in PERSISTENT:
            continue
        cases[f"{name} tails persistent"] = _case(f"gemm:70x50x157:{name}:fp32", persistent=True)
        cases[f"{name} tma persistent"] = _case(
            f"gemm:130x136x160:{name}:fp32",
            tma=True,
            persistent=True,
            block_m=128,
            block_n=128,
        )
    for name in ("e4m3-tensor", "e5m2-row", "deepseek-fp8", "e5m2-b128", "unit-scaling"):
        cases[f"{name} decoded"] = _case(f"gemm:40x50x141:{name}:fp32", decode=True)
    for name in ("deepseek-fp8", "int8-b128"):
        # One K-iteration a quantisation block; a tile wider than a weight block.
        cases[f"{name} whole blocks"] = _case(
            f"gemm:33x260x300:{name}:fp32", block_k=128, block_n=256
        )
    for activation, weight in (
        ("e4m3fn.b1x128", "e5m2.tensor"),
        ("e5m2.row", "e4m3fn.b128x128"),
        ("int8.b32x32", "int8.row"),
        ("int8.tensor", "int8.b64x96"),
        ("e4m3fn", "e4m3fn.row"),
        ("e5m2.tensor", "e4m3fn"),
    ):
        # Scales that change along K on one side alone, or that one side does not have.
        cases[f"{activation} by {weight}"] = _case(
            "gemm:70x50x157:bf16:fp32", formats=(activation, weight)
        )
    # Three programs share tiles of 11 steps: shares begin and end within tiles.
    for name in ("int8-row", "deepseek-fp8"):
        cases[f"{name} split"] = _case(f"gemm:70x50x157:{name}:fp32", split_k=2)
    cases["a share is empty"] = _case("gemm:40x45x140:e4m3-row:fp32", split_k=4)
    # It begins behind the last column of scales, and must not read there.
    cases["a share of blocks is empty"] = _case(
        "gemm:40x45x256:int8-b128:fp32", split_k=5, guarded=True
    )
    shared = {"persistent": True, "stream_k": True}
    cases["int8-row stream"] = _case("gemm:70x45x333:int8-row:fp32", block_n=32, **shared)
    cases["int8-b128 stream"] = _case(
        "gemm:70x48x336:int8-b128:fp32", block_n=32, tma=True, **shared
    )
    cases["few steps for many programs"] = _case("gemm:20x30x60:bf16:fp32", **shared)
    for name in ("deepseek-fp8", "jetfire"):
        cases[f"{name} overlap"] = _case(f"gemm:70x50x157:{name}:fp32", overlap=True)
    cases["overlap in shares"] = _case("gemm:40x50x300:int8-b128:fp32", overlap=True, split_k=3)
    cases["four parts"] = _case(
        "gemm:70x80x64:e4m3-row:fp32", tma=True, persistent=True, subtiles=4
    )
    cases["specialized"] = _case(
        "gemm:150x80x160:deepseek-fp8:fp32", tma=True, specialize=True, block_m=128
    )
    assert all(f"{name} tma persistent" in cases for name in PERSISTENT)
    cases["jetfire small tile"] = _case("gemm:50x50x90:jetfire:fp32", block_m=16, block_n=16)
    cases["one row"] = _case("gemm:1x70x129:e4m3-row:fp16", block_m=16)
    cases["one element"] = _case("gemm:1x1x1:int8-row:fp32", block_m=16)
    return cases


CASES = _cases()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict]:
    told = lines_of("interpreted_gemms.py", stdin=json.dumps(list(CASES.values())), interpret=True)
    return dict(zip(CASES, json.loads("".join(told)), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_product_lies_within_its_bounds(outcomes: dict[str, dict], name: str) -> None:
    assert outcomes[name]["ok"], outcomes[name]["reason"]


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name]["problem"][-4:] == "fp32"])
def test_interpreted_product_is_as_good_as_fp32(outcomes: dict[str, dict], name: str) -> None:
    # The bounds allow for what tensor cores drop; the interpreter drops nothing, so a scale that
    # is off, or a tail left out, cannot hide behind them here.
    assert outcomes[name]["relative_rms"] < 1e-6
