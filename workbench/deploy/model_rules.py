"""Files that a model at a parallel layout will ask for, and that a folder lacks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from workbench.deploy.coding import Coding
from workbench.deploy.families import ConfigFamily
from workbench.deploy.file_name import file_names, version_folder
from workbench.deploy.finding import Finding
from workbench.deploy.folder import ReadFile
from workbench.deploy.model_shapes import WantedFile
from workbench.deploy.name_rules import right_name
from workbench.deploy.tuned import INT4, TunedName

__all__ = ["folder_coding", "model_findings"]


def folder_coding(files: Sequence[ReadFile]) -> Coding:
    """How weights are stored by the files' names, where all of them say the same.

    Raises:
        ValueError: they do not.
    """
    found = {
        (f.parsed.name.label, f.parsed.name.block_shape, f.parsed.name.per_channel) for f in files
    }
    if len(found) != 1:
        said = "several codings" if found else "no file"
        raise ValueError(
            f"the model's config.json says nothing of quantisation and the folder holds {said}: "
            "name one, e.g. --dtype fp8_w8a8 --block-shape 128x128"
        )
    label, block_shape, per_channel = found.pop()
    return Coding(label=label, block_shape=block_shape, per_channel=per_channel)


def model_findings(
    wanted: Iterable[WantedFile],
    families: Sequence[tuple[PurePosixPath, ConfigFamily]],
    files: Sequence[ReadFile],
    triton: str | None,
) -> Iterator[Finding]:
    """A finding for every file that is not there under any of its names.

    Args:
        families: that the folder holds, with the folder of each.
        triton: of the server, for the path of a file of SGLang's experts.
    """
    for one in wanted:
        for root, family in families:
            if family.kind is not one.name.kind:
                continue
            there = {right_name(f) for f in files if f.family is family}
            name = _asked(family, one.name)
            if name in there:
                continue
            if one.instead and all(_asked(family, other) in there for other in one.instead):
                continue
            reason = family.obstacle(name)
            if reason is not None:
                yield Finding(
                    rule="model.missing",
                    path=root,
                    message=f"{one.layer} (N {name.n}, K {name.k}) has no file: {reason}: convert "
                    "for another engine",
                )
                continue
            yield _missing(one, name, family, root, there, triton)


def _asked(family: ConfigFamily, name: TunedName) -> TunedName:
    return replace(name, device=family.device(name.device))


def _missing(
    one: WantedFile,
    name: TunedName,
    family: ConfigFamily,
    root: PurePosixPath,
    there: set[TunedName],
    triton: str | None,
) -> Finding:
    try:
        path = root / file_names(family, name)[0]
    except ValueError as error:
        return Finding(rule="model.missing", path=root, message=f"{one.layer}: {error}")
    if family.version_folder:
        folder = "triton_X_Y_Z" if triton is None else version_folder(triton)
        path = path.parent / folder / path.name
    if name.label == INT4:
        for n in (2 * name.n, *((name.n // 2,) if name.n % 2 == 0 else ())):
            other = replace(name, n=n)
            if other in there:
                return Finding(
                    rule="model.int4-n",
                    path=path,
                    message=f"{one.layer} asks for this one, {file_names(family, other)[0]} is "
                    "there: one engine counts int4 in pairs and the other does not, rename it",
                )
    return Finding(
        rule="model.missing",
        path=path,
        message=f"{one.layer} asks for it and it is not there: tune it, or the kernel's default "
        "is taken",
    )
