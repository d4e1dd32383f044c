"""Formats ranked on a checkpoint: the known best one wins, slices count as the whole does."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_report import Page
from weight_files import HOSTILE, known_checkpoint, normal

import workbench
from sim.error import ErrorSums, numpy_rounder, tensor_error
from tiles.formats import TensorFormat
from workbench.checkpoint import Checkpoint
from workbench.cli import main
from workbench.slices import Extremes, add_slice, slices_alike
from workbench.weights import LayerStatus, candidate_formats, printable

FORMATS = ("e4m3fn.tensor", "int8.row", "int8.b32x32")
BEST = {
    "layers.1.floats.weight": "e4m3fn.tensor",
    "layers.2.rows.weight": "int8.row",
    "layers.10.blocks.weight": "int8.b32x32",
}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["workbench", "error", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


class WeightsPage(Page):
    """The page about a checkpoint."""

    @property
    def figures(self) -> dict[str, Any]:
        parsed = json.loads(self.scripts[0])
        assert parsed["schema"] == "tile-workbench/weights-page/1"
        return {figure["key"]: figure["views"] for figure in parsed["figures"]}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return known_checkpoint(tmp_path_factory.mktemp("known") / "model.safetensors")


def test_the_format_that_keeps_a_layer_is_found(known: Path) -> None:
    report = workbench.error(weights=known, formats=FORMATS).weights
    assert report is not None
    # Natural order: layer 2 stands before layer 10.
    assert [layer.tensor.name for layer in report.ranked] == list(BEST)
    for layer in report.ranked:
        exact = [str(e.format) for e in layer.errors if e.error and e.error.sqnr_db == np.inf]
        assert exact == [BEST[layer.tensor.name]]
    assert [row.best for row in report.ranking()] == [1, 1, 1]
    assert {row.layers for row in report.ranking()} == {3}


def test_what_is_no_weight_matrix_is_recorded_with_its_reason(known: Path) -> None:
    report = workbench.error(weights=known, formats="int8.row").weights
    assert report is not None
    told = {
        layer.tensor.name: layer.reason
        for layer in report.layers
        if layer.status is LayerStatus.SKIPPED
    }
    assert told == {
        "ids": "I64: not floating-point numbers of 8 to 64 bits",
        "layers.1.norm.weight": "1-dimensional: no matrix (a norm, a bias or a scale)",
        "layers.1.zero.weight": "all zero: no signal to compare with",
        "nothing.weight": "empty",
        "step": "I64: not floating-point numbers of 8 to 64 bits",
    }


def test_a_nan_does_not_lose_the_other_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = normal(300, 40, 1)
    bad[280, 7], bad[290, 1] = float("nan"), float("-inf")
    path = tmp_path / "m.safetensors"
    beyond = torch.full((4, 4), 1e300, dtype=torch.float64)
    save_file({"good.weight": normal(64, 64, 2), "bad.weight": bad, "wide.weight": beyond}, path)
    assert call(monkeypatch, "--weights", path, "--format", "int8.row", "--json") == 0
    layers = json.loads(capsys.readouterr().out)["weights"]["layers"]
    assert [(layer["name"], layer["status"], layer["reason"]) for layer in layers] == [
        (
            "bad.weight",
            "failed",
            "2 values are NaN or infinite, the first at row 280, column 7",
        ),
        ("good.weight", "ranked", ""),
        (
            "wide.weight",
            "failed",
            "16 values are NaN or infinite or beyond fp32, the first at row 0, column 0",
        ),
    ]
    assert call(monkeypatch, "--weights", path, "--format", "int8.row") == 0
    assert "failed: 2 values are NaN" in capsys.readouterr().out


@pytest.mark.parametrize(
    "overflowing", ["e4m3fn+nosat", "e4m3fn.mx+nosat", "e4m3fn.b256x256+e8m0fnu+nosat"]
)
def test_a_weight_beyond_a_range_that_is_not_clipped_does_not_lose_the_other_layers(
    overflowing: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = normal(300, 64, 1)
    bad[280, 7] = -500.0
    path = tmp_path / "m.safetensors"
    save_file({"bad.weight": bad, "good.weight": normal(64, 64, 2).sign()}, path)
    asked = ("--weights", path, "--format", overflowing)
    assert call(monkeypatch, *asked, "--format", "int8.row", "--json") == 0
    bad_layer, good = json.loads(capsys.readouterr().out)["weights"]["layers"]
    refused, other = bad_layer["formats"]
    assert refused["error"] is None
    assert refused["reason"].startswith("weights up to 500 are rounded to a NaN or an infinity")
    assert "without +nosat" in refused["reason"]
    assert other["error"]["sqnr_db"] > 0
    assert all(one["error"]["relative_max"] < 0.1 for one in good["formats"])
    # With no other format the layer has no error at all.
    assert call(monkeypatch, *asked) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"failed: weights up to 500 are rounded to a NaN or an infinity by {overflowing}" in said
    assert "bad.weight" in said


SLICED = (
    "bf16",
    "e4m3fn.tensor",
    "int8.tensor+fp16",
    "e4m3fn.col",
    "uint4.tensor",
    "int8.b32x32",
    "e4m3fn.b128x128",
    "e2m1fn.mx",
    "nvfp4",
    "nvfp4+rtz",
    "uint4.g128",
    "int8.b128x16+mse",
)


@pytest.mark.parametrize("text", SLICED)
def test_slices_count_as_the_whole_matrix_does(text: str) -> None:
    fmt = TensorFormat.parse(text)
    x = normal(300, 96, 3).numpy()
    x[150:] *= 7.5  # so that the slices differ in amax
    x[17, 3] = -90.0
    assert slices_alike(fmt)
    extremes, sums = Extremes(), ErrorSums()
    extremes.add(x)
    for start in range(0, 300, 128):
        add_slice(sums, x[start : start + 128], fmt, extremes, numpy_rounder, 0)
    got, expected = sums.result(), tensor_error(x, fmt)
    assert got.sqnr_db == pytest.approx(expected.sqnr_db, rel=1e-12)
    assert got.relative_mean == pytest.approx(expected.relative_mean, rel=1e-12)
    for name in ("relative_max", "clipped_share", "flushed_share", "count"):
        assert getattr(got, name) == getattr(expected, name), name


@pytest.mark.parametrize(
    "text", ["int8.tensor+mse", "e4m3fn.tensor+p99", "int8.b48x48", "int8.b256x1"]
)
def test_formats_whose_scales_need_all_rows_take_the_matrix_whole(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fmt = TensorFormat.parse(text)
    assert not slices_alike(fmt)
    x = normal(300, 40, 4)
    path = tmp_path / "m.safetensors"
    save_file({"w": x}, path)
    monkeypatch.setattr("workbench.weights.SLICE_ELEMENTS", 128 * 40)
    report = workbench.error(weights=path, formats=[text, "int8.row"]).weights
    assert report is not None
    assert report.ranked[0].errors[0].error == tensor_error(x.numpy(), fmt)
    monkeypatch.setattr("workbench.weights.HELD_ELEMENTS", 128 * 40)
    report = workbench.error(weights=path, formats=[text, "int8.row"]).weights
    assert report is not None
    first, second = report.ranked[0].errors
    assert first.error is None
    assert first.reason == "needs more than 5120 elements at once"
    assert second.error is not None
    report = workbench.error(weights=path, formats=text).weights
    assert report is not None
    assert report.layers[0].status is LayerStatus.FAILED


def test_small_slices_give_what_one_slice_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"conv": normal(700, 3 * 3 * 8, 5).reshape(700, 8, 3, 3)}, path)
    whole = workbench.error(weights=path).to_dict()
    monkeypatch.setattr("workbench.weights.SLICE_ELEMENTS", 1)
    monkeypatch.setattr("workbench.checkpoint.MAPPED_BYTES", 1)
    sliced = workbench.error(weights=path).to_dict()
    (layer,) = sliced["weights"]["layers"]
    assert layer["shape"] == [700, 8, 3, 3]
    for got, expected in zip(
        layer["formats"], whole["weights"]["layers"][0]["formats"], strict=True
    ):
        assert got["bits_per_element"] == expected["bits_per_element"]
        assert got["error"] == pytest.approx(expected["error"], rel=1e-12)


def test_experts_follow_each_other_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks stay within a row of K; slices cut through experts."""
    x = normal(3 * 100, 40, 8)
    path = tmp_path / "m.safetensors"
    save_file({"experts.weight": x.clone().reshape(3, 100, 40), "plain.weight": x}, path)
    monkeypatch.setattr("workbench.weights.SLICE_ELEMENTS", 1)
    arguments = ["--weights", path, "--format", "e2m1fn.mx", "--format", "int8.row"]
    assert call(monkeypatch, *arguments, "--json") == 0
    experts, plain = json.loads(capsys.readouterr().out)["weights"]["layers"]
    assert (experts["shape"], experts["matrix"]) == ([3, 100, 40], [300, 40])
    assert experts["formats"] == plain["formats"]
    assert call(monkeypatch, *arguments) == 0
    assert "F32 3x100x40 as 300x40" in capsys.readouterr().out


