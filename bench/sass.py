"""What a kernel's inner loop is made of, from its machine code; no GPU is needed.

    python -m bench.sass FAMILY PROBLEM [--config '{"block_m": 128, ...}'] [--gpu h200]

Compiles one configuration (the family's default unless given) for the GPU file's architecture and
prints registers, stack (spills), and a count of the instructions of every innermost loop, the
longest first; of a kernel without loops of all.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["histogram", "loops", "machine_code", "main", "opcodes"]

#: Instructions of a loop that does more than wait for a barrier.
LEAST = 16
_LABEL = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")


def machine_code(binary: bytes) -> str:
    """A cubin's instructions (SASS), jumps by label.

    Raises:
        RuntimeError: there is no ``nvdisasm``.
    """
    from tiles.kernels.cubin import cuobjdump

    tool = cuobjdump()
    if tool is None:
        raise RuntimeError("nvdisasm is missing: it comes with Triton and with the CUDA toolkit")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        command = [str(Path(tool).with_name("nvdisasm")), "-c", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    return done.stdout


def loops(code: str, *, holding_others: bool = False) -> list[list[str]]:
    """Opcodes with their modifiers from a label to the jump back, in the order of the code.

    Args:
        holding_others: loops that hold another one too.  A jump back out of a wait that is rarely
            taken makes one of a part of its loop.
    """
    labels: dict[str, int] = {}
    opcodes: list[str] = []
    found: list[tuple[int, int]] = []
    for line in code.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(opcodes)
        elif instruction := _INSTRUCTION.match(line):
            opcodes.append(instruction[1])
            target = re.search(r"(\.L_x_\d+)", instruction[2])
            if instruction[1].startswith("BRA") and target and target[1] in labels:
                found.append((labels[target[1]], len(opcodes)))
    chosen = [
        (start, end)
        for start, end in found
        # Two jumps may go back to one label: the shorter of both is inside the longer.
        if holding_others
        or not any(start <= s and e <= end and (s, e) != (start, end) for s, e in found)
    ]
    return [opcodes[start:end] for start, end in chosen if end - start > 1]


def opcodes(code: str) -> list[str]:
    """All opcodes with their modifiers, without what fills the last line up."""
    found = (_INSTRUCTION.match(line) for line in code.splitlines())
    return [match[1] for match in found if match and match[1] != "NOP"]


def histogram(body: Sequence[str]) -> str:
    """Counts of opcodes without their modifiers, the most frequent first."""
    counts = Counter(opcode.partition(".")[0] for opcode in body)
    return f"{len(body)} instructions: " + ", ".join(f"{n} {op}" for op, n in counts.most_common())


def main(given: Sequence[str] | None = None) -> int:
    """Print the loops; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="bench.sass", description=__doc__.splitlines()[0])
    parser.add_argument("family")
    parser.add_argument("problem")
    parser.add_argument("--config", help="JSON of the configuration's fields")
    parser.add_argument("--gpu", default="h200")
    chosen = parser.parse_args(given)
    from sim import load_gpu
    from tiles.kernels import kernel
    from tiles.kernels.cuda.modules import BINARIES
    from tiles.problems import parse_problem

    try:
        family, problem = kernel(chosen.family), parse_problem(chosen.problem)
        limits = load_gpu(chosen.gpu).limits
        if (reason := family.refusal(problem, limits)) is not None:
            raise ValueError(reason)
        config = family.default(problem, limits)
        if chosen.config is not None:
            config = family.config_type.from_dict(json.loads(chosen.config))
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    with TemporaryDirectory() as folder:
        os.environ |= {BINARIES: folder, "TRITON_CACHE_DIR": folder}
        facts = family.compile_offline(problem, config, limits)
        binaries = sorted(Path(folder).rglob("*.cubin"))
        listings = [machine_code(path.read_bytes()) for path in binaries]
    if facts is None or not listings:
        parser.error(
            f"{family.name} is not compiled for {chosen.gpu} here: cuda-bindings or Triton"
        )
    print(f"{problem} with {family.name}: {config}")
    print(
        f"{facts.compiler}, {facts.target}: {facts.registers} registers, "
        f"{facts.stack_bytes} bytes of stack, {facts.smem_bytes} of shared memory"
    )
    for listing in listings:
        bodies = [body for body in loops(listing) if len(body) >= LEAST]
        for body in sorted(bodies, key=len, reverse=True):
            print(histogram(body))
        if not bodies:  # one pass: paths that are rarely taken count too
            print("no loop: " + histogram(opcodes(listing)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
