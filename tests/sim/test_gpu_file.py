"""GPU data files that a user writes: read by their path, each mistake told in one line."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import sim
from sim.gpu_file import MAX_FILE_BYTES

FOLDER = Path(sim.__file__).parent / "gpus"


def test_loading_is_fast(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes((FOLDER / "h200.yaml").read_bytes())
    seconds = []
    for _ in range(5):
        start = time.process_time()
        sim.load_gpu(path)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05


@pytest.mark.parametrize(
    ("source", "measured"),
    [
        ("measured on a MINE of ours, November 2026", True),
        ("measured on an H200", False),
        ("measured on a mine2", False),
        ("unverified: measured on a mine", False),
    ],
)
def test_measured_on_names_the_board(tmp_path: Path, source: str, measured: bool) -> None:
    def change(content: dict[str, Any]) -> None:
        content.update(name="mine")
        content["figures"]["sm_count"].update(source=source)

    assert sim.load_gpu(write(tmp_path, change)).measured is measured


def write(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = yaml.safe_load((FOLDER / "h200.yaml").read_text())
    change(content)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_users_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        lambda c: (
            c.update(name="mine"),
            c["figures"]["sm_count"].update(value=78, source="guess"),
        ),
    )
    gpu = sim.load_gpu(str(path))
    assert (gpu.name, gpu.sm_count, gpu.sources["sm_count"]) == ("mine", 78, "guess")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["figures"].pop("sm_count"), "sm_count is missing in figures"),
        (lambda c: c.pop("figures"), "figures is missing in the file"),
        (lambda c: c.update(colour="red"), "unknown key 'colour' in the file"),
        (
            lambda c: c["figures"].update(sm_counts={"value": 1, "source": "x"}),
            "unknown key 'sm_counts' in figures: did you mean 'sm_count'",
        ),
        (
            lambda c: c["figures"]["dram_gb_per_s"].update(value=-1),
            "dram_gb_per_s = -1 must lie in 1..",
        ),
        (
            lambda c: c["figures"]["dram_gb_per_s"].update(value=4.8e12),
            "dram_gb_per_s = 4800000000000.0 must",
        ),
        (lambda c: c["figures"]["dram_gb_per_s"].update(value=float("nan")), "must be a number"),
        (lambda c: c["figures"]["dram_gb_per_s"].update(value="fast"), "must be a number"),
        (lambda c: c["figures"]["sm_count"].update(value=True), "sm_count must be a number"),
        (lambda c: c["figures"]["sm_count"].update(value=1.5), "sm_count must be a whole number"),
        (lambda c: c["figures"]["sm_count"].pop("source"), "source is missing in sm_count"),
        (lambda c: c["figures"]["sm_count"].update(source=""), "source of sm_count must be a text"),
        (lambda c: c["figures"].update(sm_count=132), "sm_count must be a mapping"),
        (lambda c: c.update(vendor="acme"), "vendor must be one of nvidia, amd"),
        (lambda c: c.update(schema=2), "schema must be 1, got 2"),
        (lambda c: c.update(schema=True), "schema must be 1, got True"),
        (lambda c: c.update(schema=1.0), "schema must be 1, got 1.0"),
        (lambda c: c.update(features=["tma", "wgmna"]), "'wgmna': did you mean 'wgmma'?"),
        (lambda c: c.update(name="a/b"), "name 'a/b': write 1 to 64 of a-z"),
        (lambda c: c.update(name="H200"), "name 'H200': write"),
        (lambda c: c.update(name="a..b"), "name 'a..b': write"),
        (lambda c: c.update(name="mine\n"), "name must be a text of one line"),
        (lambda c: c.update(name=""), "name must be a text of one line"),
        (lambda c: c.update(name="x" * 65), "write 1 to 64 of"),
        (lambda c: c.update(vendor=["nvidia"]), "vendor must be one of nvidia, amd"),
        (
            lambda c: c["figures"]["l2_bytes"].update(value=10**400),
            "l2_bytes = an integer of 1329 bits must lie in 65536..",
        ),
        (lambda c: c["figures"]["dram_gb_per_s"].update(value=float("inf")), "= inf must lie"),
        (lambda c: c.update(capability="90"), "capability must be a whole number"),
        (lambda c: c.update(matches="NVIDIA H200"), "matches must be a list"),
        (
            lambda c: c.update(native_elements=["fp16", "fp3"]),
            "native_elements: unknown 'fp3': did you mean",
        ),
        (
            lambda c: c["tensor_flop_per_clk"].pop("int8"),
            "'int8' stands in native_elements and not in tensor_flop_per_clk",
        ),
        (
            lambda c: c["tensor_flop_per_clk"].update(
                e2m1fn={"value": 16384, "source": "a guess of mine"}
            ),
            "'e2m1fn' stands in tensor_flop_per_clk and not in native_elements",
        ),
        (
            lambda c: c["tensor_flop_per_clk"]["bf16"].update(value=-4096),
            "tensor_flop_per_clk.bf16 = -4096 must lie in 1..",
        ),
        (
            lambda c: c["tensor_flop_per_clk"]["bf16"].update(rate=4096),
            "unknown key 'rate' in tensor_flop_per_clk.bf16",
        ),
        (
            lambda c: c["figures"]["dram_read_gb_per_s"].update(value=4900),
            "dram_read_gb_per_s must not exceed dram_gb_per_s",
        ),
        (
            lambda c: c["figures"]["dram_copy_gb_per_s"].update(value=4900),
            "dram_copy_gb_per_s must not exceed dram_gb_per_s",
        ),
        (
            lambda c: c["figures"]["l2_latency_ns"].update(value=900),
            "l2_latency_ns must not exceed dram_latency_ns",
        ),
        (lambda c: c.update(features=["mfma_scale"]), "nvidia has no mfma_scale: remove it"),
        (
            lambda c: c["figures"].update(special_per_clk={"value": 0, "source": "a guess"}),
            "special_per_clk = 0 must lie in 1..",
        ),
        (
            lambda c: c["figures"]["sustained_clock_mhz"].update(value=2500),
            "sustained_clock_mhz must not exceed max_clock_mhz",
        ),
        (
            lambda c: c["figures"]["smem_bytes_per_cta"].update(value=2**20),
            "smem_bytes_per_cta must not exceed",
        ),
    ],
)
def test_a_broken_file_is_refused_in_one_line(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = write(tmp_path, change)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is checked below
        sim.load_gpu(path)
    text = str(caught.value)
    assert message in text
    assert text.startswith(f"gpu file {path}: ")
    assert text.count(": ") >= 2, "a message ends with the next step"
    assert len(text) < 300 + len(str(path))
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not YAML in UTF-8 at line 2: correct"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: !!python/object/apply:os.system ['true']", "not YAML"),
        (b"[" * 100_000, "levels of nesting"),
        (b"- " * 300_000 + b"1", "levels of nesting"),
        (b"a: &x [1]\nb: *x\n", "aliases"),
        (b"- 1\n- 2\n", "the file must be a mapping"),
        (b"", "the file must be a mapping"),
        (b"figures: 2026-13-45\n", "not YAML"),
        (b"schema: 1\nname: a\nname: b\n", "the same key twice, 'name' at line 3: remove one"),
        (b"figures:\n  a: {value: 1, value: 2}\n", "twice, 'value' at line 2: remove one"),
        (b"# " + b"x" * MAX_FILE_BYTES, "at most 1048576 bytes, this file is larger"),
    ],
    ids=[
        "syntax",
        "encoding",
        "tag",
        "deep",
        "deep block",
        "alias",
        "list",
        "empty",
        "date",
        "twice",
        "twice inside",
        "large",
    ],
)
def test_a_file_that_is_no_gpu_file_is_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        sim.load_gpu(path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.yaml: cannot be read \(No such file.*: check"):
        sim.load_gpu(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="not a regular file: give the path of a file"):
        sim.load_gpu(tmp_path)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """Opening it would wait for a writer for ever."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    signal.alarm(5)  # ends a run that hangs
    try:
        with pytest.raises(ValueError, match="pipe: not a regular file"):
            sim.load_gpu(pipe)
    finally:
        signal.alarm(0)


def test_a_gpu_keeps_the_text_of_its_file(tmp_path: Path) -> None:
    path = write(tmp_path, lambda c: c.update(name="mine"))
    gpu = sim.load_gpu(path)
    assert gpu.text == path.read_text()
    assert sim.parse_gpu(gpu.text.encode(), "elsewhere") == gpu
