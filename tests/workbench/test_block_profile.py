"""What a block's step spends its time in: kernels with their launches; mistakes; on a CPU."""

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
from bench.block_profile import Spent, main, table

GPT = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 1}


@pytest.fixture
def case(tmp_path: Path) -> str:
    path = tmp_path / "gpt.json"
    path.write_text(json.dumps(GPT))
    return f"{path}:2x16"


def test_every_product_of_the_block_is_listed(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "profile.json"
    given = ["--case", case, "--variant", "eager", "--device", "cpu", "--output", str(output)]
    assert main(given) == 0
    record = json.loads(output.read_text())
    assert record["command"].endswith("--variant eager --device cpu --output profile.json")
    times = [one["time_us"] for one in record["kernels"]]
    assert times == sorted(times, reverse=True)
    launches = {one["kernel"]: one["launches"] for one in record["kernels"]}
    # qkv, output, up and down: a product forward and two backward each.
    assert launches["aten::mm"] == 12
    assert "aten::mm" in capsys.readouterr().out


def test_the_sum_closes_the_table() -> None:
    spent = [
        Spent(kernel="gemm", launches=12, time_us=9000.0),
        Spent(kernel="copy", launches=1, time_us=500.0),
    ]
    assert [line.split()[0] for line in table(spent)] == ["9.000", "0.500", "9.500"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--case": "gpt.json"}, "--case gpt.json: write MODEL.json:SEQUENCESxLENGTH"),
        ({"--case": "none.json:1x8"}, "none.json"),
    ],
)
def test_mistakes_are_told(
    change: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"--variant": "eager", "--device": "cpu", "--output": str(tmp_path / "out.json")}
    given = [word for pair in (options | change).items() for word in pair]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
