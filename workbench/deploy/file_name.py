"""Names of tuned files, printed as loaders ask for them and parsed whatever their spelling."""

import re
from dataclasses import dataclass

from tiles.intake import shown
from workbench.deploy.families import ConfigFamily
from workbench.deploy.tuned import INT4, ProductKind, TunedName

__all__ = [
    "ParsedName",
    "file_names",
    "parse_file_name",
    "parse_version",
    "parse_version_folder",
    "version_folder",
]

_NAME = re.compile(
    r"""
    (?:E=(?P<e>[0-9]{1,8})\s*,\s*)? N=(?P<n>[0-9]{1,8}) (?:\s*,\s*K=(?P<k>[0-9]{1,8}))?
    \s*,\s* device_name=(?P<device>[^,=\[\]]+?)
    (?:\s*,\s* dtype=(?P<label>[A-Za-z0-9_.-]+?))?
    (?:\s*,\s* input_dtype=(?P<input>[A-Za-z0-9_]+)\s*,\s*out_dtype=(?P<out>[A-Za-z0-9_]+?))?
    (?:\s*,\s* block_shape=(?P<block>\[\s*(?P<bn>[0-9]{1,6})\s*,\s*(?P<bk>[0-9]{1,6})\s*\]))?
    (?:\s*,\s* per_channel_quant=(?P<channel>True|False))?
    (?P<down>_down)? \.json
    """,
    re.VERBOSE,
)
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.()+/-]{0,119}")
_VERSION = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})\.([0-9]{1,4})")
_FOLDER = re.compile(r"triton_([0-9]{1,4})_([0-9]{1,4})_([0-9]{1,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedName:
    """A file's name as it is spelt, beside what it means."""

    name: TunedName
    device_text: str  #: the device part as it stands
    block_text: str | None  #: the block shape as it stands, brackets included


def parse_version(text: str) -> tuple[int, int, int] | None:
    """``3.6.0`` as integers; a suffix such as ``+git1a2b`` or ``rc1`` makes it ``None``."""
    found = _VERSION.fullmatch(text)
    return None if found is None else (int(found[1]), int(found[2]), int(found[3]))


def parse_version_folder(name: str) -> str | None:
    """``3.6.0`` of ``triton_3_6_0``; ``None`` where SGLang would fail to read it as integers."""
    found = _FOLDER.fullmatch(name)
    return None if found is None else ".".join(str(int(part)) for part in found.groups())


def version_folder(version: str) -> str:
    """``triton_3_6_0`` of ``3.6.0``.

    Raises:
        ValueError: not three numbers; a folder named by anything else breaks every fall-back.
    """
    parsed = parse_version(version)
    if parsed is None:
        raise ValueError(
            f"Triton version {shown(version)}: SGLang reads folders as three numbers, write X.Y.Z"
        )
    return "triton_" + "_".join(map(str, parsed))


def check_device(device: str) -> None:
    """Refuse a device that may not be part of a file's name.

    Raises:
        ValueError: characters that no driver's name has, or two dots.
    """
    if not _DEVICE.fullmatch(device) or ".." in device:
        raise ValueError(
            f"device name {shown(device)}: letters, digits, blanks and _.()+-/ as the driver "
            "writes it, e.g. NVIDIA H200"
        )


def file_names(family: ConfigFamily, name: TunedName) -> tuple[str, ...]:
    """The names that a family's loader asks for, without the version folder, the usual one first.

    Raises:
        ValueError: the family has no name for it; the message says why.
    """
    if (reason := family.obstacle(name)) is not None:
        raise ValueError(reason)
    check_device(name.device)
    parts = [f"E={name.experts}"] if name.experts is not None else []
    parts.append(f"N={family.written_n(name)}")
    if name.k is not None:
        parts.append(f"K={name.k}")
    parts.append(f"device_name={family.device(name.device)}")
    if name.label is not None:
        parts.append(f"dtype={name.label}")
    if name.dtypes is not None:
        parts.append(f"input_dtype={name.dtypes[0]},out_dtype={name.dtypes[1]}")
    tail = ",per_channel_quant=True" * name.per_channel + "_down" * name.down + ".json"
    if name.block_shape is None:
        return (",".join(parts) + tail,)
    blocks = [family.block_text(name.block_shape)]
    if name.label in family.twin_labels:
        blocks.append(f"[{name.block_shape[0]}, {name.block_shape[1]}]")
    return tuple(",".join([*parts, f"block_shape={block}"]) + tail for block in blocks)


def parse_file_name(family: ConfigFamily, text: str) -> ParsedName:
    """Read a file's name, also one with blanks where the loader has none, or the reverse.

    Args:
        text: the last part of the path.
    Raises:
        ValueError: not the name of a tuned file of this family.
    """
    found = _NAME.fullmatch(text)
    linear = family.kind is ProductKind.LINEAR
    if found is None or linear != (found["k"] is not None) or linear != (found["e"] is None):
        lead = "N=...,K=..." if linear else "E=...,N=..."
        raise ValueError(
            f"{shown(text, 160)} is no name that {family.name} asks for: "
            f"write {lead},device_name=...,dtype=....json"
        )
    check_device(found["device"])
    label = found["label"]
    packed = family.packed_int4_n and label == INT4
    name = TunedName(
        kind=family.kind,
        n=int(found["n"]) * (2 if packed else 1),
        k=None if found["k"] is None else int(found["k"]),
        experts=None if found["e"] is None else int(found["e"]),
        device="_".join(found["device"].replace("/", " ").split()),
        label=label,
        block_shape=None if found["bn"] is None else (int(found["bn"]), int(found["bk"])),
        per_channel=found["channel"] == "True",
        down=found["down"] is not None,
        dtypes=None if found["input"] is None else (found["input"], found["out"]),
    )
    return ParsedName(name=name, device_text=found["device"], block_text=found["block"])
