"""What emit refuses, lists or leaves alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from emit_runs import files_in, run_of, study

import workbench
from sim import load_gpu
from tiles.kernels.closure import template_closure
from tiles.recipes import recipe
from workbench.emission import emit


def test_studies_without_a_winner_are_listed_not_dropped(tmp_path: Path) -> None:
    tuned, failed, unbegun = (f"gemm:{m}x96x128:bf16:bf16" for m in (8, 9, 10))
    run = run_of(study(tuned), study(failed, correct=False), planned=[(unbegun, "triton_gemm")])
    package = emit(run, tmp_path / "out")
    left = json.loads(package.evidence.read_text())["not_emitted"]
    assert {one["problem"]: one["reason"] for one in left} == {
        failed: "none of 1 trials was correct",
        unbegun: "never searched",
    }
    assert (package.studies, package.without_winner) == (3, 2)
    readme = (tmp_path / "out/README.md").read_text()
    assert f"| triton_gemm | {unbegun} | h200 | never searched |" in readme


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Upper",
        "9lives",
        "a-b",
        "a.b",
        "../up",
        "a b",
        'x"\nrequires = ["evil"]',
        "ünicode",
        "trailing_",
        "a" * 42,
        "class",
        "json",
        "torch",
        "tiles",
        "name\n",
    ],
)
def test_refuses_hostile_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="package name") as caught:
        emit(run_of(study("gemm:64x96x128:bf16:bf16")), tmp_path / "out", name=name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["../../etc", 'x";import os', "a/b", "", "A", "a\nb"])
def test_refuses_recipe_names_that_are_no_file_names(text: str, tmp_path: Path) -> None:
    made = study("gemm:64x96x128:bf16:bf16")
    hostile = replace(
        made, problem=replace(made.problem, recipe=replace(recipe("bf16"), name=text))
    )
    with pytest.raises(ValueError, match=r"format .* emitted names hold"):
        emit(run_of(hostile), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


SWEEP = """
schema: 1
gpu: my.yaml
problems: [{shape: [256, 256, 256]}]
recipes: [bf16]
kernels: [triton_gemm]
search: {max_measurements: 1}
output: run
"""


@pytest.mark.parametrize("name", ["workstation-" + "9" * 50, "h200"])
def test_a_sweep_on_a_users_gpu_file_is_emitted_for_that_gpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load(load_gpu("h200").text)
    content |= {"name": name, "matches": ["ACME 1"]}
    Path("my.yaml").write_text(yaml.safe_dump(content))
    Path("s.yaml").write_text(SWEEP)
    workbench.sweep("s.yaml", on="sim")
    Path("my.yaml").unlink()
    package = workbench.emit("run", "package")
    assert [e["gpu"] for e in json.loads(package.evidence.read_text())["entries"]] == [name]
    tuned = list(package.folder.glob(f"src/*/configs/*-{name}.json"))
    assert len(tuned) == 2
    for path in tuned:
        assert json.loads(path.read_text())["devices"] == ["ACME 1"]


def test_existing_output_is_refused_and_untouched(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="exists and is left as it is"):
        emit(run_of(study("gemm:64x96x128:bf16:bf16")), out)
    assert files_in(out) == ["mine.txt"]
    assert list(tmp_path.iterdir()) == [out]


def test_dangling_link_is_an_existing_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="exists and is left as it is"):
        emit(run_of(study("gemm:64x96x128:bf16:bf16")), out)


def test_refuses_a_run_without_a_correct_configuration(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no study of this run has a correct configuration"):
        emit(run_of(study("gemm:64x96x128:bf16:bf16", correct=False)), tmp_path / "out")


def test_refuses_two_studies_of_one_problem(tmp_path: Path) -> None:
    one = study("gemm:64x96x128:bf16:bf16")
    with pytest.raises(ValueError, match="two studies tuned gemm:64x96x128:bf16:bf16 on h200"):
        emit(run_of(one, one), tmp_path / "out")


def test_refuses_kernels_without_an_interface_in_packages(tmp_path: Path) -> None:
    made = study("gemm:64x96x128:bf16:bf16", family="some.module:attribute")
    with pytest.raises(ValueError, match="cannot be emitted"):
        emit(run_of(made), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_kernels_without_an_interface_do_not_stop_the_others(tmp_path: Path) -> None:
    foreign = study("gemm:64x96x128:bf16:bf16", family="some.module:attribute", time_us=1.0)
    package = emit(run_of(study("gemm:64x96x128:bf16:bf16"), foreign), tmp_path / "out")
    evidence = json.loads(package.evidence.read_text())
    assert [entry["kernel"] for entry in evidence["entries"]] == ["triton_gemm"]
    (left,) = evidence["not_emitted"]
    assert left["kernel"] == "some.module:attribute"
    assert left["reason"].startswith("packages have a function for triton_gemm, hopper_gemm")
    assert (package.studies, package.without_winner) == (2, 0)


def test_closure_follows_siblings_and_refuses_the_rest(tmp_path: Path) -> None:
    (tmp_path / "kernel.py").write_text("import torch\nfrom .shared import f\nfrom . import more\n")
    (tmp_path / "shared.py").write_text("from .more import g\n")
    (tmp_path / "more.py").write_text("import math\n")
    (tmp_path / "device.cuh").write_text("// device\n")
    (tmp_path / "kernel.cu").write_text('#include "device.cuh"\n// kernel\n')
    (tmp_path / "unrelated.py").write_text("import os\n")
    names = [path.name for path in template_closure(tmp_path / "kernel.py")]
    assert names == ["device.cuh", "kernel.cu", "kernel.py", "more.py", "shared.py"]
    (tmp_path / "more.py").write_text("def f():\n    from tiles.formats import element\n")
    with pytest.raises(ValueError, match=r"more\.py: a template must not import 'tiles'"):
        template_closure(tmp_path / "kernel.py")
    (tmp_path / "more.py").write_text("from ..base import Kernel\n")
    with pytest.raises(ValueError, match="imports only siblings"):
        template_closure(tmp_path / "kernel.py")
