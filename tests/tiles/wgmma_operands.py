"""Machine code in which products read registers: is any written before the products have ended?"""

import re

from bench.sass import loops

__all__ = ["overwritten_operands"]

_PRODUCT = re.compile(r"HGMMA\S*\s+R(\d+), R(\d+), gdesc")
_WAIT = re.compile(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\d+)")
_WRITES = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s+R(\d+)\b")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_BACK = re.compile(r"BRA\S*\s+(?:\S+, )?`\((\.L_x_\d+)\)")
#: Opcodes whose first register is read.
_READERS = ("ST", "RED", "SYNCS", "BAR", "R2UR", "BRA", "UTMA")


def _width(opcode: str) -> int:
    return 4 if ".128" in opcode else 2 if ".64" in opcode or ".WIDE" in opcode else 1


def overwritten_operands(code: str) -> tuple[list[str], int]:
    """Instructions that write what a product under way reads, and how many products there are.

    Every loop that holds a product is gone through twice, as written.
    """
    assert loops(code)  # the listing is one that bench.sass reads
    lines = code.splitlines()
    labels = {found[1]: i for i, line in enumerate(lines) if (found := _LABEL.match(line))}
    spans = [
        (labels[found[1]], i)
        for i, line in enumerate(lines)
        if (found := _BACK.search(line)) and labels.get(found[1], i) < i
    ]
    bodies = [lines[a : b + 1] for a, b in spans if any(_PRODUCT.search(x) for x in lines[a:b])]
    assert bodies, "no loop holds a product whose first operand lies in registers"
    bad: list[str] = []
    products = 0
    for body in bodies:
        under_way: list[set[int]] = [set()]  # by group, the open one last
        for line in body * 2:
            if found := _PRODUCT.search(line):
                products += 1
                under_way[-1] |= set(range(int(found[2]), int(found[2]) + 4))
                if "gsb0" in line:
                    under_way.append(set())
            elif found := _WAIT.search(line):
                kept = int(found[1])
                under_way = [*under_way[:-1][-kept:], under_way[-1]] if kept else [under_way[-1]]
            elif (found := _WRITES.search(line)) and not found[1].startswith(_READERS):
                written = range(int(found[2]), int(found[2]) + _width(found[1]))
                if set(written) & set().union(*under_way):
                    bad.append(line.strip())
    return bad, products
