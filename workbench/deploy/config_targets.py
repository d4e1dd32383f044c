"""Targets of ``emit`` that are tuned files: what a sweep found, as a serving engine reads it."""

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tiles.intake import shown
from tuning.objective import Objective, objective_of
from workbench.deploy.body import body_text
from workbench.deploy.chosen import ChosenRow, FileKey, choose_rows, grouped
from workbench.deploy.earlier_rows import rows_that_stay
from workbench.deploy.families import ConfigFamily, family_named
from workbench.deploy.file_name import check_device, file_names, parse_version, version_folder
from workbench.deploy.kept_keys import KeptKeys, keep_keys
from workbench.deploy.measured import comparable_us, measured_products, time_us
from workbench.deploy.resources import gpu_of
from workbench.deploy.side_file import held, write_folder
from workbench.deploy.tuned import Entry, TunedFile
from workbench.deploy.written import WrittenConfigs, WrittenRow

if TYPE_CHECKING:
    from tuning import Run

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
    rows_loss: float | None = None,
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
        rows_loss: keep as few M as the engine's lookup needs to lose at most this much (0.02: 2 %);
            ``None`` keeps every tuned M.
    Raises:
        ValueError: nothing can be written, with the reasons; or the output refuses it.
    """
    family = family_named(target)
    if device is not None:
        check_device(device)
        other = gpu_of("_".join(device.replace("/", " ").split()), run.gpu)
        if other is not None and other.name != run.gpu.name:
            raise ValueError(
                f"--device {shown(device)}: that is {other.name}, and {run.folder} was swept for "
                f"{run.gpu.name}: sweep for {other.name}, or leave it out"
            )
    if triton is not None and parse_version(triton) is None:
        raise ValueError(f"--triton {triton!r:.60}: write three numbers, X.Y.Z")
    if objective_of(run.plan) is Objective.ENERGY:
        raise ValueError(
            f"{run.folder} was searched for energy, and tuned files go by time: sweep with "
            "--objective time"
        )
    products, left = measured_products(run, family, device)
    files = grouped(family, choose_rows(family, products, left), left, triton)
    kept: dict[FileKey, KeptKeys] = {}
    if rows_loss is not None:
        files, kept = keep_keys(files, family, rows_loss, run.gpu, left)
    keys: dict[str, KeptKeys] = {}
    texts: dict[str, str] = {}
    records: dict[str, dict[str, Any]] = {}
    rows: list[WrittenRow] = []
    made = {
        path: (key, file)
        for key, members in files.items()
        for file in [
            TunedFile(name=key[0], rows=tuple((one.m, one.entry) for one in members), triton=key[1])
        ]
        for path in _paths(family, file)
    }
    if not made:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        why = f": {left[0]}{more}: {left[0].step}" if left else ": the run has no studies"
        raise ValueError(f"nothing to write for {target}{why}")
    # Rows that another process writes meanwhile would be lost otherwise.
    with held(output):
        earlier = rows_that_stay(
            family,
            output,
            {path: file for path, (_, file) in made.items()},
            left,
            chosen=rows_loss is not None,
        )
        for path, (key, file) in made.items():
            both = dict(file.rows) | {one.m: one.entry for one in earlier[path]}
            texts[path] = body_text(
                family, replace(file, rows=tuple(sorted(both.items(), key=_m_of)))
            )
            told = [*map(_record, files[key]), *(one.record for one in earlier[path])]
            records[path] = {
                "family": family.name,
                "run": run.folder.name,
                "rows": sorted(told, key=lambda row: int(row["m"])),
            }
            if key in kept:
                keys[path] = kept[key]
                records[path]["keys"] = keys[path].to_dict()
            rows += [_written(output / path, one) for one in files[key]]
        written = write_folder(output, texts, records)
    return WrittenConfigs(
        target=target,
        files=tuple(written),
        rows=tuple(rows),
        left_out=tuple(left),
        keys={output / path: one for path, one in keys.items()},
        kept={output / path: tuple(r.m for r in stay) for path, stay in earlier.items() if stay},
    )


def _m_of(row: tuple[int, Entry]) -> int:
    return row[0]


def _written(path: Path, row: ChosenRow) -> WrittenRow:
    product = row.product
    return WrittenRow(
        path=path,
        m=row.m,
        problem=str(product.study.problem),
        entry=row.entry,
        time_us=time_us(row.trial),
        loss=comparable_us(row.trial) / comparable_us(product.fastest) - 1,
        eligible=len(product.eligible),
        simulated=product.study.simulated,
        of_m=product.m,
    )


def _paths(family: ConfigFamily, file: TunedFile) -> list[str]:
    folder = PurePosixPath()
    if family.version_folder:
        assert file.triton is not None
        folder = PurePosixPath(version_folder(file.triton))
    return [str(folder / name) for name in file_names(family, file.name)]


def _record(row: ChosenRow) -> dict[str, Any]:
    """What the side file says of a row; measured and simulated times have names of their own."""
    product, trial = row.product, row.trial
    study = product.study
    what = "simulated_us" if study.simulated else "measured_us"
    return {
        "m": row.m,
        "problem": str(study.problem),
        "kernel": study.kernel,
        "source": study.source,
        "config": trial.config.to_dict(),
        what: time_us(trial),
        "predicted_us": trial.predicted_us,
        "fastest": {"config": product.fastest.config.to_dict(), what: time_us(product.fastest)},
        "slower_than_fastest": comparable_us(trial) / comparable_us(product.fastest) - 1,
        "not_said": product.refused,
        "environment": None if study.environment is None else study.environment.to_dict(),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigTarget:
    """A target of ``emit``."""

    name: str  #: of a family

    def write(
        self,
        run: "Run",
        output: Path,
        *,
        device: str | None = None,
        triton: str | None = None,
        rows_loss: float | None = None,
    ) -> WrittenConfigs:
        """What :func:`write_configs` does for this family, with its errors."""
        return write_configs(
            run, self.name, output, device=device, triton=triton, rows_loss=rows_loss
        )


VLLM_LINEAR = ConfigTarget(name="vllm-linear")
VLLM_MOE = ConfigTarget(name="vllm-moe")
SGLANG_LINEAR = ConfigTarget(name="sglang-linear")
SGLANG_MOE = ConfigTarget(name="sglang-moe")

#: Targets by name; their options are ``device``, ``triton`` and ``rows_loss``.
CONFIG_TARGETS: dict[str, ConfigTarget] = {
    one.name: one for one in (VLLM_LINEAR, VLLM_MOE, SGLANG_LINEAR, SGLANG_MOE)
}
