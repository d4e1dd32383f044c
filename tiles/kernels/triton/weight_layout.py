"""The order in which the weight-only kernel wants packed weights, and how it comes about.

Columns go in *panels* of 64 bytes a row: 128 columns of 4-bit codes, 64 of 8-bit codes.  A panel
of all N rows lies contiguous, then the next one follows: ``codes[panel, row, byte]``.  So a tile of
rows is one contiguous piece of device memory whatever its height.

Byte ``16 t + 4 j + 2 h + p`` of a row (t, j < 4; h, p < 2) holds column ``16 j + 8 h + 2 t + p`` of
the panel, in its low half where codes have 4 bits; the high half holds the column 64 further on.
Lane t of the four that share a row in ``mma``'s and ``wgmma``'s first operand needs exactly the
columns ``2 t + p`` and ``8 + 2 t + p`` of every 16: they are its 16 contiguous bytes.  Under
``mma.sync`` Triton gives a lane four columns in a row instead; the kernel then takes the same bytes
for the columns ``16 j + 4 t + 2 h + p`` and reorders the activations alike.

Scales of groups along K: ``[ceil(K / group), N]`` where a group holds whole panels, else
``[panels, N, panel / group]``.  Scales of whole rows or tensors are fp32, one a row.
"""

from dataclasses import dataclass

import torch

__all__ = ["GROUPS", "PANEL_BYTES", "PackedWeight", "pack", "panel_columns"]

PANEL_BYTES = 64
#: Bits of a code by element.
CODE_BITS = {"int4": 4, "uint4": 4, "e2m1fn": 4, "int8": 8, "e4m3fn": 8}
#: Scale formats by dtype of the scales that ``pack`` takes.
_SCALES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.uint8: "e8m0fnu",
    torch.float8_e4m3fn: "e4m3fn",
}
#: Groups along K that the kernel takes, by bits of a code; multiples of 128 (8 bits: 64) as well.
GROUPS = {4: (16, 32, 64), 8: ()}
_E4M3_NAN = 0x7F
#: Dtypes of packed scales by format.
_STORED = {name: dtype for dtype, name in _SCALES.items()} | {"e4m3fn": torch.uint8}


def panel_columns(element: str) -> int:
    """Columns of a panel."""
    return PANEL_BYTES * 8 // CODE_BITS[element]


