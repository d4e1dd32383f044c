"""Checking a folder of tuned files, and mending it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from sim import Gpu, load_gpu
from tiles.intake import shown
from workbench.deploy.coding import Coding
from workbench.deploy.families import ConfigFamily, family_named
from workbench.deploy.file_name import parse_version
from workbench.deploy.finding import Finding, LintReport
from workbench.deploy.folder import ReadFile, sort_out
from workbench.deploy.folder_rules import down_findings, folder_findings, version_findings
from workbench.deploy.mending import mend
from workbench.deploy.model_rules import folder_coding, model_findings
from workbench.deploy.model_shapes import model_coding, wanted_files
from workbench.deploy.name_rules import collisions, free_renames, name_findings, right_name
from workbench.deploy.resources import device_of
from workbench.deploy.rules import RULES
from workbench.deploy.scan import scan
from workbench.deploy.tile_rules import tile_findings

if TYPE_CHECKING:
    from tuning import Run

__all__ = ["lint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What a folder is checked against."""

    folder: Path
    family: ConfigFamily | None
    gpu: Gpu | None
    model: Path | None
    tp: int
    ep: int
    coding: Coding | None
    triton: str | None
    run: "Run | None"


def lint(
    folder: str | Path,
    *,
    family: str | None = None,
    gpu: str | None = None,
    model: str | Path | None = None,
    tp: int = 1,
    ep: int = 1,
    dtype: str | None = None,
    block_shape: str | None = None,
    triton: str | None = None,
    run: str | Path | None = None,
    fix: bool = False,
) -> LintReport:
    """Check a folder of vLLM's or SGLang's tuned files; nothing is written without ``fix``.

    Args:
        folder: looked through with its sub-folders; links are not followed out of it.
        family: a name of :data:`workbench.deploy.families.FAMILIES` that files of its kind belong
            to; by default told from folders and names.
        gpu: a GPU's name or file: of a model's files, and of device names that no file of ours has.
        model: a Hugging Face config.json; files that it asks for and the folder lacks are told.
        tp, ep: its parallel layout: ranks that share a layer, and that experts are spread over.
        dtype, block_shape: how its weights are stored, e.g. ``fp8_w8a8`` and ``128x128``, where
            neither its config.json nor the folder says so; ``none``: not quantised.
        triton: X.Y.Z of the server.
        run: a run folder; lookups at every M that it measured are judged by it.
        fix: mend what can be, with backups.

    Raises:
        ValueError: no such folder, model, GPU or run; a folder without tuned files; a bad
            argument; or ``fix`` cannot write.
    """
    if triton is not None and parse_version(triton) is None:
        raise ValueError(f"--triton {shown(triton)}: write three numbers, X.Y.Z")
    if model is None and (tp != 1 or ep != 1 or dtype is not None or block_shape is not None):
        raise ValueError("--tp, --ep, --dtype and --block-shape speak of a model: add --model")
    loaded = None
    if run is not None:
        from workbench.shared import load_study

        loaded = load_study(run)
    question = _Question(
        folder=Path(folder),
        family=None if family is None else family_named(family),
        gpu=None if gpu is None else load_gpu(gpu),
        model=None if model is None else Path(model),
        tp=tp,
        ep=ep,
        coding=_coding(dtype, block_shape),
        triton=triton,
        run=loaded,
    )
    report, files = _check(question)
    if not report.files and not report.findings and model is None:  # no answer to trust
        raise ValueError(
            f"{folder}: holds no tuned files: give the folder that an engine reads, or add --model "
            "and --family to be told which ones a model asks for"
        )
    if not fix:
        return report
    fixed = mend(question.folder, files, report.findings)
    after = _check(question)[0]
    return LintReport(
        files=after.files,
        families=after.families,
        findings=after.findings,
        fixed=tuple(fixed),
        lookups=after.lookups,
        simulated=after.simulated,
    )


def _coding(dtype: str | None, block_shape: str | None) -> Coding | None:
    if dtype is None:
        if block_shape is not None:
            raise ValueError("--block-shape says how a dtype is scaled: add --dtype")
        return None
    block = None
    if block_shape is not None:
        found = re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", block_shape)
        if found is None:
            raise ValueError(f"--block-shape {shown(block_shape)}: write e.g. 128x128")
        block = (int(found[1]), int(found[2]))
    return Coding(label=None if dtype == "none" else dtype, block_shape=block)


def _check(question: _Question) -> tuple[LintReport, list[ReadFile]]:
    scanned = scan(question.folder)
    files, unknown = sort_out(scanned, question.folder, question.family)
    findings = [Finding(rule=u.rule, path=u.path, message=u.message) for u in scanned.unsafe]
    findings += [
        Finding(rule="name.unknown", path=u.found.path, message=u.message) for u in unknown
    ]
    findings += folder_findings(scanned.version_folders, files)
    findings += collisions(files)
    findings += down_findings(files)
    for file in files:
        findings += name_findings(file)
        findings += [
            Finding(
                rule=fault.rule,
                path=file.path,
                message=fault.message,
                fixable=fault.mended and file.body.whole and not file.found.linked,
            )
            for fault in file.body.faults
        ]
        findings += tile_findings(file, question.gpu)
    if question.triton is not None:
        findings += version_findings(files, question.triton)
    if question.model is not None:
        findings += _model(question, question.model, files)
    judged, simulated = None, False
    if question.run is not None:
        from workbench.deploy.measured_rules import lookup_findings, lookups

        found = list(lookups(question.run, files))
        findings += lookup_findings(found)
        judged = (sum(one.loss is not None for one in found), len(found))
        simulated = any(one.product.study.simulated for one in found)
    findings = free_renames(findings, (found.path for found in scanned.files))
    order = list(RULES)
    findings.sort(key=lambda f: (str(f.path), order.index(f.rule)))
    report = LintReport(
        files=len(files) + len(unknown),
        families=tuple(sorted({file.family.name for file in files})),
        findings=tuple(findings),
        lookups=judged,
        simulated=simulated,
    )
    return report, files


def _model(question: _Question, model: Path, files: Sequence[ReadFile]) -> list[Finding]:
    roots = {(str(file.found.root), file.family.name): file.family for file in files}
    families = [(PurePosixPath(root), family) for (root, _), family in roots.items()]
    if question.family is not None and question.family not in roots.values():
        families.append((PurePosixPath(), question.family))
    if not families:
        raise ValueError(
            f"{question.folder}: holds no tuned files, so nothing says whose files the model asks "
            "for: add --family"
        )
    if question.gpu is not None:
        device = device_of(question.gpu)
    else:
        devices = {right_name(file).device for file in files}
        if len(devices) != 1:
            raise ValueError(
                f"{question.folder}: files for {len(devices)} devices: say which one the model "
                "runs on, --gpu NAME"
            )
        device = devices.pop()
    coding = question.coding or model_coding(model) or folder_coding(files)
    kinds = {family.kind for _, family in families}
    wanted = wanted_files(model, kinds, coding, device, question.tp, question.ep)
    return list(model_findings(wanted, _one_each(families), files, question.triton))


def _one_each(
    families: Sequence[tuple[PurePosixPath, ConfigFamily]],
) -> list[tuple[PurePosixPath, ConfigFamily]]:
    """Of several folders of one family the first: a file of any of them serves."""
    found: dict[str, tuple[PurePosixPath, ConfigFamily]] = {}
    for root, family in families:
        found.setdefault(family.name, (root, family))
    return list(found.values())
