"""Packages with ``patch``: what ships, is verified, compiles and runs; the guide."""

import doctest
import importlib
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from imported_package import imported
from patched_models import (
    HIDDEN,
    INNER,
    SCALED,
    emitted,
    mlp,
)
from patched_package import NAME, module, nothing_warned_yet, package

from workbench.emission import EmittedPackage, emit
from workbench.verification.smoke.patch import smoke

__all__ = ["module", "nothing_warned_yet", "package"]


@pytest.mark.slow
def test_a_package_that_cannot_quantise_activations_says_what_to_sweep(tmp_path: Path) -> None:
    both = study("gemm:64x64x128:int8-row:bf16"), study("gemm:64x64x128:deepseek-fp8:bf16")
    made = emit(run_of(*both), tmp_path / "bare", name="patch_bare")
    readme = (made.folder / "README.md").read_text()
    assert "There is no `patch` for models here" in readme
    assert "with `triton_quantize` or `cuda_quantize` for\ne4m3fn.b1x128, int8.row too" in readme
    with imported(made.folder, "patch_bare") as bare:
        assert "patch" not in bare.__all__
        with pytest.raises(AttributeError, match="emitted without 'patch': its README"):
            _ = bare.patch
    some = emit(
        run_of(
            *both,
            study("quantize:64x128:int8.row:bf16", family="triton_quantize"),
        ),
        tmp_path / "some",
        name="patch_some",
    )
    with imported(some.folder, "patch_some") as module:
        wanted = (
            "recipe 'deepseek-fp8': the package cannot quantise bf16 activations: sweep "
            "quantize:ROWSxCOLUMNS:e4m3fn.b1x128:bf16 with triton_quantize or "
            "cuda_quantize too, and emit again; "
            "there is int8-row"
        )
        with pytest.raises(ValueError, match=wanted):
            module.patch(mlp(), "deepseek-fp8")


def test_the_readme_shows_it_and_its_files_ship(package: EmittedPackage) -> None:
    readme = (package.folder / "README.md").read_text()
    assert "print(patch(model))" in readme
    part = readme.split("## Patching a model")[1].split("\n## ")[0]
    for limit in (
        "no layer has a derivative",
        "what a model loses in accuracy is not measured here",
        "T5's `wo`, Mamba's projections",
        "the entries are for NVIDIA H200 SXM 141 GB.",
        "`undo=False` lets go of them",
    ):
        assert limit in part, limit
    folder = package.folder / "src" / NAME
    for path in folder.glob("_*.py"):
        text = path.read_text()
        for line in text.splitlines():
            words = line.split()
            # Inside of functions they ship with what calls them.
            if line.startswith("from ._"):
                assert (folder / f"{words[1][1:]}.py").exists(), (path, line)
            for other in ("numpy", "workbench", "tuning", "tiles"):
                assert f"import {other}" not in line, (path, line)
                assert not line.lstrip().startswith(f"from {other}"), (path, line)


COMPILED = """
import sys
sys.path[:0] = sys.argv[1:3]
import torch
import patch_pack
from patched_models import HIDDEN, mlp, reference_as_kernels

reference_as_kernels("patch_pack")
model, x = mlp(), torch.randn(3, 5, HIDDEN).bfloat16()
patch_pack.patch(model, "deepseek-fp8")
compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
with torch.no_grad():
    for rows in (2, 3):
        assert torch.equal(compiled(x[:rows]), model(x[:rows]))
    assert model(x[:0]).shape == (0, 5, 48)
    patch_pack.unpatch(model)
    patch_pack.patch(model, "w4a16-g128")
    # Shapes alone: its operator has no reference here.
    model, x = model.to("meta"), x.to("meta")
    found = torch.compile(model, fullgraph=True, backend="eager")(x)
    assert (found.shape, found.dtype) == ((3, 5, 48), torch.bfloat16)
"""