def _check_element(element: str, group: int) -> None:
    if element not in CODE_BITS:
        raise ValueError(f"element {element!r}: choose one of {', '.join(CODE_BITS)}")
    small, panel = GROUPS[CODE_BITS[element]], panel_columns(element)
    if group and group not in small and (group < panel or group % panel):
        raise ValueError(
            f"group {group} of {element}: choose a multiple of {panel}"
            + "".join(f" or {one}" for one in small)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A weight matrix as the kernel reads it: (code - zero) x scale x row_scale."""

    codes: torch.Tensor  #: (panels, N, 64) uint8
    scale: torch.Tensor | None  #: of groups along K, see the module; fp16, bf16, fp32 or uint8
    zero: torch.Tensor | None  #: uint8, shaped as ``scale``; uint4 only
    row_scale: torch.Tensor  #: (N,) fp32: scales of rows and of the tensor
    element: str  #: int4, uint4, int8, e4m3fn or e2m1fn
    scale_format: str  #: fp32, fp16, bf16, e8m0fnu, e4m3fn; "" without groups
    group: int  #: columns under one scale; 0 without groups
    columns: int  #: K

    @property
    def rows(self) -> int:
        """N."""
        return self.codes.shape[1]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All tensors that there are."""
        found = (self.codes, self.scale, self.zero, self.row_scale)
        return tuple(tensor for tensor in found if tensor is not None)

    def check(self) -> None:
        """Refuse tensors that are not laid out as the module says; ``pack`` makes none of these.

        Raises:
            TypeError, ValueError: the message names the tensor and the rule.
        """
        _check_element(self.element, self.group)
        panel = panel_columns(self.element)
        panels = -(-self.columns // panel)
        if self.columns < 1:
            raise ValueError(f"weight.columns {self.columns}: it must be at least 1")
        tensors = {"codes": self.codes, "row_scale": self.row_scale}
        given = {"scale": self.scale, "zero": self.zero}
        for name, value in (tensors | {n: t for n, t in given.items() if t is not None}).items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"weight.{name} is {type(value).__name__}: it must be a tensor")
        if self.codes.ndim != 3 or self.codes.shape[1] < 1:
            raise ValueError(f"weight.codes has shape {tuple(self.codes.shape)}: (panels, N, 64)")
        if (self.scale is not None) != bool(self.group) or bool(self.scale_format) != bool(
            self.group
        ):
            raise ValueError("weight.scale and scale_format go with a group, and group with them")
        if (self.zero is not None) != (self.element == "uint4"):
            raise ValueError("weight.zero: uint4, and it alone, has zero points")
        if self.zero is not None and not self.group:
            raise ValueError("weight.zero: zero points go with groups along K")
        if self.group and self.scale_format not in _STORED:
            raise ValueError(
                f"weight.scale_format {self.scale_format!r}: choose one of {', '.join(_STORED)}"
            )
        rows = self.rows
        grid: tuple[int, ...] = ()
        if self.group >= panel:
            grid = (-(-self.columns // self.group), rows)
        elif self.group:
            grid = (panels, rows, panel // self.group)
        wanted = {
            "codes": (self.codes, torch.uint8, (panels, rows, PANEL_BYTES)),
            "scale": (self.scale, _STORED.get(self.scale_format), grid),
            "zero": (self.zero, torch.uint8, grid),
            "row_scale": (self.row_scale, torch.float32, (rows,)),
        }
        for name, (tensor, dtype, shape) in wanted.items():
            if tensor is None:
                continue
            if tensor.dtype != dtype:
                raise TypeError(f"weight.{name} has dtype {tensor.dtype}: it must be {dtype}")
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"weight.{name} has shape {tuple(tensor.shape)}: {rows} x {self.columns} "
                    f"{self.element} with groups of {self.group} take {shape}"
                )
            if not tensor.is_contiguous():
                raise ValueError(f"weight.{name} has strides {tensor.stride()}: not contiguous")

    def clone(self) -> "PackedWeight":
        """A copy in memory of its own."""
        return PackedWeight(
            codes=self.codes.clone(),
            scale=None if self.scale is None else self.scale.clone(),
            zero=None if self.zero is None else self.zero.clone(),
            row_scale=self.row_scale.clone(),
            element=self.element,
            scale_format=self.scale_format,
            group=self.group,
            columns=self.columns,
        )


def _panels(codes: torch.Tensor, element: str) -> torch.Tensor:
    """(N, K) uint8, one code a byte, to (panels, N, 64)."""
    n, k = codes.shape
    columns = panel_columns(element)
    panels = -(-k // columns)
    # Columns beyond K meet activations of zero: any code of a finite number will do.
    padded = codes.new_zeros(n, panels * columns)
    padded[:, :k] = codes
    # (row, panel, half, j, h, t, p) -> (panel, row, half, t, j, h, p)
    split = padded.view(n, panels, columns // 64, 4, 2, 4, 2).permute(1, 0, 2, 5, 3, 4, 6)
    halves = split.reshape(panels, n, columns // 64, 64)
    if CODE_BITS[element] == 8:
        return halves[:, :, 0].contiguous()
    return halves[:, :, 0] | halves[:, :, 1] << 4


def _by_panel(values: torch.Tensor, columns: int, group: int, panels: int) -> torch.Tensor:
    """(N, groups) to the order of the module's docstring."""
    n, groups = values.shape
    if group >= columns:
        return values.t().contiguous()
    per_panel = columns // group
    # Scales beyond K meet activations of zero: the last one is repeated, so that it is finite.
    index = torch.arange(panels * per_panel, device=values.device).clamp(max=groups - 1)
    return values[:, index].view(n, panels, per_panel).permute(1, 0, 2).contiguous()


def _unpacked(packed: torch.Tensor, element: str, columns: int) -> torch.Tensor:
    if packed.ndim != 2 or packed.numel() == 0:
        raise ValueError(f"packed must be a non-empty matrix, got shape {tuple(packed.shape)}")
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed has dtype {packed.dtype}: view its bit patterns as torch.uint8")
    wanted = -(-columns * CODE_BITS[element] // 8)
    if columns < 1 or packed.shape[1] != wanted:
        raise ValueError(
            f"{columns} codes of {element} take {wanted} bytes a row, packed has {packed.shape[1]}"
        )
    if CODE_BITS[element] == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), dim=2).view(packed.shape[0], -1)[:, :columns]


def pack(
    packed: torch.Tensor,
    scales: torch.Tensor,
    *,
    element: str,
    columns: int,
    group: int = 0,
    zero_points: torch.Tensor | None = None,
    tensor_scale: torch.Tensor | None = None,
) -> PackedWeight:
    """Lay a weight matrix out for the kernel.

    Args:
        packed: (N, ceil(K x bits / 8)) uint8, codes packed along K in the usual order: 4-bit codes
            two a byte, the even column in the low half (``tiles.formats.pack_codes``).
        scales: without groups (N, 1) or (1, 1) fp32; with groups (N, ceil(K / group)) fp32, fp16,
            bf16, float8_e4m3fn, or uint8 for E8M0 exponents.
        element: int4 (stored plus 8), uint4, int8, e4m3fn or e2m1fn.
        columns: K.
        group: columns under one scale; 0: one scale a row, or for all.
        zero_points: (N, ceil(K / group)) uint8 up to 127, for uint4 and it alone.
        tensor_scale: one further fp32 scale of all weights.
    Returns:
        New tensors on the device of ``packed``.  A code of e4m3fn that is NaN makes its scale NaN,
        which gives the same products.
    Raises:
        ValueError: shapes, devices, element and group do not go together.
        TypeError: a dtype.
    """
    _check_element(element, group)
    codes = _unpacked(packed, element, columns)
    n = codes.shape[0]
    panel = panel_columns(element)
    for name, tensor in (("scales", scales), ("zero_points", zero_points)):
        if tensor is not None and tensor.device != packed.device:
            raise ValueError(f"{name} lie on {tensor.device}, packed on {packed.device}")
    if scales.dtype not in _SCALES or (not group and scales.dtype != torch.float32):
        raise TypeError(f"scales have dtype {scales.dtype}: without groups they are torch.float32")
    grids = {(n, -(-columns // group))} if group else {(n, 1), (1, 1)}
    if tuple(scales.shape) not in grids:
        wanted = " or ".join(map(str, sorted(grids)))
        raise ValueError(f"scales must have shape {wanted}, got {tuple(scales.shape)}")
    if (element == "uint4") != (zero_points is not None) or (element == "uint4" and not group):
        raise ValueError("uint4, and it alone, takes zero_points, one a group")
    if zero_points is not None and zero_points.dtype != torch.uint8:
        raise TypeError(f"zero_points have dtype {zero_points.dtype}: they are torch.uint8")
    if zero_points is not None and not zero_points.is_meta and int(zero_points.max()) > 127:
        # The kernel puts them below the exponent of 128, which codes of 4 bits leave room for.
        raise ValueError(f"zero_points up to {int(zero_points.max())}: they are at most 127")
    if zero_points is not None and zero_points.shape != scales.shape:
        raise ValueError(f"zero_points must have shape {tuple(scales.shape)}, as scales")
    row_scale = torch.ones(n, dtype=torch.float32, device=packed.device)
    if not group:
        row_scale *= scales[:, 0]
    if tensor_scale is not None:
        row_scale *= tensor_scale.to(packed.device, torch.float32)
    if element == "e4m3fn":
        nan = (codes & _E4M3_NAN) == _E4M3_NAN
        row_scale = row_scale.masked_fill(nan.any(dim=1), float("nan"))
    grouped = None
    if group:
        words = scales.view(torch.uint8) if scales.dtype == torch.float8_e4m3fn else scales
        grouped = _by_panel(words, panel, group, -(-columns // panel))
    return PackedWeight(
        codes=_panels(codes, element),
        scale=grouped,
        zero=None
        if zero_points is None
        else _by_panel(zero_points, panel, group, -(-columns // panel)),
        row_scale=row_scale,
        element=element,
        scale_format=_SCALES[scales.dtype] if group else "",
        group=group,
        columns=columns,
    )
