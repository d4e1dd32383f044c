"""Targets of ``emit`` that are tuned files: what a sweep found, as a serving engine reads it."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from workbench.deploy.body import body_text
from workbench.deploy.earlier_rows import EarlierRow, earlier_rows
from workbench.deploy.families import ConfigFamily, family_named
from workbench.deploy.file_name import check_device, file_names, parse_version, version_folder
from workbench.deploy.measured import LeftOut, MeasuredProduct, measured_products, time_us
from workbench.deploy.side_file import read_records, write_folder
from workbench.deploy.tuned import Entry, TunedFile, TunedName
from workbench.deploy.written import WrittenConfigs, WrittenRow

if TYPE_CHECKING:
    from tuning import Run, TrialRecord

__all__ = [
    "CONFIG_TARGETS",
    "SGLANG_LINEAR",
    "SGLANG_MOE",
    "VLLM_LINEAR",
    "VLLM_MOE",
    "ConfigTarget",
    "write_configs",
]


def write_configs(
    run: "Run",
    target: str,
    output: Path,
    *,
    device: str | None = None,
    triton: str | None = None,
) -> WrittenConfigs:
    """Write the tuned files of a sweep for a serving engine, and a side file with their evidence.

    Of every study the fastest configuration that an entry can say is taken, and how much slower it
    is than the fastest of all is told.  Rows that an earlier run wrote for other M stay, where they
    still hold; what does not stay is told, too.  Second products of experts (SGLang) are written
    where every M of the first one has a study, with one BLOCK_SIZE_M for both.

    Args:
        run: a run folder read back.
        target: a name of :data:`workbench.deploy.families.FAMILIES`.
        output: folder; files of other origin in it are never replaced.
        device: as the driver names it; by default what each study's environment says, and the GPU
            file's name for simulated ones.
        triton: X.Y.Z that SGLang's version folder and vLLM's key are named by; by default that of
            each study's environment.
    Raises:
        ValueError: nothing can be written, with the reasons; or the output refuses it.
    """
    family = family_named(target)
    if device is not None:
        check_device(device)
    if triton is not None and parse_version(triton) is None:
        raise ValueError(f"--triton {triton!r:.60}: write three numbers, X.Y.Z")
    products, left = measured_products(run, family, device)
    chosen = _paired(products, left) if family.down else [(p, p.eligible[0]) for p in products]
    grouped = _grouped(family, chosen, left, triton)
    texts: dict[str, str] = {}
    records: dict[str, dict[str, Any]] = {}
    rows: list[WrittenRow] = []
    for members in grouped.values():
        members.sort(key=lambda member: member[0].m)
    files = {
        path: (file, members)
        for (name, version), members in grouped.items()
        for file in [
            TunedFile(
                name=name, rows=tuple((p.m, entry) for p, (entry, _) in members), triton=version
            )
        ]
        for path in _paths(family, file)
    }
    earlier = _earlier(family, output, {path: file for path, (file, _) in files.items()}, left)
    for path, (file, members) in files.items():
        kept = earlier[path]
        both = [*file.rows, *((one.m, one.entry) for one in kept)]
        texts[path] = body_text(family, replace(file, rows=tuple(sorted(both, key=_m_of))))
        told = [*(_record(p, choice) for p, choice in members), *(one.record for one in kept)]
        records[path] = {
            "family": family.name,
            "run": run.folder.name,
            "rows": sorted(told, key=lambda row: row["m"]),
        }
        rows += [
            WrittenRow(
                path=output / path,
                m=product.m,
                problem=str(product.study.problem),
                entry=entry,
                time_us=time_us(trial),
                loss=time_us(trial) / time_us(product.fastest) - 1,
                eligible=len(product.eligible),
                simulated=product.study.simulated,
            )
            for product, (entry, trial) in members
        ]
    if not texts:
        first = f": {left[0]}" if left else ""
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        raise ValueError(f"nothing to write for {target}{first}{more}: sweep what it takes")
    written = write_folder(output, texts, records)
    return WrittenConfigs(
        target=target,
        files=tuple(written),
        rows=tuple(rows),
        left_out=tuple(left),
        kept={
            output / path: tuple(one.m for one in kept) for path, kept in earlier.items() if kept
        },
    )


def _m_of(row: tuple[int, Entry]) -> int:
    return row[0]


def _earlier(
    family: ConfigFamily, output: Path, files: dict[str, TunedFile], left: list[LeftOut]
) -> dict[str, list[EarlierRow]]:
    """The rows of our own files in the output that stay, by path."""
    known = read_records(output) if output.is_dir() else {}
    found = {
        path: earlier_rows(output / path, known.get(path), family, file)
        for path, file in files.items()
    }
    # Both products of experts are launched with one BLOCK_SIZE_M: they keep the same M.
    pairs: dict[tuple[TunedName, str | None], list[str]] = {}
    for path, file in files.items():
        pairs.setdefault((replace(file.name, down=False), file.triton), []).append(path)
    kept: dict[str, list[EarlierRow]] = {}
    for paths in pairs.values():
        both = len({files[path].name.down for path in paths}) > 1
        common = set.intersection(*({one.m for one in found[path]} for path in paths))
        for path in paths:
            kept[path] = []
            for one in found[path]:
                why = one.obstacle
                if both and one.m not in common:
                    why = why or "the other product's file has no row for it"
                if why:
                    left.append(LeftOut(study=f"M {one.m} of {path}, there before", reason=why))
                else:
                    kept[path].append(one)
    return kept


_Choice = tuple[Entry, "TrialRecord"]


def _grouped(
    family: ConfigFamily,
    chosen: "list[tuple[MeasuredProduct, _Choice]]",
    left: list[LeftOut],
    triton: str | None,
) -> "dict[tuple[TunedName, str | None], list[tuple[MeasuredProduct, _Choice]]]":
    """Rows by the file that they go into: its name and the Triton version that it speaks of."""
    found: dict[tuple[TunedName, str | None], list[tuple[MeasuredProduct, _Choice]]] = {}
    newest: dict[TunedName, str | None] = {}
    for product, choice in chosen:
        version = triton or (None if product.triton is None else product.triton.partition("+")[0])
        if family.version_folder and (version is None or parse_version(version) is None):
            left.append(
                _left(product, "no Triton version X.Y.Z is known, which the folder is named by")
            )
            continue
        if not (family.version_folder or family.version_key):
            version = None
        if not family.version_folder and newest.setdefault(product.name, version) != version:
            left.append(
                _left(product, f"measured with Triton {version}, others of its file with another")
            )
            continue
        found.setdefault((product.name, version), []).append((product, choice))
    return found


def _paths(family: ConfigFamily, file: TunedFile) -> list[str]:
    folder = PurePosixPath()
    if family.version_folder:
        assert file.triton is not None
        folder = PurePosixPath(version_folder(file.triton))
    return [str(folder / name) for name in file_names(family, file.name)]


def _paired(
    products: list[MeasuredProduct], left: list[LeftOut]
) -> list[tuple[MeasuredProduct, _Choice]]:
    """Both products of experts with one BLOCK_SIZE_M at every M, the smallest sum of times."""
    firsts = {(p.name, p.m): p for p in products if not p.name.down}
    seconds = {(replace(p.name, down=False), p.m): p for p in products if p.name.down}
    chosen: list[tuple[MeasuredProduct, _Choice]] = []
    for name in dict.fromkeys(name for name, _ in firsts):
        keys = [(name, m) for one, m in firsts if one == name]
        pairs = {key: _pair(firsts[key], seconds[key]) for key in keys if key in seconds}
        whole = all(pairs.get(key) is not None for key in keys)
        for key in keys:
            second, pair = seconds.pop(key, None), pairs.get(key)
            if whole and pair is not None and second is not None:
                chosen += [(firsts[key], pair[0]), (second, pair[1])]
                continue
            chosen.append((firsts[key], firsts[key].eligible[0]))
            if second is not None:
                left.append(
                    _left(
                        second,
                        "not at every M of the first product both were measured with one "
                        "BLOCK_SIZE_M, which they share",
                    )
                )
    left += [_left(p, "the first product has no study at this M") for p in seconds.values()]
    return chosen


def _pair(up: MeasuredProduct, down: MeasuredProduct) -> tuple[_Choice, _Choice] | None:
    both = [
        (one, two)
        for one in up.eligible
        for two in down.eligible
        if one[0].block_m == two[0].block_m
    ]
    return min(both, key=lambda b: time_us(b[0][1]) + time_us(b[1][1]), default=None)


def _left(product: MeasuredProduct, reason: str) -> LeftOut:
    return LeftOut(study=f"{product.study.problem} {product.study.kernel}", reason=reason)


def _record(product: MeasuredProduct, choice: _Choice) -> dict[str, Any]:
    """What the side file says of a row; measured and simulated times have names of their own."""
    study, (_, trial) = product.study, choice
    what = "simulated_us" if study.simulated else "measured_us"
    return {
        "m": product.m,
        "problem": str(study.problem),
        "kernel": study.kernel,
        "source": study.source,
        "config": trial.config.to_dict(),
        what: time_us(trial),
        "predicted_us": trial.predicted_us,
        "fastest": {"config": product.fastest.config.to_dict(), what: time_us(product.fastest)},
        "slower_than_fastest": time_us(trial) / time_us(product.fastest) - 1,
        "not_said": product.refused,
        "environment": None if study.environment is None else study.environment.to_dict(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigTarget:
    """A target of ``emit``."""

    name: str  #: of a family

    def write(
        self, run: "Run", output: Path, *, device: str | None = None, triton: str | None = None
    ) -> WrittenConfigs:
        """What :func:`write_configs` does for this family, with its errors."""
        return write_configs(run, self.name, output, device=device, triton=triton)


VLLM_LINEAR = ConfigTarget(name="vllm-linear")
VLLM_MOE = ConfigTarget(name="vllm-moe")
SGLANG_LINEAR = ConfigTarget(name="sglang-linear")
SGLANG_MOE = ConfigTarget(name="sglang-moe")

#: Targets by name; their options are ``device`` and ``triton``.
CONFIG_TARGETS: dict[str, ConfigTarget] = {
    one.name: one for one in (VLLM_LINEAR, VLLM_MOE, SGLANG_LINEAR, SGLANG_MOE)
}
