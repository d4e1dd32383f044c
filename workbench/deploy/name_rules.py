"""Faults of names: what no loader will ever ask for."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath

from tiles.intake import nearest, shown
from workbench.deploy.file_name import file_names
from workbench.deploy.finding import Finding
from workbench.deploy.folder import ReadFile
from workbench.deploy.resources import known_devices
from workbench.deploy.tuned import TunedName

__all__ = ["collisions", "free_renames", "meaning", "name_findings", "right_name"]


def right_name(file: ReadFile) -> TunedName:
    """What a file was meant for, its device spelt as drivers and loaders do."""
    name = file.parsed.name
    plain = _squashed(name.device)
    device = next((known for known in known_devices() if _squashed(known) == plain), name.device)
    return replace(name, device=file.family.device(device))


def meaning(file: ReadFile) -> tuple[object, ...]:
    """Equal for files that one loader takes for one another."""
    return (file.found.root, file.found.version_folder, file.family.name, right_name(file))


def name_findings(file: ReadFile) -> Iterator[Finding]:
    """Faults of one file's name, each told apart from the others."""
    family, parsed, name = file.family, file.parsed, file.parsed.name
    wanted = right_name(file)
    if (reason := family.obstacle(name)) is not None:
        known = [label for label in family.labels if label is not None]
        hint = nearest(name.label, known) if name.label not in family.labels else ""
        yield Finding(
            rule="name.label",
            path=file.path,
            message=f"{reason}: {hint}rename it, or move it to the engine that reads it",
        )
        return
    try:
        names = file_names(family, wanted)
    except ValueError as error:
        yield Finding(rule="name.label", path=file.path, message=f"{error}: correct it")
        return
    if file.path.name in names:
        return

    def finding(rule: str, message: str) -> Finding:
        return Finding(
            rule=rule,
            path=file.path,
            message=f"{message}, {family.engine} asks for {names[0]}: rename it",
            fixable=not file.found.linked,
            rename=names[0],
        )

    explained = file.path.name
    if parsed.block_text is not None and name.block_shape is not None:
        block = family.block_text(name.block_shape)
        said = any(f"block_shape={parsed.block_text}" in one for one in names)
        if not said and re.sub(r"\s", "", parsed.block_text) == block.replace(" ", ""):
            yield finding("name.space", f"block_shape={parsed.block_text}")
            explained = explained.replace(parsed.block_text, block)
    plain = "_".join(parsed.device_text.replace("/", " ").split())
    merged = family.merges_h200 and plain != wanted.device and "H200" in plain.split("_")
    if merged:
        yield finding("name.h200", f"device {shown(parsed.device_text)}")
    elif parsed.device_text != wanted.device:
        yield finding("name.device", f"device {shown(parsed.device_text)}")
    explained = explained.replace(
        f"device_name={parsed.device_text}", f"device_name={wanted.device}"
    )
    if explained not in names:
        yield finding("name.spelling", "spelt otherwise")


def free_renames(findings: Iterable[Finding], taken: Iterable[PurePosixPath]) -> list[Finding]:
    """The findings, a new name fixable only where no file has it and no other one gets it."""
    findings = list(findings)
    wanted = {(f.path.parent / f.rename, f.path) for f in findings if f.rename is not None}
    claims = Counter(target for target, _ in wanted)
    claims.update(taken)
    return [
        replace(f, fixable=f.fixable and (not f.rename or claims[f.path.parent / f.rename] == 1))
        for f in findings
    ]


def collisions(files: Iterable[ReadFile]) -> Iterator[Finding]:
    """Several files that mean the same, and INT8 files without their twin."""
    same: dict[tuple[object, ...], list[ReadFile]] = {}
    for file in files:
        same.setdefault(meaning(file), []).append(file)
    for members in same.values():
        family, wanted = members[0].family, right_name(members[0])
        if family.obstacle(wanted) is not None:
            continue
        names = file_names(family, wanted)
        there = {file.path.name: file for file in members}
        read = [file for file in members if file.path.name in names]
        for file in members:
            others = [o for o in members if o is not file]
            if not others or (file in read and all(_alike(file, o) for o in read)):
                continue
            first = next((o for o in others if o in read), others[0])
            yield Finding(
                rule="name.collision",
                path=file.path,
                message=f"means the same as {first.path.name}"
                + ("" if _alike(file, first) else ", with other entries")
                + ": keep one of them",
            )
        lacking = [name for name in names if name not in there]
        if len(names) > 1 and lacking and read:
            yield Finding(
                rule="name.twin",
                path=read[0].path,
                message=f"some versions of {family.engine} ask for {lacking[0]}: write the file "
                "under both names",
                fixable=not read[0].found.linked and len(members) == 1,
            )


def _alike(one: ReadFile, other: ReadFile) -> bool:
    return one.body.rows == other.body.rows and one.triton == other.triton


def _squashed(device: str) -> str:
    return re.sub(r"[^a-z0-9]", "", device.lower())
