"""``workbench error``: every mistake and every damaged file is one line and exit code 2."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Call, is_mistake
from safetensors.torch import save_file
from weight_files import entry, normal, write_raw

import workbench

pytestmark = pytest.mark.usefixtures("empty_folder")


OPTIONS = {
    "unknown recipe": (["--recipe", "jetfir"], "did you mean 'jetfire'?"),
    "unknown element": (["--format", "e4m3f.mx"], "did you mean 'e4m3fn'?"),
    "unknown scaling": (["--format", "e4m3fn.mxx"], "unknown scaling 'mxx'"),
    "unknown data": (["--data", "gauss"], "unknown data 'gauss'"),
    "near data": (["--data", "outliers"], "did you mean 'outlier'?"),
    "unknown accumulation": (["--accumulation", "volta"], "hopper-fp8"),
    "near accumulation": (["--accumulation", "hopper"], "did you mean 'hopper-fp8'?"),
    "empty format": (["--format", ""], "unknown element format ''"),
    "shape of one extent": (["--shape", "4096"], "write 2 integers"),
    "shape of three extents": (["--shape", "1x2x3"], "write 2 integers"),
    "shape of 5000 digits": (["--shape", "9" * 5000 + "x1"], "write 2 integers"),
    "zero extent": (["--shape", "0x4"], "at least 1"),
    "shape beyond memory": (["--shape", "9999999x9999999"], "choose a smaller shape"),
    "shape beyond memory by weights": (
        ["--shape", "1x9999999", "--weight-shape", "9999999x9999999"],
        "choose a smaller shape",
    ),
    "weights of another depth": (
        ["--shape", "8x16", "--weight-shape", "8x17"],
        "weight shape 8x17: its last extent is K, 16",
    ),
    "negative seed": (["--seed", "-1"], "seed -1"),
    "absurd seed": (["--seed", "9" * 40], "below 2^61"),
    "page of simulated data": (["--html", "p.html"], "add --weights"),
    "checkpoint with a shape": (["--weights", "m", "--shape", "4x4"], "shape belongs to simulated"),
    "checkpoint with data": (["--weights", "m", "--data", "normal"], "data belongs to simulated"),
    "empty checkpoint": (["--weights", ""], "the path is empty"),
    "missing checkpoint": (["--weights", "none.safetensors"], "none.safetensors: cannot be read"),
    "missing index": (["--weights", "none.json"], "none.json: cannot be read"),
    "checkpoint of a long name": (["--weights", "x" * 300], "check the path"),
    "folder of nothing": (["--weights", "."], "holds no .safetensors file"),
    "checkpoint named by controls": (["--weights", "a\x1b[2Jb"], "control characters"),
}


@pytest.mark.parametrize(("arguments", "says"), OPTIONS.values(), ids=OPTIONS.keys())
def test_a_mistake_is_one_line_and_exit_code_2(arguments: list[str], says: str, call: Call) -> None:
    is_mistake(call("error", *arguments), says)
    assert list(Path().iterdir()) == []


def raw(header: Any, data: bytes = bytes(16)) -> Callable[[Path], object]:
    return lambda path: write_raw(path, header, data)


def with_length(length: int, size: int) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with path.open("wb") as stream:
            stream.write(struct.pack("<Q", length) + b'{"a":')
            stream.truncate(size)  # sparse

    return write


F32 = entry("F32", [2, 2], 0, 16)
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no bytes": (lambda p: p.touch(), "0 bytes are no .safetensors file"),
    "seven bytes": (lambda p: p.write_bytes(b"1234567"), "7 bytes are no .safetensors file"),
    "text": (lambda p: p.write_text("hello, this is no checkpoint"), "the header takes"),
    "header beyond the file": (with_length(10**6, 100), "the header takes 1000000 bytes"),
    "header of 2^63": (with_length(2**63 + 5, 100), "the header takes"),
    "header of 100 MB": (with_length(10**8, 10**8 + 8), "at most 33554432 are read"),
    "header of nothing": (raw(b"", b""), "no safetensors file that can be read"),
    "header not JSON": (raw(b"{nope"), "invalid JSON"),
    "header a list": (raw(b"[1]"), "invalid JSON"),
    "header not UTF-8": (raw(b'{"\xff":1}'), "UTF-8"),
    "header nested": (raw(b'{"a":' * 100_000), "recursion limit"),
    "data cut": (raw({"a": F32}, bytes(12)), "tensor 'a': data_offsets [0, 16]: two ascending"),
    "data left over": (raw({"a": F32}, bytes(20)), "'a': the last one ends at byte 16 of 20"),
    "data between": (
        raw({"a": F32, "b": entry("F32", [1], 18, 22)}, bytes(22)),
        "tensor 'b': data from byte 18 on, where 16 follows 'a'",
    ),
    "data after a gap": (
        raw({"a": entry("F32", [1], 4, 8)}, bytes(8)),
        "tensor 'a': data from byte 4 on, where 0 follows the header",
    ),
    "negative offset": (raw({"a": entry("F32", [2, 2], -1, 16)}), "tensor 'a': data_offsets [-1"),
    "offsets reversed": (raw({"a": entry("F32", [2, 2], 16, 0)}), "tensor 'a': data_offsets [16"),
    "offsets overlap": (raw({"a": F32, "b": F32}), "tensor 'b': data from byte 0 on, where 16"),
    "offsets of another size": (
        raw({"a": entry("F32", [3, 2], 0, 16)}),
        "tensor 'a': F32 of shape [3, 2] takes no 16 bytes",
    ),
    "offsets of text": (raw({"a": {**F32, "data_offsets": "ab"}}), "tensor 'a': data_offsets 'ab'"),
    "three offsets": (raw({"a": {**F32, "data_offsets": [0, 8, 16]}}), "data_offsets [0, 8, 16]"),
    "negative shape": (raw({"a": entry("F32", [-2, -2], 0, 16)}), "tensor 'a': shape [-2, -2]"),
    "shape of fractions": (raw({"a": {**F32, "shape": [2.0, 2]}}), "tensor 'a': shape [2.0, 2]"),
    "shape overflows": (
        raw({"a": entry("F32", [2**40, 2**40], 0, 16)}),
        "tensor 'a': shape [1099511627776, 1099511627776]: extents are",
    ),
    "shape of 5000 digits": (
        raw(b'{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,16]}}' % (b"9" * 5000)),
        "tensor 'a': shape [-1]: extents are",
    ),
    "shape of many large extents": (
        raw({"a": entry("F32", [2**62] * 100_000, 0, 16)}),
        "tensor 'a': shape [",
    ),
    "no shape": (raw({"a": {"dtype": "F32"}}), "tensor 'a': an entry holds dtype, shape and"),
    "entry a list": (raw({"a": [1]}), "tensor 'a': an entry holds dtype"),
    "type a list": (raw({"a": {**F32, "dtype": []}}), "no safetensors file that can be read"),
    "unknown type": (raw({"a": entry("F99", [2, 2], 0, 16)}), "unknown variant"),
    "a name twice": (
        raw(b'{"a":%s,"a":%s}' % ((json.dumps(F32).encode(),) * 2)),
        "'a' stands twice in the header",
    ),
    "no tensors": (raw({}, b""), "holds no tensors"),
    "pipe": (lambda p: os.mkfifo(p), "not a regular file"),
    "control characters in a reason": (raw({"a": entry("\x1b[2J\n", [2, 2], 0, 16)}), "unknown"),
}


@pytest.mark.parametrize(("write", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_damaged_checkpoint_is_told_in_one_line(
    write: Callable[[Path], object], says: str, call: Call
) -> None:
    write(Path("m.safetensors"))
    for arguments in (["m.safetensors"], ["."]):
        answer = call("error", "--weights", *arguments, "--html", "page.html")
        is_mistake(answer, says)
        assert "\x1b" not in answer.err
    assert [path.name for path in Path().iterdir()] == ["m.safetensors"]


def index(value: Any) -> Callable[[], object]:
    text = value if isinstance(value, str) else json.dumps(value)
    return lambda: Path("model.safetensors.index.json").write_text(text)


RULE = 'an index holds {"weight_map"'
INDICES: dict[str, tuple[Callable[[], object], str]] = {
    "not JSON": (index("{"), RULE),
    "nested": (index("[" * 200_000), RULE),
    "a list": (index([]), RULE),
    "no map": (index({"metadata": {}}), RULE),
    "map of numbers": (index({"weight_map": {"a": 1}}), RULE),
    "map of lists": (index({"weight_map": {"a": []}}), RULE),
    "empty map": (index({"weight_map": {}}), RULE),
    "a path upwards": (index({"weight_map": {"a": "../m.safetensors"}}), RULE),
    "an absolute path": (index({"weight_map": {"a": "/etc/m.safetensors"}}), RULE),
    "another kind of file": (index({"weight_map": {"a": "m.bin"}}), RULE),
    "a missing shard": (index({"weight_map": {"a": "m.safetensors"}}), "missing: fetch it"),
    "controls": (index({"weight_map": {"a": "\x1b.safetensors"}}), "control characters"),
}


@pytest.mark.parametrize(("write", "says"), INDICES.values(), ids=INDICES.keys())
@pytest.mark.parametrize("path", [".", "model.safetensors.index.json"])
def test_a_damaged_index_is_told_in_one_line(
    write: Callable[[], object], says: str, path: str, call: Call
) -> None:
    write()
    is_mistake(call("error", "--weights", path), says)


def test_a_tensor_in_two_shards_is_refused(call: Call) -> None:
    for name in ("a", "b"):
        save_file({"w": normal(4, 4, 1)}, f"{name}.safetensors")
    is_mistake(call("error", "--weights", "."), "tensor 'w' stands in a.safetensors too")


def test_a_damaged_shard_is_told_before_any_work(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"w": normal(4, 4, 1)}, "a.safetensors")
    Path("b.safetensors").write_bytes(b"")
    monkeypatch.setattr("workbench.weights._layer", lambda *_: pytest.fail("worked"))
    is_mistake(call("error", "--weights", "."), "b.safetensors")


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (entry("F4", [4, 8], 0, 16), "F4: not floating-point numbers of 8 to 64 bits"),
        (entry("F8_E8M0", [4, 4], 0, 16), "F8_E8M0: not floating-point"),
        (entry("C64", [1, 2], 0, 16), "C64: not floating-point"),
        (entry("BOOL", [4, 4], 0, 16), "BOOL: not floating-point"),
        (entry("F32", [1] * 5000 + [4], 0, 16), "5001-dimensional: at most 8"),
        (entry("F32", [0, 2**60], 0, 0), "empty"),
        (entry("F32", [], 0, 4), "0-dimensional"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)
def test_strange_tensors_are_skipped_with_the_reason(
    tensor: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    stop = tensor["data_offsets"][1]
    random = np.random.default_rng(0).standard_normal((4, 4)).astype("<f4").tobytes()
    header = {"w": tensor, "fine": entry("F32", [4, 4], stop, stop + 64)}
    path = write_raw(tmp_path / "m.safetensors", header, bytes(stop) + random)
    report = workbench.error(weights=path, formats="int8.row", html=tmp_path / "p.html").weights
    assert report is not None
    fine, strange = report.layers
    assert fine.status.value == "ranked"
    assert (strange.status.value, strange.errors) == ("skipped", ())
    assert strange.reason.startswith(reason)
    assert len(strange.tensor.kind) < 60


def test_rows_too_long_for_memory_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"long": normal(200, 64, 1), "short": normal(200, 32, 2)}, path)
    monkeypatch.setattr("workbench.weights.SLICE_ELEMENTS", 1)
    monkeypatch.setattr("workbench.weights.HELD_ELEMENTS", 128 * 32)
    report = workbench.error(weights=path, formats="int8.row").weights
    assert report is not None
    long, short = report.layers
    assert (long.status.value, short.status.value) == ("failed", "ranked")
    assert long.reason == "128 rows of 64 are over 4096 elements at once"


NAN = np.ones((4, 4), np.float32)
NAN[1, 2] = np.nan
DATA: dict[str, tuple[Any, type[Exception], str]] = {
    "nan": (NAN, ValueError, "mine: nan at row 1, column 2, 1 values"),
    "infinity": (np.full((2, 2), np.inf), ValueError, "mine: inf at row 0"),
    "beyond fp32": (np.full((2, 2), 1e300), ValueError, "not finite in fp32"),
    "integers": (np.ones((2, 2), int), TypeError, "mine: int64 are no floating-point numbers"),
    "booleans": (np.ones((2, 2), bool), TypeError, "mine: bool are no"),
    "complex": (np.ones((2, 2), complex), TypeError, "mine: complex128 are no"),
    "objects": (np.ones((2, 2), object), TypeError, "mine: object are no"),
    "torch integers": (torch.ones(2, 2, dtype=torch.int8), TypeError, "mine: torch.int8 are no"),
    "empty": (np.ones((0, 4), np.float32), ValueError, r"mine: shape \(0, 4\): give a non-empty"),
    "0-d": (np.float32(1), ValueError, r"mine: shape \(\): give a non-empty"),
    "1-d": (np.ones(4, np.float32), ValueError, r"mine: shape \(4,\)"),
    "3-d": (np.ones((2, 2, 2), np.float32), ValueError, r"mine: shape \(2, 2, 2\)"),
    "zeros": (np.zeros((2, 2), np.float32), ValueError, "mine: every value is zero"),
    "text": ("abc", TypeError, "mine: <U3 are no floating-point"),
}


@pytest.mark.parametrize(("value", "error", "says"), DATA.values(), ids=DATA.keys())
def test_data_that_have_no_error_are_refused_by_name(
    value: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        workbench.error(recipes="int8-row", data={"mine": value})


ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no data": ({"data": ()}, "no data given"),
    "no matrix": ({"data": {}}, "no data given"),
    "two shapes": ({"data": {"a": np.ones((2, 2)), "b": np.ones((2, 3))}}, "of one shape"),
    "data and shape": ({"data": {"a": np.ones((2, 2))}, "shape": (2, 2)}, "leave it out"),
    "name with controls": ({"data": {"\x1b": np.ones((2, 2))}}, "control characters"),
    "shape of floats": ({"shape": (2.5, 2)}, "two extents of at least 1"),
    "shape of booleans": ({"shape": (True, 2)}, "two extents of at least 1"),
    "shape of three": ({"shape": (2, 2, 2)}, "two extents of at least 1"),
    "one extent": ({"shape": 5}, "shape 5: give two extents"),
    "one extent of the weights": ({"weight_shape": 5}, "weight shape 5: give two extents"),
    "rows of several lengths": ({"data": {"x": [[1.0, 2.0], [3.0]]}}, "x: .*give a matrix"),
    "seed of text": ({"seed": "1"}, "seed '1'"),
    "seed of a boolean": ({"seed": True}, "seed True"),
}


@pytest.mark.parametrize(("arguments", "says"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_arguments_that_mean_nothing_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        workbench.error(recipes="int8-row", **arguments)


TYPES: dict[str, tuple[dict[str, Any], str]] = {
    "recipes": ({"recipes": 5}, "recipes 5: give names, recipes or all"),
    "a recipe": ({"recipes": [None]}, "recipes None: give names"),
    "formats": ({"formats": 5}, "formats 5: give tensor formats or their texts"),
    "a format": ({"formats": [b"int8"]}, "formats b'int8': give tensor formats"),
    "data": ({"data": 5}, "data 5: give names or a matrix"),
    "a kind of data": ({"data": [[1.0]]}, r"data \[1.0\]: give names or a matrix"),
    "a name of data": ({"data": {3: np.ones((2, 2))}}, "data 3: name a matrix by a text"),
    "accumulation": ({"accumulation": 5}, "accumulation 5: give a text"),
    "weights": ({"weights": 5}, "weights 5: give a path"),
    "html": ({"weights": "m.safetensors", "html": b"p"}, "html b'p': give a path"),
}


@pytest.mark.parametrize(("arguments", "says"), TYPES.values(), ids=TYPES.keys())
def test_arguments_of_another_type_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeError, match=says):
        workbench.error(**({"formats": "int8.row"} | arguments))