@pytest.mark.parametrize("shape", [(48, 8, 3, 3), (48, 24, 4), (48, 1, 2, 3, 5)])
def test_convolutions_are_read_as_out_by_rest(shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.from_numpy(np.random.default_rng(0).standard_normal(shape)).float()
    path = tmp_path / "m.safetensors"
    save_file({"conv": x}, path)
    checkpoint = Checkpoint(path)
    (tensor,) = checkpoint.tensors
    (part,) = checkpoint.slices(tensor, 48)
    assert np.array_equal(part, x.reshape(48, -1).numpy())
    assert tensor.kind.endswith(f" as 48x{part.shape[1]}")


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.float8_e4m3fnuz,
        torch.float8_e5m2fnuz,
    ],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
def test_every_floating_type_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    x = normal(200, 24, 6).to(dtype)
    path = tmp_path / "m.safetensors"
    save_file({"w": x}, path)
    checkpoint = Checkpoint(path)
    (tensor,) = checkpoint.tensors
    parts = list(checkpoint.slices(tensor, 128))
    assert [len(part) for part in parts] == [128, 72]
    assert np.array_equal(np.concatenate(parts), x.to(torch.float32).numpy())


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    save_file({"b": normal(32, 32, 1)}, tmp_path / "model-00001.safetensors")
    save_file({"a": normal(32, 32, 2)}, tmp_path / "model-00002.safetensors")
    save_file({"c": normal(32, 32, 3)}, tmp_path / "other.safetensors")

    def names(path: Path) -> list[str]:
        report = workbench.error(weights=path, formats="int8.row").weights
        assert report is not None
        return [layer.tensor.name for layer in report.ranked]

    assert names(tmp_path) == ["a", "b", "c"]
    index = tmp_path / "model.safetensors.index.json"
    files = {"a": "model-00002.safetensors", "b": "model-00001.safetensors"}
    index.write_text(json.dumps({"weight_map": files}))
    assert names(index) == names(tmp_path) == ["a", "b"]


