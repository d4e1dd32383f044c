"""Rows that lookups take, judged by what a sweep measured."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workbench.deploy.file_name import parse_version
from workbench.deploy.finding import Finding
from workbench.deploy.folder import ReadFile
from workbench.deploy.measured import MeasuredProduct, comparable_us, measured_products, time_us
from workbench.deploy.name_rules import right_name

if TYPE_CHECKING:
    from tuning import Run, TrialRecord

__all__ = ["MAX_LOSS", "Lookup", "lookup_findings", "lookups"]

#: What the nearest M may lose against the best entry that was measured.
MAX_LOSS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """What a loader takes from a file at an M that was measured."""

    file: ReadFile
    product: MeasuredProduct
    row: int  #: the key that is nearest
    taken: "TrialRecord | None"  #: of its entry at this M; ``None``: that was not measured

    @property
    def loss(self) -> float | None:
        """How much slower than the fastest entry that was measured."""
        return None if self.taken is None else comparable_us(self.taken) / self.product.best_us - 1


def lookups(run: "Run", files: Sequence[ReadFile]) -> Iterator[Lookup]:
    """Every study of a run that some file is looked up for."""
    for family in {file.family.name: file.family for file in files}.values():
        there: dict[object, list[ReadFile]] = {}
        for file in files:
            if file.family is family and file.body.rows:
                there.setdefault(right_name(file), []).append(file)
        for product in measured_products(run, family)[0]:
            candidates = there.get(product.name)
            if not candidates:
                continue
            # SGLang takes the folder of the very Triton, else the newest.
            file = max(
                candidates,
                key=lambda f: (
                    f.triton == product.triton,
                    parse_version((f.triton or "0.0.0").partition("+")[0]) or (0, 0, 0),
                ),
            )
            row, entry = file.tuned().row(product.m)
            yield Lookup(
                file=file,
                product=product,
                row=row,
                taken=dict(product.eligible).get(entry),
            )


def lookup_findings(found: Iterable[Lookup]) -> Iterator[Finding]:
    """Lookups that lose more than :data:`MAX_LOSS`."""
    for one in found:
        if one.taken is None or one.loss is None or one.loss <= MAX_LOSS:
            continue
        product = one.product
        how = "simulated" if product.study.simulated else "measured"
        best = product.eligible[0][0].to_dict()
        step = "tune it again" if one.row == product.m else f"add M {product.m}"
        yield Finding(
            rule="lookup.loss",
            path=one.file.path,
            message=f"M {product.m} takes row {one.row}: {time_us(one.taken):.2f} us {how}, "
            f"{100 * one.loss:.1f} % slower than {time_us(product.eligible[0][1]):.2f} us with "
            f"{' '.join(f'{k}={v}' for k, v in best.items())}: {step}",
        )
