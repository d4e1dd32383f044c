"""Packages with the weight-only product: what ships, packed weights that save, what is refused."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from emit_runs import run_of, study
from imported_package import imported

from tiles.formats import TensorFormat, pack_codes
from tiles.formats.torch_codec import quantize_tensor
from workbench.emission import EmittedPackage, emit

W4, W8 = "gemm:16x64x512:w4a16-g128:bf16", "gemm:64x64x256:w8a16:bf16"
FAMILY = "triton_weight_only"
NAME = "weight_only_pack"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> EmittedPackage:
    run = run_of(*(study(problem, family=FAMILY) for problem in (W4, W8)))
    return emit(run, tmp_path_factory.mktemp("weights") / "kernels", name=NAME)


@pytest.fixture(scope="module")
def module(package: EmittedPackage) -> Iterator[ModuleType]:
    with imported(package.folder, NAME) as found:
        importlib.import_module(f"{NAME}._weight_only")  # which the package imports when asked
        yield found


def _packed(module: ModuleType, n: int = 8, k: int = 256) -> Any:
    quantized = quantize_tensor(torch.randn(n, k), TensorFormat.parse("int4.g128"))
    assert quantized.scales is not None
    codes = pack_codes(quantized.bits, 4)
    return module.pack_weight(codes, quantized.scales.half(), recipe="w4a16-g128")


def test_it_ships_with_its_sources_and_public_names(
    package: EmittedPackage, module: ModuleType
) -> None:
    assert sorted(module.__all__) == [
        "PackedWeight", "PatchReport", "linear_weight_only", "pack_weight", "patch", "unpatch",
    ]  # fmt: skip
    names = {path.name for path in (package.folder / "src" / NAME).rglob("*.py")}
    assert names >= {"_weight_only.py", "_packed_weight.py", "gemm_weight_only.py"}
    assert "_gemm.py" not in names
    evidence = json.loads(package.evidence.read_text())
    assert {entry["problem"] for entry in evidence["entries"]} == {W4, W8}
    assert evidence["not_emitted"] == []
    readme = (package.folder / "README.md").read_text()
    assert 'weight = pack_weight(codes, scales, recipe="w4a16-g128")' in readme


def test_a_packed_weight_survives_safetensors_and_other_modules(
    module: ModuleType, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    model = torch.nn.ModuleDict({"layer": _packed(module), "norm": torch.nn.LayerNorm(8)})
    model.to(torch.bfloat16)  # must not touch codes and scales
    assert model["layer"].scale.dtype == torch.float16
    assert model["layer"].row_scale.dtype == torch.float32
    assert model["norm"].weight.dtype == torch.bfloat16
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    fresh = torch.nn.ModuleDict(
        {"layer": module.PackedWeight(), "norm": torch.nn.LayerNorm(8).to(torch.bfloat16)}
    )
    fresh.load_state_dict(load_file(tmp_path / "model.safetensors"))
    for name in ("codes", "scale", "row_scale"):
        assert torch.equal(getattr(fresh["layer"], name), getattr(model["layer"], name)), name
    assert (fresh["layer"].recipe, fresh["layer"].columns, fresh["layer"].rows) == (
        "w4a16-g128",
        256,
        8,
    )
    assert fresh["layer"].zero is None


def test_a_state_that_lacks_something_or_is_anothers_is_refused(module: ModuleType) -> None:
    state = _packed(module).state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key.*row_scale"):
        module.PackedWeight().load_state_dict({k: v for k, v in state.items() if k != "row_scale"})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        module.PackedWeight().load_state_dict({**state, "other": torch.ones(1)})
    facts = list(json.dumps({"recipe": "mine", "columns": 256}).encode())
    state["facts"] = torch.tensor(facts, dtype=torch.uint8)
    with pytest.raises(ValueError, match="packed for 'mine': this package has w4a16-g128, w8a16"):
        module.PackedWeight().load_state_dict(state)


def test_shapes_alone_need_no_gpu(module: ModuleType) -> None:
    weight = _packed(module).to("meta")
    x = torch.empty(2, 3, 256, dtype=torch.bfloat16, device="meta")
    assert module.linear_weight_only(x, weight).shape == (2, 3, 8)
    assert weight(x).dtype == torch.bfloat16


def test_what_cannot_run_is_refused_in_one_line(module: ModuleType) -> None:
    weight = _packed(module)
    x = torch.zeros(4, 256, dtype=torch.bfloat16)
    good = torch.zeros(8, 128, dtype=torch.uint8), torch.ones(8, 2).half()
    cases: list[tuple[type[Exception], str, Any]] = [
        # Past torch's dispatcher, whose first call takes seconds.
        (ValueError, "x lies on cpu: move it to a GPU", lambda: module._weight_only._launch(
            x, weight.codes, weight.scale, None, weight.row_scale, "w4a16-g128", 256, x)),
        (TypeError, "x must be torch.bfloat16", lambda: module.linear_weight_only(
            x.float(), weight, out_dtype=torch.bfloat16)),
        (ValueError, r"x must be \(..., 256\), got \(4, 128\)", lambda: weight(x[:, :128])),
        (TypeError, "weight is Tensor: make it", lambda: module.linear_weight_only(x, x)),
        (ValueError, "weight is empty", lambda: module.PackedWeight()(x)),
        (ValueError, "there is w4a16-g128 -> bf16, w8a16 -> bf16", lambda: (
            module.linear_weight_only(x, weight, out_dtype=torch.float16))),
        (ValueError, r"out must be \(4, 8\)", lambda: module.linear_weight_only(
            x, weight, out=torch.zeros(4, 9, dtype=torch.bfloat16))),
        (ValueError, "no weight-only recipe 'bf16'", lambda: (
            module.pack_weight(*good, recipe="bf16"))),
        (TypeError, "recipe w4a16-g128 takes torch.float16", lambda: (
            module.pack_weight(good[0], good[1].float(), recipe="w4a16-g128"))),
        (ValueError, r"scales must have shape \(8, 2\)", lambda: (
            module.pack_weight(good[0], good[1][:, :1], recipe="w4a16-g128"))),
    ]  # fmt: skip
    for kind, words, call in cases:
        with pytest.raises(kind, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_gpu_that_cannot_decode_is_refused(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers = module._weight_only
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    properties = SimpleNamespace(name="Tesla T4", multi_processor_count=40)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    with pytest.raises(ValueError, match=re.escape("capability 8.0 and up: Tesla T4 is none")):
        helpers.check_capability("weights are decoded by instructions of", device)
    helpers.check_capability("weights are", torch.device("cpu"))


@pytest.mark.parametrize(
    ("split", "columns", "element", "expected"),
    # 9 panels: 8 shares would be of 2, the last three empty; 5 of 2 are not.
    [(8, 9 * 128, "int4", 5), (4, 133, "int4", 2), (16, 64, "int8", 1), (4, 512, "int4", 4)],
)
def test_a_defaults_split_leaves_no_share_empty(
    module: ModuleType, split: int, columns: int, element: str, expected: int
) -> None:
    assert module._weight_only._whole_shares(split, columns, element) == expected


@pytest.mark.parametrize(("rows", "split"), [(2**18, 4), (2**18 + 1, 1)])
def test_more_tiles_than_are_counted_share_nothing(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, rows: int, split: int
) -> None:
    helpers = importlib.import_module(f"{module.__name__}._weight_only")
    launched: list[int] = []

    def launch(*_: object, config: dict[str, int], workspace: torch.Tensor | None) -> None:
        launched.append(config["split_k"])
        assert (workspace is not None) == (config["split_k"] > 1)

    template = SimpleNamespace(PackedWeight=SimpleNamespace, launch=launch)
    monkeypatch.setattr(helpers, "template", lambda choice: template)
    monkeypatch.setattr(helpers, "zeroed_words", lambda words, *_: torch.zeros(1))
    layout = {"block": (1, 128), "element": "int4", "stored": "fp16"}
    choice = SimpleNamespace(
        file=SimpleNamespace(kernel=FAMILY, layout=layout),
        config={"block_m": 16, "block_n": 32, "split_k": 4},
    )
    parts = (torch.empty(0), None, None, torch.empty(0))
    helpers.run(choice, torch.empty(1), parts, torch.empty((rows, 32), device="meta"), 512)
    assert launched == [split]


def workspaces_of(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, stream: list[int]
) -> tuple[ModuleType, list[int]]:
    """The package's workspaces as on a GPU whose current stream is the list's, and those made."""
    made: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=stream[0])
    )
    monkeypatch.setattr(torch.cuda, "default_stream", lambda _: SimpleNamespace(cuda_stream=0))
    for name in ("zeros", "empty"):
        real = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda n, real=real, **_: made.append(n) or real(n, dtype=torch.int32)
        )
    found = importlib.import_module(f"{module.__name__}._workspace")
    monkeypatch.setattr(found, "_held", {})
    return found, made


def test_launches_of_other_shapes_do_not_count_in_each_others_sums(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspaces, made = workspaces_of(module, monkeypatch, [0])
    assert workspaces.MAX_HELD == 64
    device = torch.device("cuda", 0)
    take = workspaces.zeroed_words
    first = take(100, 32, device)
    assert take(90, 32, device) is first
    assert take(100, 64, device) is not first
    assert take(200, 32, device) is not first
    assert made == [100, 100, 200]


def test_workspaces_of_other_streams_and_large_ones_are_let_go(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A compiler's warm-up for CUDA graphs: not capturing, on its own stream, in a graph's pool.
    stream = [7]
    workspaces, made = workspaces_of(module, monkeypatch, stream)
    device = torch.device("cuda", 0)
    for _ in range(2):
        assert not workspaces.zeroed_words(100, 32, device)[:32].any()
    assert not workspaces._held
    stream[0] = 0
    monkeypatch.setattr(workspaces, "MAX_HELD_WORDS", 1000, raising=False)
    workspaces.zeroed_words(1001, 32, device)
    assert not workspaces._held
    workspaces.zeroed_words(1000, 32, device)
    assert len(workspaces._held) == 1
    assert made == [100, 100, 1001, 1000]