def test_verification_calls_every_recipe_and_sees_wrong_weights(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = importlib.import_module(f"{NAME}._linear_recipes")
    known, refused = recipes.linear_recipes()
    scaled = {name: one for name, one in known.items() if name in SCALED}  # those run here
    monkeypatch.setattr(recipes, "linear_recipes", lambda: (scaled, refused))
    assert smoke(module, "cpu") == 4
    inside = importlib.import_module(f"{NAME}._patch")
    right = inside.quantize_weight

    def wrong(*given: Any) -> Any:
        codes, scales = right(*given)
        return codes, scales * 1.5

    monkeypatch.setattr(inside, "quantize_weight", wrong)
    with pytest.raises(ValueError, match=r"a layer patched with .* is off by 0\.[3-6]"):
        smoke(module, "cpu")


@pytest.mark.slow
def test_a_patched_model_is_one_graph(package: EmittedPackage) -> None:
    """In a process of its own, where the operators run the reference."""
    _run(COMPILED, package, str(Path(__file__).parent))


@pytest.mark.slow
def test_t5_and_mamba_run_with_what_they_read_left_plain(module: ModuleType) -> None:
    import transformers

    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            d_model=HIDDEN, d_kv=64, d_ff=INNER, num_layers=1, num_heads=2, vocab_size=64
        )
    )
    mamba = transformers.MambaForCausalLM(
        transformers.MambaConfig(
            hidden_size=HIDDEN, state_size=16, num_hidden_layers=1, vocab_size=64
        )
    )
    ids = torch.arange(12).view(2, 6)
    for model, left, more in (
        (t5, {"wo": "T5DenseActDense"}, {"decoder_input_ids": ids}),
        (mamba, dict.fromkeys(("x_proj", "dt_proj", "out_proj"), "MambaMixer"), {}),
    ):
        model.to(torch.bfloat16).eval()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of extents that were never tuned, kernels not there
            before = model(ids, **more)[0].double()
            report = module.patch(model, "int8-row")
            after = model(ids, **more)[0].double()
        assert 0 < (after - before).norm() < 0.1 * before.norm()
        reasons = {one.name.rsplit(".", 1)[-1]: one.reason for one in report.left}
        assert reasons.pop("lm_head") == "kept by 'lm_head'"
        assert reasons == {k: f"{v} reads its weight by itself" for k, v in left.items()}


@pytest.mark.slow
def test_attention_and_mlp_of_transformers_are_replaced(module: ModuleType) -> None:
    import transformers

    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "vocab_size": 64}
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**sizes, **heads, num_key_value_heads=2)
    )
    bert = transformers.BertModel(transformers.BertConfig(**sizes, **heads))
    gpt = transformers.GPT2Model(
        transformers.GPT2Config(n_embd=HIDDEN, n_layer=1, n_head=2, n_inner=INNER, vocab_size=64)
    )
    wanted = {
        llama: {
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
        },
        bert: {"query", "key", "value", "dense"},
        gpt: {"c_attn", "c_proj", "c_fc"},
    }  # fmt: skip
    ids = torch.arange(12).view(2, 6)
    for model, names in wanted.items():
        model.to(torch.bfloat16).eval()
        with torch.no_grad():
            before = model(ids)[0].double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of extents that were never tuned
            report = module.patch(model, "int8-row")
        assert {one.name.rsplit(".", 1)[1] for one in report.replaced} == names
        with torch.no_grad():
            after = model(ids)[0].double()
        assert 0 < (after - before).norm() < 0.1 * before.norm()
        module.unpatch(model)
        with torch.no_grad():
            assert torch.equal(model(ids)[0].double(), before)
    assert {one.name for one in module.patch(llama, "int8-row", keep=("mlp", "lm_head")).left} == {
        "model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj",
        "model.layers.0.mlp.down_proj", "lm_head",
    }  # fmt: skip


#: Runs with the emitted module on sys.path[0]; prints nothing and exits 0 when all holds.
SCRIPT = """
import sys, warnings
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
import patch_pack

def values(codes, scales, block):
    spread = scales.double().repeat_interleave(block[0] or len(codes), 0)[: len(codes)]
    return codes.double() * spread.repeat_interleave(block[1] or 128, 1)[:, : codes.shape[1]]

torch.manual_seed(0)
# The interpreter's conversions to 8-bit floats do not round to nearest.
for name, limit, blocks in (
    ("deepseek-fp8", 0.1, ((1, 128), (128, 128))),
    ("w4a16-g128", 0.12, None),
):
    model = nn.Sequential(nn.Linear(128, 192), nn.ReLU(), nn.Linear(192, 128, bias=False))
    model = model.bfloat16().eval()
    x = torch.randn(2, 9, 128).bfloat16()
    with torch.no_grad():
        plain = model(x)
        report = patch_pack.patch(model, name)
        assert [one.tuned for one in report.replaced] == [True, True]
        found = model(x)
        off = (found.double() - plain.double()).norm() / plain.double().norm()
        assert 0 < off < limit, (name, off)
        if blocks is None:
            continue
        layer = model[0]
        a = values(*patch_pack.quantize(x.view(18, 128), layer.activation), blocks[0])
        exact = a @ values(layer.codes, layer.scales, blocks[1]).T + layer.bias.double()
        off = (layer(x).view(18, 192).double() - exact).norm() / exact.norm()
        assert off < 2**-8, (name, off)
for loaded in ("tiles", "sim", "tuning", "workbench"):
    assert loaded not in sys.modules, loaded
"""


@pytest.mark.slow
def test_patched_models_run_the_kernels_of_the_package(package: EmittedPackage) -> None:
    _run(SCRIPT, package, TRITON_INTERPRET="1")


def _run(script: str, package: EmittedPackage, *folders: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script, str(package.folder / "src"), *folders],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_guide_shows_what_happens(tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "patch.md"
    text = page.read_text(encoding="utf-8")
    with imported(emitted(tmp_path / "out", "tile_kernels").folder, "tile_kernels"):
        test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
        assert len(test.examples) >= 9
        assert doctest.DocTestRunner().run(test).failed == 0
