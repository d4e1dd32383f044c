"""The verb ``quantize``: tables, files, JSON, and mistakes in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import Call, is_mistake
from ptq_cases import normal
from safetensors.torch import save_file

import workbench
from workbench.ptq import Task, load, load_task, quantize

TASKS = """
import torch
from torch import nn


class Toy:
    name = "toy"

    def model(self):
        torch.manual_seed(0)
        layers = nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 4)
        return nn.Sequential(*layers).eval()

    def calibration(self):
        return [(self.data(1),), (self.data(2),)]

    def data(self, seed):
        return torch.randn(32, 16, generator=torch.Generator().manual_seed(seed))

    def score(self, model):
        x = self.data(3)
        with torch.no_grad():
            exact, y = self.model()(x), model(x)
        return 1 - float((y - exact).square().sum() / exact.square().sum())


class Empty(Toy):
    def calibration(self):
        return []


class Broken(Toy):
    def calibration(self):
        return ["text"]


class Other(Toy):
    def model(self):
        return "no model"


class Missing(Toy):
    def calibration(self):
        return torch.load("calibration.pt")


class Misnamed(Toy):
    def model(self):
        return nn.Linaer(16, 4)


class Scoreless(Toy):
    def score(self, model):
        return model(self.data(3)[:, :4])


class Nan(Toy):
    def calibration(self):
        return [(self.data(1),), (self.data(2) / 0 * 0,)]


class Wrong(Toy):
    def calibration(self):
        return [(self.data(1), self.data(2))]


TOY, EMPTY, BROKEN, OTHER, NUMBER = Toy(), Empty(), Broken(), Other(), 3
MISSING, MISNAMED, SCORELESS, NAN, WRONG = Missing(), Misnamed(), Scoreless(), Nan(), Wrong()


def half():
    return {}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "toy_tasks.py").write_text(TASKS, encoding="utf-8")
    (tmp_path / "lame_tasks.py").write_text("import not_installed_anywhere\n", encoding="utf-8")
    (tmp_path / "torn_tasks.py").write_text("TOY = (\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_tasks", raising=False)
    return tmp_path


