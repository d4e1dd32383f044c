"""What a compiled loop leaves running: wgmma products that still read registers."""

import re

__all__ = ["left_running"]

_LABEL = re.compile(r"^(\$L\w+):")
_JUMP = re.compile(r"\bbra(?:\.uni)?\s+(\$L\w+)")
_WAIT = re.compile(r"wgmma\.wait_group\.sync\.aligned\s+(\d+)")
#: The first operand behind the accumulators: registers in braces, or a descriptor of shared memory.
_FROM_REGISTERS = re.compile(r"wgmma\.mma_async\.\S+\s*\{[^}]*\},\s*\{")


def left_running(ptx: str) -> int:
    """Products with a first operand in registers that a loop's end finds unfinished, at most.

    The next pass of the loop writes those registers again, which PTX allows only after a
    ``wgmma.wait_group`` that covers the product; Triton does not see to it, ptxas not always.
    """
    lines = ptx.splitlines()
    labels: dict[str, int] = {}
    worst = 0
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = number
        jump = _JUMP.search(line)
        if jump is None or jump[1] not in labels:
            continue
        uncommitted, groups = 0, list[int]()
        for inner in lines[labels[jump[1]] : number]:
            if _FROM_REGISTERS.search(inner):
                uncommitted += 1
            elif "wgmma.commit_group" in inner:
                groups.append(uncommitted)
                uncommitted = 0
            elif wait := _WAIT.search(inner):
                groups = groups[max(0, len(groups) - int(wait[1])) :]
        worst = max(worst, uncommitted + sum(groups))
    return worst
