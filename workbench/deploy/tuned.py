"""The neutral form of a tuned file: what it is for, and a tile configuration for every M."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

__all__ = ["ENTRY_KEYS", "INT4", "Entry", "ProductKind", "TunedFile", "TunedName"]

#: Keys of an entry in the order in which files hold them, by the field that they mean.
ENTRY_KEYS: Mapping[str, str] = {
    "BLOCK_SIZE_M": "block_m",
    "BLOCK_SIZE_N": "block_n",
    "BLOCK_SIZE_K": "block_k",
    "GROUP_SIZE_M": "group_m",
    "num_warps": "num_warps",
    "num_stages": "num_stages",
}
#: The label whose N some loaders count in packed elements.
INT4 = "int4_w4a16"


class ProductKind(Enum):
    """What a file is looked up for."""

    LINEAR = "linear"  #: a dense layer's product, by N and K of its weight
    MOE = "moe"  #: a mixture's experts, by their number and intermediate size


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One tile configuration, all that a kernel is launched with.

    Raises:
        ValueError: a number below 1.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int | None  #: ``None`` where the kernel has no raster group (per-token linear files)
    num_warps: int
    num_stages: int
    #: Keys beyond the six, e.g. ``waves_per_eu`` on ROCm, in the order of their names.
    extra: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        for key, field in ENTRY_KEYS.items():
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{key} = {value}: must be at least 1, correct it")

    def to_dict(self) -> dict[str, int]:
        """The keys of a file's entry, in its order."""
        numbers = {key: getattr(self, field) for key, field in ENTRY_KEYS.items()}
        return {k: v for k, v in numbers.items() if v is not None} | dict(self.extra)

    @classmethod
    def from_dict(cls, values: Mapping[str, int]) -> "Entry":
        """Inverse of :meth:`to_dict`; which extra keys a loader takes is its family's affair.

        Raises:
            ValueError: a key is missing, or a number is below 1.
        """
        for key in ENTRY_KEYS:
            if key not in values and key != "GROUP_SIZE_M":
                raise ValueError(f"{key} is missing: add it")
        return cls(
            block_m=values["BLOCK_SIZE_M"],
            block_n=values["BLOCK_SIZE_N"],
            block_k=values["BLOCK_SIZE_K"],
            group_m=values.get("GROUP_SIZE_M"),
            num_warps=values["num_warps"],
            num_stages=values["num_stages"],
            extra=tuple(sorted((k, v) for k, v in values.items() if k not in ENTRY_KEYS)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedName:
    """What a file is for, whatever the engine that asks for it.

    Raises:
        ValueError: fields that no product has together.
    """

    kind: ProductKind
    n: int  #: of a linear layer's weight on this rank; of experts: the intermediate size, unpacked
    k: int | None  #: of a linear layer's weight; ``None`` for experts
    experts: int | None  #: on this rank; ``None`` for linear layers
    device: str  #: as the driver names it, blanks as underscores
    label: str | None  #: ``fp8_w8a8`` and the like; ``None``: experts in bf16 or fp16
    block_shape: tuple[int, int] | None = None  #: (bn, bk) under one weight scale
    per_channel: bool = False  #: scales a row and an output channel, said in the name
    down: bool = False  #: of a mixture's second product alone
    #: (input, output) dtype of a per-token linear file, ``None`` for all others.
    dtypes: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        linear = self.kind is ProductKind.LINEAR
        if linear != (self.k is not None) or linear != (self.experts is None):
            raise ValueError(f"{self.kind.value}: linear files have N and K, those of experts E, N")
        for what, number in (("N", self.n), ("K", self.k), ("E", self.experts)):
            if number is not None and number < 1:
                raise ValueError(f"{what} = {number}: must be at least 1, correct it")
        if self.block_shape is not None and min(self.block_shape) < 1:
            raise ValueError(
                f"block_shape {list(self.block_shape)}: blocks of at least 1, correct it"
            )
        if linear and (self.label is None or self.per_channel or self.down):
            raise ValueError("linear files name a dtype, and no channels or second product")

    @property
    def blockwise(self) -> bool:
        """Whether weight scales stand for blocks."""
        return self.block_shape is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedFile:
    """One file: a configuration for every M that was tuned.

    Raises:
        ValueError: no rows, or rows that do not ascend.
    """

    name: TunedName
    rows: tuple[tuple[int, Entry], ...]  #: (M, configuration), M ascending
    triton: str | None = None  #: version that it was tuned with, where the file or folder says so

    def __post_init__(self) -> None:
        keys = [m for m, _ in self.rows]
        if not keys or keys[0] < 1 or keys != sorted(set(keys)):
            raise ValueError(f"M keys {keys[:20]}: at least one, each once, ascending from 1")

    def row(self, m: int) -> tuple[int, Entry]:
        """The row that loaders take at ``m``: the nearest key, the smaller one on a tie."""
        return min(self.rows, key=lambda row: abs(row[0] - m))