def test_recipes_and_formats_choose_the_candidates(known: Path) -> None:
    both = workbench.error(weights=known, recipes=["deepseek-fp8"], formats=["nf4.g64"]).weights
    assert both is not None
    assert list(map(str, both.formats)) == ["e4m3fn.b128x128", "nf4.g64"]
    default = workbench.error(weights=known).weights
    assert default is not None
    assert list(default.formats) == candidate_formats()
    assert all(fmt.scaling is not None for fmt in default.formats)


def test_the_table_names_the_best_format(
    known: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--weights", known, *(f"--format={f}" for f in FORMATS)) == 0
    printed = capsys.readouterr().out
    for layer, best in BEST.items():
        (line,) = (text for text in printed.splitlines() if layer in text and "64x64" in text)
        assert line.split("│")[3].strip() == best
        assert "exact" in line


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    path = tmp_path / "m.safetensors"
    tensors = {f"{HOSTILE}.weight": normal(32, 32, 1), "x" * 5000: normal(32, 32, 2)}
    save_file({**tensors, f"{HOSTILE}.norm": torch.ones(3), "fine": normal(32, 32, 3)}, path)
    return path


def test_names_from_the_file_do_not_steer_the_terminal(
    hostile: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--weights", hostile, "--format", "int8.row") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert "[red]\\x1b" in re.sub(r"[\s│]", "", printed)
    assert printed.count("x" * 200) == 0
    assert call(monkeypatch, "--weights", hostile, "--format", "int8.row", "--json") == 0
    layers = json.loads(capsys.readouterr().out)["weights"]["layers"]
    assert f"{HOSTILE}.weight" in {layer["name"] for layer in layers}


def test_names_from_the_file_stay_text_on_the_page(hostile: Path, tmp_path: Path) -> None:
    fine = tmp_path / "fine.safetensors"
    save_file({"fine": normal(32, 32, 3), "norm": torch.ones(3)}, fine)
    pages = []
    for path in (fine, hostile):
        out = path.with_suffix(".html")
        workbench.error(weights=path, formats=FORMATS, html=out)
        pages.append(WeightsPage(out))
    clean, got = pages
    assert {tag for tag, _ in got.elements} <= {tag for tag, _ in clean.elements}
    assert len(got.scripts) == len(clean.scripts) == 3
    assert got.scripts[1:] == clean.scripts[1:]
    assert not [a for _, a in got.elements if any(name.startswith("on") for name in a)]
    assert printable(f"{HOSTILE}.weight") in got.text
    assert "\x1b" not in got.source
    assert "<" not in json.dumps(
        [v["data"] for views in got.figures.values() for v in views]
    ).replace("<br>", "").replace("<extra></extra>", "")


def test_the_page_holds_the_figures_of_the_report(known: Path, tmp_path: Path) -> None:
    from plotly.graph_objects import Figure  # refuses unknown traces and properties

    out = tmp_path / "new" / "page.html"
    report = workbench.error(weights=known, formats=FORMATS, html=out).weights
    assert report is not None
    got = WeightsPage(out)
    assert [a["id"] for tag, a in got.elements if tag == "section"] == [
        "ranking",
        "map",
        "numbers",
        "others",
    ]
    absolute, behind = got.figures["layer-map"]
    for view in (absolute, behind):
        assert Figure(data=view["data"], layout=view["layout"]).data
    order = [str(row.format) for row in report.ranking()]
    assert absolute["data"][0]["x"] == order
    assert absolute["layout"]["yaxis"]["ticktext"] == [
        name.removesuffix(".weight") for name in BEST
    ]
    for best, texts, gaps in zip(
        BEST.values(), absolute["data"][0]["customdata"], behind["data"][0]["z"], strict=True
    ):
        assert texts[order.index(best)][1] == "exact"
        assert gaps[order.index(best)] == 0
        assert sum(gap == 0 for gap in gaps) == 1
    assert "bits / element" in got.headings()
    assert "8.500" in got.text  # int8.row: a scale of 32 bits for 64 columns
    assert "1-dimensional" in got.text
    (policy,) = (a["content"] for t, a in got.elements if a.get("http-equiv"))
    assert (policy or "").startswith("default-src 'none'; ")
    assert not {tag for tag, _ in got.elements} & {"img", "link", "iframe", "object", "base"}


def test_a_page_of_many_layers_groups_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    save_file({f"layers.{i}.{n}": normal(8, 8, i) for i in range(4) for n in "ab"}, path)
    monkeypatch.setattr("workbench.reporting.layer_map.MAX_ROWS", 7)
    monkeypatch.setattr("workbench.reporting.weights.MAX_LISTED", 3)
    workbench.error(weights=path, formats="int8.row", html=tmp_path / "page.html")
    got = WeightsPage(tmp_path / "page.html")
    (trace,) = got.figures["layer-map"][0]["data"]
    assert [row[0][0] for row in trace["customdata"]] == ["layers.*.a (4)", "layers.*.b (4)"]
    assert "5 more are in the JSON answer" in got.text


def test_an_unwritable_page_is_told_before_the_work_and_an_older_one_stays(
    known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.html"
    older = '<meta name="generator" content="tile-workbench/weights-page/1">'
    out.write_text(older)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ValueError, match="disk full: free space"):
        workbench.error(weights=known, formats="int8.row", html=out)
    assert out.read_text() == older
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    monkeypatch.setattr("workbench.errors.rank_weights", lambda *_, **__: pytest.fail("worked"))
    with pytest.raises(ValueError, match="is a folder"):
        workbench.error(weights=known, formats="int8.row", html=tmp_path)
    with pytest.raises(ValueError, match="exists and holds no tile-workbench/weights-page"):
        workbench.error(weights=known, formats="int8.row", html=known)


def test_a_checkpoint_of_nothing_to_rank_is_still_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"norm": torch.ones(3)}, path)
    assert call(monkeypatch, "--weights", path, "--html", tmp_path / "p.html") == 2
    printed = capsys.readouterr()
    assert "skipped: 1-dimensional" in printed.out
    assert "m.safetensors: no tensor could be ranked" in printed.err
    assert printed.err.strip().startswith("error: ")
    assert call(monkeypatch, "--weights", path, "--json") == 2
    assert json.loads(capsys.readouterr().out)["weights"]["ranking"] == []
    assert "No tensor could be ranked" in WeightsPage(tmp_path / "p.html").text


