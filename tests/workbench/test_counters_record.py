"""Records out of Nsight Compute's pages: a small report, marks, what does not belong together."""

import gzip
import json
from pathlib import Path

import pytest

from bench.counters_record import main, read_details, read_source

DETAILS = """\
[758] python3.12@127.0.0.1
  gemm (132, 1, 1)x(384, 1, 1), Context 1, Stream 7, Device 0, CC 9.0
    Section: GPU Speed Of Light Throughput
    ----------------------- ----------- ------------
    Metric Name             Metric Unit Metric Value
    ----------------------- ----------- ------------
    SM Frequency                    Ghz         1.55
    Elapsed Cycles                cycle      175,485
    ----------------------- ----------- ------------

    OPT   Compute is more heavily utilized than Memory by 3

    Section: Scheduler Statistics
    ---------------------------- ----------- ------------
    Metric Name                  Metric Unit Metric Value
    ---------------------------- ----------- ------------
    Issued Warp Per Scheduler                        0.57
    ---------------------------- ----------- ------------

    Section: A section that is not kept
    ---------------------------- ----------- ------------
    Registers                                          99
    ---------------------------- ----------- ------------

  void space::sums<4096, (bool)1>(float *) (512, 1, 1)x(512, 1, 1), Context 1, Stream 7, Device 0
"""
COLUMNS = (
    '"Address","Source","# Samples","Instructions Executed","stall_wait","stall_math",'
    '"stall_math (Not Issued)"'
)
SOURCE = """\
"Kernel Name","gemm",
COLUMNS
"0x10","      FFMA R1, R2, R3, R1","15","300","30","0","9"
"0x20","  @P0 FFMA.RZ R1, R2, R3, R1","5","99","0","10","9"
"0x30","      EXIT","0","1","0","0","0"
"Kernel Name","void space::sums<4096, (bool)1>(float *)",
COLUMNS
"0x10","      IADD3 R1, R2, R3, R1","0","0","0","0","0"
""".replace("COLUMNS", COLUMNS)
LAUNCHES = [["gemm:1x1x1:bf16", "hopper_gemm", {"stages": 4}], ["sums", "another", {}]]


def written(folder: Path, details: str = DETAILS, source: str = SOURCE) -> list[str]:
    (folder / "details.txt").write_text(details)
    (folder / "source.csv.gz").write_bytes(gzip.compress(source.encode()))
    (folder / "launches.json").write_text(json.dumps(LAUNCHES))
    pages = [str(folder / "details.txt"), str(folder / "source.csv.gz")]
    launches = ["--launches", str(folder / "launches.json")]
    return [*pages, *launches, "--commit", "abc", "--output", str(folder / "out.json")]


def test_a_record_has_metrics_instructions_and_stalls_of_every_launch(tmp_path: Path) -> None:
    assert main(written(tmp_path)) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["commit"] == "abc"
    assert [one["launch"] for one in found["launches"]] == LAUNCHES
    (gemm,), (sums,) = (one["kernels"] for one in found["launches"])
    assert gemm["metrics"] == {
        "GPU Speed Of Light Throughput": {
            "SM Frequency": [1.55, "Ghz"],
            "Elapsed Cycles": [175485.0, "cycle"],
        },
        "Scheduler Statistics": {"Issued Warp Per Scheduler": [0.57, ""]},
    }
    assert gemm["instructions"] == 400
    assert gemm["opcodes"] == {"FFMA": 0.9975}  # what is below half a percent is left out
    assert (gemm["samples"], gemm["sampled"]) == (20, {"FFMA": 1.0})
    assert gemm["stalls"] == {"wait": 0.75, "math": 0.25}
    assert sums["kernel"] == "space::sums"
    assert (sums["metrics"], sums["stalls"], sums["samples"]) == ({}, {}, 0)


def test_kernels_behind_a_mark_are_one_launch(tmp_path: Path) -> None:
    mark = "  tile_workbench_mark (1, 1, 1)x(1, 1, 1), Context 1, Stream 7, Device 0, CC 9.0\n"
    marked = '"Kernel Name","tile_workbench_mark",\n"Address","Source"\n'
    launches = [LAUNCHES[0]]
    given = written(tmp_path, DETAILS.replace("  gemm (", f"{mark}  gemm ("), marked + SOURCE)
    (tmp_path / "launches.json").write_text(json.dumps(launches))
    assert main(given) == 0
    (one,) = json.loads((tmp_path / "out.json").read_text())["launches"]
    assert [kernel["kernel"] for kernel in one["kernels"]] == ["gemm", "space::sums"]


@pytest.mark.parametrize(
    ("details", "source", "said"),
    [
        ("nothing", SOURCE, "no kernel in the details"),
        (DETAILS, "nothing", "no kernel in the source page"),
        (DETAILS, SOURCE.replace('"gemm"', '"gelu"'), "the pages list other kernels"),
        (DETAILS.partition("  void")[0], SOURCE.rpartition('"Kernel')[0], "hold 1 launches, 2"),
    ],
)
def test_pages_that_do_not_belong_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], details: str, source: str, said: str
) -> None:
    assert main(written(tmp_path, details, source)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_both_pages_cut_names_alike() -> None:
    names = [one["kernel"] for one in read_details(DETAILS)]
    assert names == [one["kernel"] for one in read_source(iter(SOURCE.splitlines()))]