def test_a_task_is_quantised_told_and_written(call: Call, folder: Path) -> None:
    options = ("--recipe", "mxfp4", "--scheme", "extended", "--criterion", "5%", "--output", "out")
    answer = call("quantize", "toy_tasks:TOY", *options)
    assert answer.code == 0
    out = answer.out
    assert out.startswith("all quantised: score 0.")
    assert "toy: mxfp4, extended scheme" in out
    assert "fell back: the loss was " in out
    assert "not quantised: 1: ReLU: mxfp4 has no such operator" in out
    assert "on cpu: reference (values of codes" in out
    assert "the criterion of 5 % holds" in out
    record = json.loads((folder / "out" / "quantized.json").read_text(encoding="utf-8"))
    assert record["schema"] == "tile-workbench/quantized/1"
    assert record["task"] == "toy"
    assert record["source"] == "toy_tasks:TOY"
    assert record["options"]["criterion"] == 0.05
    assert record["options"]["calibration_batches"] == 2
    assert record["scores"]["holds"] is True
    task = load_task("toy_tasks:TOY")
    assert isinstance(task, Task)
    again = load(task.model(), folder / "out" / "model.safetensors", "mxfp4")
    assert task.score(again.model) == record["scores"]["final"]
    # The same command may replace what it wrote.
    answer = call("quantize", "toy_tasks:Toy", *options, "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["operators"] == record["operators"]


def test_options_change_the_scheme(call: Call, folder: Path) -> None:
    options = ("--calibration", "p99.9", "--smooth", "0.5", "--keep", "4", "--json")
    answer = call("quantize", "toy_tasks:TOY", "--recipe", "int8-tensor", *options)
    assert answer.code == 0
    record = json.loads(answer.out)
    assert [o["name"] for o in record["operators"]] == ["0", "2"]
    assert {k["name"]: k["reason"] for k in record["kept"]}["4"] == "asked for"
    dynamic = ("--dynamic", "--gptq", "--act-order", "--json")
    answer = call("quantize", "toy_tasks:TOY", "--recipe", "fp8-ptq-e4m3", *dynamic)
    assert answer.code == 0
    record = json.loads(answer.out)
    assert record["operators"][0]["scales"]["input"] == "dynamic"


def test_weights_of_a_checkpoint(call: Call, folder: Path) -> None:
    save_file({"a.weight": normal(64, 256), "norm": torch.ones(4)}, folder / "in.safetensors")
    options = ("--weights", "in.safetensors", "--recipe", "w4a16-g128", "-o", "out.safetensors")
    answer = call("quantize", *options)
    assert answer.code == 0
    out = answer.out
    assert "weights in int4.g128 (w4a16-g128)" in out
    assert "wrote out.safetensors: 1 of 2 tensors quantised" in out
    answer = call("quantize", *options, "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["tensors"][0]["stored_bytes"] == 64 * (128 + 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either module:NAME of a task, or a checkpoint by --weights"),
        (("toy_tasks:TOY", "--weights", "a.safetensors"), "give either module:NAME of a task, or"),
        (("toy_tasks",), "task 'toy_tasks': write module:NAME, as in my_tasks:ENCODER"),
        (
            ("toy_tasks:NUMBR",),
            "task 'toy_tasks:NUMBR': the module has no 'NUMBR': did you mean 'NUMBER'?",
        ),
        (("toy_task:TOY",), "task 'toy_task:TOY': no module 'toy_task' in "),
        (("lame_tasks:TOY",), "task 'lame_tasks:TOY': no module 'not_installed_anywhere' in "),
        (("toy_tasks:NUMBER",), "task 'toy_tasks:NUMBER': is a int: a task has a name and the me"),
        (("toy_tasks:half",), "task 'toy_tasks:half': made a dict: a task has a name and the meth"),
        (("toy_tasks:EMPTY",), "task 'toy': calibration is empty: give at least one batch"),
        (("toy_tasks:BROKEN",), "task 'toy': calibration: each batch is a tensor, or the tuple"),
        (
            ("toy_tasks:MISSING",),
            "task 'toy': calibration() failed: FileNotFoundError: [Errno 2] No",
        ),
        (
            ("toy_tasks:MISNAMED",),
            "task 'toy': model() failed: AttributeError: module 'torch.nn' h",
        ),
        (
            ("toy_tasks:SCORELESS",),
            "task 'toy': score() failed: RuntimeError: mat1 and mat2 shapes",
        ),
        (("toy_tasks:NAN",), "calibration: the input of 0 holds NaN or infinite values in batch 2"),
        (
            ("toy_tasks:WRONG",),
            "calibration: the model cannot be called with batch 1 (32x16, 32x16)",
        ),
        (("torn_tasks:TOY",), "task 'torn_tasks:TOY': importing 'torn_tasks' failed: SyntaxError:"),
        (
            ("toy_tasks:TOY", "--keep", "9"),
            "keep '9': no layer or operator of the model has such a",
        ),
        (("toy_tasks:OTHER",), "task 'toy': its model() made a str, no torch module"),
        (("toy_tasks:TOY", "--recipe", "mxfp5"), "unknown recipe 'mxfp5': did you mean 'mxfp4'?"),
        (("toy_tasks:TOY", "--scheme", "standart"), "unknown scheme 'standart': did you mean"),
        (("toy_tasks:TOY", "--criterion", "much"), "--criterion 'much': a relative loss as 1% or"),
        (("toy_tasks:TOY", "--criterion", "200%"), "--criterion '200%': a relative loss as 1% or"),
        (("toy_tasks:TOY", "--calibration", "p9"), "percentile 9.0: at least 50 and below 100"),
        (("toy_tasks:TOY", "--calibration", "mes"), "calibration 'mes': did you mean 'mse'?"),
        (("toy_tasks:TOY", "--smooth", "2"), "smooth 2.0: SmoothQuant's alpha lies from 0 to 1"),
        (("toy_tasks:TOY", "--act-order"), "act_order is an option of GPTQ"),
        (
            ("toy_tasks:TOY", "--output", "toy_tasks.py"),
            "toy_tasks.py: is a file: give --output a ",
        ),
        (("toy_tasks:TOY", "--output", "toy_tasks.py/a/b"), "toy_tasks.py: is a file: give --outp"),
        (("--weights", "a.safetensors"), "--weights needs --output FILE.safetensors"),
        (("--weights", "a.safetensors", "--gptq"), "--gptq needs a task, which has data"),
        (("--weights", "a.safetensors", "-o", "b.safetensors"), "a.safetensors"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    call: Call, arguments: tuple[str, ...], message: str, folder: Path
) -> None:
    captured = call("quantize", *arguments)
    is_mistake(captured, message)
    assert captured.out == ""  # nothing was quantised and scored before
    files = sorted(p.name for p in folder.iterdir() if p.suffix)
    assert files == ["lame_tasks.py", "torn_tasks.py", "toy_tasks.py"]


def test_the_python_api_has_the_verb() -> None:
    assert workbench.quantize is quantize


@pytest.mark.slow
def test_help_of_the_verb_loads_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['workbench', 'quantize', '--help']\n"
        "import workbench.cli\n"
        "try: workbench.cli.main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise ValueError('no data here')", "importing 'mine' failed: no data here"),
        ("import sys; sys.exit(5)", "importing 'mine' ended the process (exit code 5): take that"),
    ],
    ids=["value error", "exit"],
)
def test_a_file_that_breaks_or_ends_is_named(
    call: Call, folder: Path, code: str, says: str
) -> None:
    (folder / "mine.py").write_text(code)
    is_mistake(call("quantize", "mine:TASK"), f"task 'mine:TASK': {says}")
