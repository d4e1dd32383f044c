"""Kernel families of other distributions, through predictions and sweeps."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import Call, is_mistake
from kernel_plugin import PluginConfig, PricedPlugin, UnpricedPlugin, offer

import sim
import workbench
from tiles.kernels import ConfigTable, kernels
from tiles.kernels.registry import kernels as registered
from tiles.problems import Gemm
from tiles.recipes import recipe
from tuning.candidates import pricing

H200 = sim.load_gpu("h200")
BF16 = Gemm(m=512, n=512, k=512, recipe=recipe("bf16"))
SWEEP = """
schema: 1
gpu: h200
problems: [{shape: [512, 512, 512]}]
recipes: [bf16]
search: {max_measurements: 2}
"""


@pytest.fixture
def fresh() -> Iterator[None]:
    """The registry is read anew, before and after."""
    registered.cache_clear()
    yield
    registered.cache_clear()


@pytest.fixture
def plugins(fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with two families: one prices itself, the other cannot be priced."""
    names = ("UnpricedPlugin", "PricedPlugin")
    where = offer(tmp_path / "site", *(f"kernel_plugin:{name}" for name in names))
    monkeypatch.syspath_prepend(str(where))


def sweep_file(folder: Path, more: str = "") -> Path:
    path = folder / "sweep.yaml"
    path.write_text(SWEEP + more)
    return path


@pytest.mark.usefixtures("plugins")
def test_a_family_with_a_cost_model_is_predicted_and_one_without_is_refused() -> None:
    assert {"plugin", "plugin_priced"} < set(kernels())
    (row,) = workbench.predict(shapes=["512x512x512"], recipes=["bf16"]).rows
    assert (row.gemm.kernel, row.gemm.config) == ("plugin_priced", PluginConfig(rows=1))
    assert (row.gemm.binding, row.gemm.time_us) == ("luck", 0.01)
    assert row.gemm.low_us < 0.01 < row.gemm.high_us
    alone = workbench.predict(shapes=["512x512x512"], recipes=["bf16"], families=["plugin"])
    (refused,) = alone.refused
    assert refused.reason.startswith("plugin has no cost model for gemm problems: measure it")


@pytest.mark.usefixtures("plugins")
def test_a_simulated_sweep_leaves_out_what_nothing_prices_and_says_so(tmp_path: Path) -> None:
    file = sweep_file(tmp_path)
    (told,) = workbench.unserved(file, on="sim")
    assert told.startswith("plugin has no cost model")
    assert workbench.unserved(file, on="gpu") == []
    run = workbench.sweep(file, on="sim", output=tmp_path / "run")
    assert {study.kernel for study in run.studies} == {
        "triton_gemm",
        "hopper_gemm",
        "hopper_skinny_gemm",
        "plugin_priced",
    }


@pytest.mark.usefixtures("plugins")
def test_a_simulated_sweep_refuses_a_family_that_was_asked_for(tmp_path: Path) -> None:
    file = sweep_file(tmp_path, "kernels: [plugin]\n")
    with pytest.raises(ValueError, match="plugin has no cost model for gemm problems"):
        workbench.sweep(file, on="sim", output=tmp_path / "run")
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("missing_module:Kernel", "No module named 'missing_module'"),
        ("kernel_plugin:Missing", "has no attribute 'Missing'"),
        ("kernel_plugin:", "cannot be loaded"),
        ("broken_module:Kernel", "SyntaxError"),
    ],
)
@pytest.mark.parametrize("group", ["kernels", "formats"])
def test_an_entry_point_that_does_not_load_is_one_line_with_its_distribution(
    target: str,
    reason: str,
    group: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
) -> None:
    where = offer(tmp_path, target, group=f"tile_workbench.{group}")
    (where / "broken_module.py").write_text("def\n")
    monkeypatch.syspath_prepend(str(where))
    verb = ["predict", "--shape", "64x64x64"]
    if group == "formats":
        verb = ["error", "--format", "entry0.row", "--shape", "64x64"]
    is_mistake(call(*verb), reason, "plugin-kernels", "repair or uninstall")


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("target", ["kernel_plugin:offer", "kernel_plugin:__all__"])
def test_an_entry_point_that_makes_no_kernel_is_refused(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(offer(tmp_path, target)))
    with pytest.raises(ValueError, match=r"cannot be called .*: name a Kernel's class"):
        kernels()


def test_without_a_cost_model_all_configurations_tie_at_the_roofline() -> None:
    family = UnpricedPlugin()
    table = family.legal_space(BF16, H200.limits).accepted
    with pytest.raises(ValueError, match="plugin has no cost model"):
        sim.price(BF16, family, table, H200)
    assert pricing(BF16, family) is sim.roofline
    large = Gemm(m=8192, n=8192, k=8192, recipe=recipe("bf16"))
    priced = sim.roofline(large, family, table, H200)
    # 2 x 8192^3 / (4096 flop/clk x 132 SMs x 1.98 GHz), the H200's dense peak in bf16.
    assert priced.time_us == pytest.approx([2 * 8192**3 / (4096 * 132 * 1.98e3)] * 3)
    assert (priced.low_us <= priced.time_us).all()
    assert (priced.time_us < priced.high_us).all()
    assert priced.best().binding == "tensor"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"time_us": np.array([1.0])}, r"time_us of shape \(1,\): return one number for each of"),
        ({"time_us": np.array([1.0, np.nan, 1.0])}, "time_us = nan: return finite numbers"),
        ({"time_us": np.zeros(3)}, "time_us = 0: return positive times"),
        ({"terms_us": {}}, "names no term"),
        ({"l2_read_bytes": np.full(3, -1.0)}, "l2_read_bytes = -1.0"),
        (None, "cost\\(\\) returned dict: return sim.Cost"),
    ],
)
def test_a_cost_that_nothing_can_have_is_refused(
    changes: dict[str, object] | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = PricedPlugin()
    table: ConfigTable = family.space(BF16, H200.limits)
    good = family.cost(BF16, table, H200, {})
    fields = {name: getattr(good, name) for name in good.__slots__}
    answer = {} if changes is None else sim.Cost(**{**fields, **changes})
    monkeypatch.setattr(PricedPlugin, "cost", lambda *_: answer)
    with pytest.raises(ValueError, match=reason):
        sim.price(BF16, family, table, H200)
