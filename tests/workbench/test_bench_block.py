"""A block's timing beside its prediction: module, record, refusals, mistakes; on a CPU."""

import json
from pathlib import Path

import pytest

from bench.block import SCHEMA, main, predict
from bench.block_timing import FEWEST, Case, Clock, measure
from workbench.network_models import read_network

torch = pytest.importorskip("torch")

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 1}


@pytest.fixture(params=[LLAMA, GPT], ids=["llama", "gpt"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"{request.param['model_type']}.json"
    path.write_text(json.dumps(request.param))
    return path


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    path = tmp_path / "llama.json"
    path.write_text(json.dumps(LLAMA))
    return path


def made(model: Path, length: int) -> "torch.nn.Module":
    from bench.torch_block import TransformerBlock

    network = read_network(str(model), length)
    return TransformerBlock(network.block, length, dtype=torch.float32, device="cpu")


def test_the_module_has_the_networks_weights_and_gradients(model: Path) -> None:
    block = made(model, 8)
    extents = read_network(str(model), 8).block
    learned = sum(one.numel() for one in block.parameters())
    assert learned == extents.parameters - extents.bias_elements
    x = torch.randn(2, 8, 64, requires_grad=True)
    block(x).sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in block.parameters())
    assert x.grad is not None


def test_no_token_sees_a_later_one(model: Path) -> None:
    block = made(model, 8)
    x = torch.randn(1, 8, 64)
    changed = x.clone()
    changed[:, 5:] += 1.0
    with torch.no_grad():
        before, after = block(x), block(changed)
    assert (before[:, :5] - after[:, :5]).abs().max() < 1e-5
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 0.01


def test_products_are_those_that_the_prediction_counts(model: Path) -> None:
    block = made(model, 16)
    seen: list[tuple[int, int, int]] = []
    for linear in block.linears.values():
        linear.register_forward_hook(
            lambda one, given, out: seen.append(
                (given[0].numel() // one.in_features, one.out_features, one.in_features)
            )
        )
    with torch.no_grad():
        block(torch.randn(2, 16, 64))
    extents = read_network(str(model), 16).block
    assert seen == [(32, one.n, one.k) for one in extents.linears]


def test_a_prediction_is_one_layers(llama: Path) -> None:
    case = Case(model=str(llama), sequences=2, length=64)
    found = predict(case, "h200")
    forward, both = found["forward"], found["forward_backward"]
    low, high = both["predicted_interval_us"]
    assert 0 < low < both["predicted_us"] < high
    assert forward["predicted_us"] < both["predicted_us"]
    llama.write_text(json.dumps({**LLAMA, "num_hidden_layers": 1}))
    again = predict(case, "h200")
    assert again["forward_backward"]["predicted_us"] == pytest.approx(both["predicted_us"])
    assert again["predicted_step_bytes"] == found["predicted_step_bytes"]


def test_graphs_are_refused_where_there_is_no_device(llama: Path) -> None:
    case = Case(model=str(llama), sequences=1, length=8)
    found = measure(case, "cpu", ["eager", "eager-graph"], Clock("cpu", 0.0))
    for phase in ("forward", "forward_backward"):
        eager = found[phase]["eager"]
        assert eager["measured_us"] > 0
        assert len(eager["samples_us"]) >= FEWEST
        assert eager["peak_bytes"] is None
        assert found[phase]["eager-graph"] == {
            "refused": "RuntimeError: CUDA graphs need a CUDA device"
        }


def test_steps_compute_every_gradient_and_add_to_none(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[torch.nn.Module] = []
    asked: list[object] = []

    def compiled(block: torch.nn.Module, **options: object) -> torch.nn.Module:
        blocks.append(block)
        asked.append(options)
        for one in block.parameters():
            one.register_hook(lambda grad: computed.append(tuple(grad.shape)))
        return block

    computed: list[tuple[int, ...]] = []
    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(torch.compiler, "reset", lambda: asked.append("reset"))
    found = measure(
        Case(model=str(llama), sequences=1, length=8), "cpu", ["compiled"], Clock("cpu", 0.0)
    )
    assert found["forward_backward"]["compiled"]["measured_us"] > 0
    # Of every case anew and of its own extents: else later ones are compiled with symbolic ones.
    assert asked == ["reset", {"dynamic": False}]
    (block,) = blocks
    parameters = list(block.parameters())
    assert {tuple(one.shape) for one in parameters} == set(computed)
    assert all(one.grad is None for one in parameters)


def run(model: Path, output: Path, *options: str) -> int:
    common = ["--device", "cpu", "--settle-s", "0", "--variants", "eager"]
    return main([*common, "--output", str(output), "--case", f"{model}:1x8", *options])


def test_the_record_holds_predicted_and_measured_apart_and_goes_on(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "block.json"
    assert run(llama, path) == 0
    assert "llama 1x8, forward_backward, eager: predicted " in capsys.readouterr().out
    first = json.loads(path.read_text())
    assert run(llama, path) == 0  # what is there is not measured again
    assert json.loads(path.read_text()) == first
    assert first["schema"] == SCHEMA
    (row,) = first["rows"]
    assert row["case"] == "llama 1x8"
    assert "measured_us" not in json.dumps(row["predicted"])
    assert "predicted" not in json.dumps(row["measured"])
    error = row["error_of_prediction"]["forward"]["eager"]
    assert error == pytest.approx(
        row["predicted"]["forward"]["predicted_us"]
        / row["measured"]["forward"]["eager"]["measured_us"]
        - 1
    )


def test_variants_that_a_record_lacks_are_measured_later(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "block.json"
    assert run(llama, path) == 0
    (first,) = json.loads(path.read_text())["rows"]
    assert run(llama, path, "--variants", "eager", "eager-graph") == 0
    record = json.loads(path.read_text())
    (row,) = record["rows"]
    for phase, variants in row["measured"].items():
        assert variants["eager"] == first["measured"][phase]["eager"]
        assert "refused" in variants["eager-graph"]
    variants["eager"] = {"refused": "OutOfMemoryError: of that moment"}
    path.write_text(json.dumps(record))
    assert run(llama, path) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert all("measured_us" in one["eager"] for one in row["measured"].values())
    record["sessions"][0]["environment"]["gpu"] = "another"
    path.write_text(json.dumps(record))
    assert run(llama, path) == 2


def test_a_block_in_codes_is_timed_beside_torchs_and_no_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = tmp_path / "gpt.json", tmp_path / "block.json"
    model.write_text(json.dumps(GPT))
    variants = ("eager", "jetfire-128", "jetfire-128-graph")
    assert run(model, path, "--variants", *variants) == 0
    (row,) = json.loads(path.read_text())["rows"]
    for phase, measured in row["measured"].items():
        assert measured["jetfire-128"]["measured_us"] > 0
        assert "CUDA graphs" in measured["jetfire-128-graph"]["refused"]
        assert set(row["error_of_prediction"][phase]) == {"eager"}
    said = [line for line in capsys.readouterr().out.splitlines() if "jetfire-128: " in line]
    assert len(said) == 2
    assert all("predicted" not in line and " x eager" in line for line in said)


def test_a_block_in_codes_of_a_rotated_model_says_why_there_is_none(llama: Path) -> None:
    case = Case(model=str(llama), sequences=1, length=8)
    found = measure(case, "cpu", ["jetfire"], Clock("cpu", 0.0))
    assert "block rotates nothing" in found["forward"]["jetfire"]["refused"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--case", "model.json"], "--case model.json: write MODEL.json:SEQUENCESxLENGTH"),
        (["--case", "gone.json:1x8"], "gone.json"),
        (["--variants", "eager", "lazy"], "variant lazy: choose among eager, eager-graph"),
        (["--gpu", "h2000"], "unknown gpu"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    output = ["--device", "cpu", "--output", str(tmp_path / "block.json"), "--time-limit", "1m"]
    assert main([*output, *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "block.json").exists()
