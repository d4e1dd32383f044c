"""A folder of tuned files sorted out: which family each belongs to, what it means and holds."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from workbench.deploy.body import Body, read_body
from workbench.deploy.families import FAMILIES, ConfigFamily
from workbench.deploy.file_name import ParsedName, parse_file_name, parse_version_folder
from workbench.deploy.scan import FoundFile, Scan
from workbench.deploy.tuned import ProductKind, TunedFile

__all__ = ["ReadFile", "Unknown", "sort_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """A tuned file."""

    found: FoundFile
    family: ConfigFamily
    parsed: ParsedName
    body: Body

    @property
    def path(self) -> PurePosixPath:
        """In the folder."""
        return self.found.path

    @property
    def triton(self) -> str | None:
        """Triton's version by the file's folder, or by its body."""
        folder = self.found.version_folder
        if self.family.version_folder and folder is not None:
            return parse_version_folder(folder)
        return self.body.triton

    def tuned(self) -> TunedFile:
        """The neutral form of what could be read.

        Raises:
            ValueError: no rows.
        """
        return TunedFile(name=self.parsed.name, rows=self.body.rows, triton=self.triton)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A .json file with a name, or entries, like those of tuned files, that no loader asks for."""

    found: FoundFile
    message: str


def sort_out(
    scanned: Scan, folder: Path, chosen: ConfigFamily | None = None
) -> tuple[list[ReadFile], list[Unknown]]:
    """Tell families apart by folder and spelling, and read every file.

    Files of experts and of linear layers in one folder are told apart; those of one kind in one
    folder are taken for one family: SGLang's where the engine's own tree ends there, or a folder
    from the given one on has its name, where they lie in ``triton_`` folders, or where most block
    shapes have the blank; else vLLM's.  What the folders above the given one are called says
    nothing: a checkout of one engine may hold what was tuned for the other.

    Args:
        folder: that was scanned.
        chosen: a family that all files of its kind belong to.

    Raises:
        ValueError: there is none of the chosen family's kind, but others.
    """
    groups: dict[tuple[PurePosixPath, ProductKind], list[FoundFile]] = {}
    unknown: list[Unknown] = []
    for found in scanned.files:
        kind = _kind_of(found)
        if kind is None and not _meant(found):
            continue  # of another kind: a model's config.json, a table of another kernel
        if kind is None:
            unknown.append(Unknown(found=found, message=_unknown(found, chosen)))
        else:
            groups.setdefault((found.root, kind), []).append(found)
    kinds = {kind for _, kind in groups}
    if chosen is not None and kinds and chosen.kind not in kinds:
        raise ValueError(
            f"family {chosen.name!r}: is of {chosen.kind.value} files, {folder} holds "
            f"{' and '.join(sorted(kind.value for kind in kinds))} ones: choose another, or leave "
            "it out"
        )
    read: list[ReadFile] = []
    for (root, kind), members in groups.items():
        family = (
            chosen
            if chosen is not None and chosen.kind is kind
            else _family_of(folder.resolve(), root, kind, members)
        )
        for found in members:
            parsed = parse_file_name(family, found.path.name)
            body = read_body(found.data, family, parsed.name)
            read.append(ReadFile(found=found, family=family, parsed=parsed, body=body))
    return sorted(read, key=lambda one: str(one.path)), unknown


_BY_KIND = {
    ProductKind.LINEAR: (FAMILIES["vllm-linear"], FAMILIES["sglang-linear"]),
    ProductKind.MOE: (FAMILIES["vllm-moe"], FAMILIES["sglang-moe"]),
}


def _kind_of(found: FoundFile) -> ProductKind | None:
    for kind, (family, _) in _BY_KIND.items():
        try:
            parse_file_name(family, found.path.name)
        except ValueError:
            continue
        return kind
    return None


def _meant(found: FoundFile) -> bool:
    """Whether a file was meant to be a tuned one."""
    name = found.path.name
    return name[:2] in ("E=", "N=") or "device_name" in name or b"BLOCK_SIZE_M" in found.data


def _unknown(found: FoundFile, chosen: ConfigFamily | None) -> str:
    starts = found.path.name[:2]
    family = chosen or FAMILIES["vllm-moe" if starts == "E=" else "vllm-linear"]
    try:
        parse_file_name(family, found.path.name)
    except ValueError as error:
        return str(error)
    return "its name is that of another kind of file: choose with --family"


def _family_of(
    folder: Path, root: PurePosixPath, kind: ProductKind, members: list[FoundFile]
) -> ConfigFamily:
    vllm, sglang = _BY_KIND[kind]
    for family in (vllm, sglang):
        tree = PurePosixPath(family.folder).parts
        tree = tree[tree.index(family.engine.lower()) :]  # installed ones have no "python" above
        if (folder / root).parts[-len(tree) :] == tree:
            return family
    for part in reversed((folder.name, *root.parts)):
        if part in ("vllm", "sglang"):
            return vllm if part == "vllm" else sglang
    if kind is ProductKind.MOE and any(one.version_folder is not None for one in members):
        return sglang
    names = [parse_file_name(vllm, one.path.name) for one in members]
    if any(one.name.down or one.name.per_channel for one in names):
        return sglang
    plain = {_key(p) for p in names if p.block_text and ", " not in p.block_text}
    # INT8 linear files have the blank in vLLM's folder too, beside a twin without it.
    spaced = {_key(p) for p in names if p.block_text and ", " in p.block_text} - plain
    return sglang if len(spaced) > len(plain) else vllm


def _key(parsed: ParsedName) -> tuple[object, str]:
    return (parsed.name, parsed.device_text)
