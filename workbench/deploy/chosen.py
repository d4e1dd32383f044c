"""The rows that files get: which product, under which M, with which entry."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from workbench.deploy.families import ConfigFamily
from workbench.deploy.file_name import parse_version
from workbench.deploy.measured import LeftOut, MeasuredProduct, comparable_us
from workbench.deploy.tuned import Entry, TunedName

if TYPE_CHECKING:
    from tuning import TrialRecord

__all__ = ["ChosenRow", "FileKey", "choose_rows", "grouped", "left_out"]

#: What a file is: its name, and the Triton version that it speaks of.
FileKey = tuple[TunedName, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenRow:
    """A row of a file, and the trial that stands behind it."""

    m: int  #: the key that it stands under; the product's own M where keys were not chosen
    product: MeasuredProduct
    entry: Entry
    trial: "TrialRecord"  #: of the product's study

    @classmethod
    def of(cls, product: MeasuredProduct, entry: Entry) -> "ChosenRow":
        """One of a product's eligible entries under its own M."""
        return cls(m=product.m, product=product, entry=entry, trial=dict(product.eligible)[entry])


def left_out(product: MeasuredProduct, reason: str) -> LeftOut:
    """A product that no row speaks of."""
    return LeftOut(study=f"{product.study.problem} {product.study.kernel}", reason=reason)


def choose_rows(
    family: ConfigFamily, products: Sequence[MeasuredProduct], left: list[LeftOut]
) -> list[ChosenRow]:
    """Of every product its fastest entry; second products of experts in pairs with the first.

    Args:
        left: gets what has no row, with the reason.
    """
    if family.down:
        return _paired(products, left)
    return [ChosenRow.of(one, one.eligible[0][0]) for one in products]


def grouped(
    family: ConfigFamily,
    chosen: Sequence[ChosenRow],
    left: list[LeftOut],
    triton: str | None,
) -> dict[FileKey, list[ChosenRow]]:
    """Rows by the file that they go into, ascending in M.

    Args:
        left: gets what fits into no file, with the reason.
        triton: version that stands for what studies were measured with.
    """
    found: dict[FileKey, list[ChosenRow]] = {}
    newest: dict[TunedName, str | None] = {}
    for row in sorted(chosen, key=lambda one: one.m):
        product = row.product
        version = triton or (None if product.triton is None else product.triton.partition("+")[0])
        if family.version_folder and (version is None or parse_version(version) is None):
            unnamed = "no Triton version X.Y.Z is known, which the folder is named by"
            left.append(replace(left_out(product, unnamed), step="add --triton X.Y.Z"))
            continue
        if not (family.version_folder or family.version_key):
            version = None
        if not family.version_folder and newest.setdefault(product.name, version) != version:
            left.append(
                left_out(
                    product, f"measured with Triton {version}, others of its file with another"
                )
            )
            continue
        found.setdefault((product.name, version), []).append(row)
    return found


def _paired(products: Sequence[MeasuredProduct], left: list[LeftOut]) -> list[ChosenRow]:
    """Both products of experts with one BLOCK_SIZE_M at every M, the smallest sum of times."""
    firsts = {(p.name, p.m): p for p in products if not p.name.down}
    seconds = {(replace(p.name, down=False), p.m): p for p in products if p.name.down}
    chosen: list[ChosenRow] = []
    for name in dict.fromkeys(name for name, _ in firsts):
        keys = [(name, m) for one, m in firsts if one == name]
        pairs = {key: _pair(firsts[key], seconds[key]) for key in keys if key in seconds}
        whole = all(pairs.get(key) is not None for key in keys)
        for key in keys:
            second, pair = seconds.pop(key, None), pairs.get(key)
            if whole and pair is not None and second is not None:
                chosen += [ChosenRow.of(firsts[key], pair[0]), ChosenRow.of(second, pair[1])]
                continue
            chosen.append(ChosenRow.of(firsts[key], firsts[key].eligible[0][0]))
            if second is not None:
                left.append(
                    left_out(
                        second,
                        "not at every M of the first product both were measured with one "
                        "BLOCK_SIZE_M, which they share",
                    )
                )
    left += [left_out(p, "the first product has no study at this M") for p in seconds.values()]
    return chosen


def _pair(up: MeasuredProduct, down: MeasuredProduct) -> tuple[Entry, Entry] | None:
    both = [
        (comparable_us(one[1]) + comparable_us(two[1]), place, one[0], two[0])
        for place, (one, two) in enumerate((a, b) for a in up.eligible for b in down.eligible)
        if one[0].block_m == two[0].block_m
    ]
    return min(both, key=lambda pair: pair[:2])[2:] if both else None