SCALES: dict[str, tuple[str, tuple[int, ...], tuple[int, int]]] = {
    "DeepSeek's blocks, ragged": ("_scale_inv", (3, 2), (128, 128)),
    "a row each": ("_scale", (300, 1), (1, 200)),
    "a row each, as a vector": ("_scale", (300,), (1, 200)),
    "one": ("_scale", (), (300, 200)),
    "one in a vector": ("_scale", (1,), (300, 200)),
    "groups": ("_scale", (300, 5), (1, 40)),
}


@pytest.mark.parametrize(("suffix", "grid", "block"), SCALES.values(), ids=SCALES.keys())
def test_codes_are_multiplied_by_the_scales_beside_them(
    suffix: str, grid: tuple[int, ...], block: tuple[int, int], tmp_path: Path
) -> None:
    codes = normal(300, 200, 1).to(torch.float8_e4m3fn)
    scales = torch.from_numpy(np.random.default_rng(2).uniform(0.5, 2, grid)).float()
    path = tmp_path / "m.safetensors"
    save_file({"w.weight": codes, f"w.weight{suffix}": scales}, path)
    checkpoint = Checkpoint(path)
    tensor, beside = checkpoint.tensors
    assert beside.refusal == "scales of another tensor"
    expected = codes.float().numpy()
    wide = scales.numpy().reshape(-(-300 // block[0]), -(-200 // block[1]))
    for row in range(300):
        for col in range(0, 200, 8):
            expected[row, col : col + 8] *= wide[row // block[0], col // block[1]]
    got = np.concatenate(list(checkpoint.slices(tensor, 128)))
    assert np.array_equal(got, expected)
    assert "x scales" in tensor.kind


def test_codes_without_scales_are_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = normal(64, 64, 1).to(torch.float8_e4m3fn)
    path = tmp_path / "m.safetensors"
    save_file({"w": codes, "w_scale": torch.ones(7, 3), "x": normal(64, 64, 2)}, path)
    assert call(monkeypatch, "--weights", path, "--format", "int8.row", "--json") == 0
    notes = {x["name"]: x["note"] for x in json.loads(capsys.readouterr().out)["weights"]["layers"]}
    said = "codes as they are stored: no scales named with _scale_inv or _scale lie beside them"
    assert notes == {"w": said, "w_scale": "", "x": ""}
    assert call(monkeypatch, "--weights", path, "--format", "int8.row") == 0
    assert f"{said}: w\n" in capsys.readouterr().out


MEMORY = """
import sys, resource, workbench, torch
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
report = workbench.error(weights=sys.argv[1], formats=["int8.b32x32", "e4m3fn.tensor"])
assert len(report.weights.ranked) == 10
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_stays_bounded(tmp_path: Path) -> None:
    """A sparse checkpoint of 0.7 GB is ranked in 0.5 GB beside the libraries."""
    rows, cols, count = 8192, 4096, 10
    size = rows * cols * 2
    header: dict[str, Any] = {
        f"w{i}": {
            "dtype": "BF16",
            "shape": [rows, cols],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(count)
    }
    text = json.dumps(header).encode()
    path = tmp_path / "big.safetensors"
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for i in range(count):
            stream.seek(8 + len(text) + i * size)
            stream.write(b"\x80\x3f" * 4096)  # a row of ones; the rest is a hole
        stream.truncate(8 + len(text) + count * size)
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True
    )
    unit = 1024 if sys.platform != "darwin" else 1
    before, after = (int(word) * unit for word in run.stdout.split())
    assert after - before < 500e6
