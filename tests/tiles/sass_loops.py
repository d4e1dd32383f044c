"""Loops of compiled CUDA code as lists of instructions."""

import re

_LABEL = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")


def loops(machine_code: str) -> list[list[str]]:
    """The innermost loops first: opcodes with their modifiers from a label to the jump back."""
    labels: dict[str, int] = {}
    opcodes: list[str] = []
    found: list[tuple[int, int]] = []
    for line in machine_code.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(opcodes)
        elif instruction := _INSTRUCTION.match(line):
            opcodes.append(instruction[1])
            target = re.search(r"(\.L_x_\d+)", instruction[2])
            if instruction[1].startswith("BRA") and target and target[1] in labels:
                found.append((labels[target[1]], len(opcodes)))
    bodies = [opcodes[start:end] for start, end in found]
    return sorted(bodies, key=len)
