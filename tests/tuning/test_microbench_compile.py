"""The microbenchmarks' CUDA C++, compiled without a GPU: they hold what they claim to time."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tiles"))

from nvrtc_compile import Compiled, compile_cuda

from tuning.microbench.catalogue import ELEMENTS, OPERATIONS

FOLDER = Path(__file__).parents[2] / "tuning" / "microbench"
#: The instruction of each operation on sm_90, and how often the loop's body holds it.
INSTRUCTIONS = {
    "fma": "FFMA",
    "half2_fma": "HFMA2",
    "logic": "LOP3",
    "permute": "PRMT",
    "int_to_float": "I2F",
    "float_to_int": "F2I",
    "floats_to_bf16": "F2FP",
    "exponential": "MUFU",
}
BODY = 8 * 16


def count(compiled: Compiled, instruction: str) -> int:
    return len(
        re.findall(rf"^\s+/\*[0-9a-f]+\*/\s+(?:@\S+ )?{instruction}", compiled.machine_code(), re.M)
    )


@pytest.mark.parametrize(
    "arch",
    [
        "sm_90a",
        pytest.param("sm_80", marks=pytest.mark.slow),
        pytest.param("sm_100a", marks=pytest.mark.slow),
    ],
)
def test_all_compile_for(arch: str) -> None:
    compile_cuda(FOLDER / "memory.cu", [f"-arch={arch}"])
    compile_cuda(FOLDER / "pipes.cu", [f"-arch={arch}", "-DOP=0"])
    elements = ["bf16", "fp16", "int8"] if arch == "sm_80" else ELEMENTS
    for name in elements:
        compile_cuda(FOLDER / "mma_sync.cu", [f"-arch={arch}", f"-DELEMENT={ELEMENTS.index(name)}"])


@pytest.mark.parametrize(
    "op", ["fma", *(pytest.param(one, marks=pytest.mark.slow) for one in list(OPERATIONS)[1:])]
)
def test_a_pipes_loop_holds_its_instruction(op: str) -> None:
    number = list(OPERATIONS).index(op)
    compiled = compile_cuda(FOLDER / "pipes.cu", ["-arch=sm_90a", f"-DOP={number}"])
    assert BODY <= count(compiled, INSTRUCTIONS[op]) <= BODY + 10


@pytest.mark.slow
@pytest.mark.parametrize(("element", "name"), [("bf16", "HGMMA"), ("int8", "IGMMA")])
def test_wgmma_is_what_it_says(element: str, name: str) -> None:
    options = ["-arch=sm_90a", f"-DELEMENT={ELEMENTS.index(element)}", "-DWGMMA_N=128"]
    compiled = compile_cuda(FOLDER / "wgmma.cu", options)
    assert count(compiled, name) % 4 == 0
    assert count(compiled, name) > 0
    assert count(compiled, "STL") == 0  # no spills


def test_loads_pass_by_the_l1_and_are_under_way_together() -> None:
    code = compile_cuda(FOLDER / "memory.cu", ["-arch=sm_90a"]).machine_code()
    for name in ("read_vectors", "read_shared", "copy_vectors"):
        body = code.split(f".text.{name}:")[1].split("//------")[0]
        # In order: loads past the L1, and the first use of what came.
        order = re.findall(r"(LDG\.E\.128\.STRONG\.GPU|LOP3\.LUT R|STG)", body)
        first = next(at for at, one in enumerate(order) if one.startswith("LDG"))
        assert [one.startswith("LDG") for one in order[first : first + 9]] == [True] * 8 + [False]
