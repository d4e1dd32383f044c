"""The families of tuned files: what each engine's loader asks for, as data.

Read in the loaders' sources, 2026: vLLM (``quantization/utils/*_utils.py``,
``fused_moe/fused_moe.py``) and SGLang (``quantization/*_kernel.py``, ``moe_runner/triton_utils``).
Names change often; every literal here is pinned in the tests.
"""

import re
from dataclasses import dataclass

from tiles.intake import nearest, shown
from workbench.deploy.tuned import ENTRY_KEYS, INT4, ProductKind, TunedName

__all__ = ["FAMILIES", "PER_TOKEN", "ROCM_KEYS", "ConfigFamily", "ScaleRule", "family_named"]

#: Knobs of Triton's AMD back end; on another one they are keyword arguments of no kernel.
ROCM_KEYS = ("kpack", "matrix_instr_nonkdim", "waves_per_eu")
#: Label of vLLM's per-token FP8 linear files, whose kernel has no raster group.
PER_TOKEN = "fp8_w8a8_per_token"
#: Some drivers leave the vendor out: MI308X.
_AMD = re.compile(r"AMD|MI[0-9]{3}")
_WEIGHT_ONLY = ("fp8_w8a16", "int8_w8a16", INT4)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRule:
    """How a tile goes with blocks of weight scales."""

    #: The launch takes ``min(BLOCK_SIZE_K, bn, bk)``, so multiples of bk are right as well; else a
    #: K-step beyond a block gets the scale of its first part.
    clamped: bool
    whole_blocks: bool  #: the engine's tuner keeps multiples of bk alone


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFamily:
    """One engine's files for one kind of product."""

    name: str
    engine: str
    kind: ProductKind
    folder: str  #: where the loader looks, in the engine's source
    space: bool  #: a blank after the comma in ``block_shape=[bn, bk]``
    labels: tuple[str | None, ...]  #: of ``dtype=`` that the loader asks for
    scale_rule: ScaleRule
    version_folder: bool = False  #: files lie in ``triton_X_Y_Z``
    version_key: bool = False  #: a top-level ``triton_version`` is tolerated
    merges_h200: bool = False  #: every device with the word H200 is asked for as NVIDIA_H200
    packed_int4_n: bool = False  #: N of int4 counts bytes of two
    per_channel: bool = False  #: ``per_channel_quant=True`` may be part of a name
    down: bool = False  #: ``_down`` files for the second product
    #: Labels whose files are read under both spellings, with and without the blank.
    twin_labels: tuple[str, ...] = ()
    extra_keys: tuple[str, ...] = ()  #: that an entry may have beyond the six
    flags: tuple[str, ...] = ()  #: extra keys that are booleans, e.g. ``USE_TMA``

    def device(self, name: str) -> str:
        """The device part that the loader asks for, of what the driver calls the device."""
        joined = "_".join(name.replace("/", " ").split())
        return "NVIDIA_H200" if self.merges_h200 and "H200" in joined.split("_") else joined

    def block_text(self, block_shape: tuple[int, int]) -> str:
        """``[128,128]`` or ``[128, 128]``."""
        return f"[{block_shape[0]},{' ' if self.space else ''}{block_shape[1]}]"

    def entry_keys(self, name: TunedName) -> tuple[str, ...]:
        """The keys that an entry of such a file must have."""
        return tuple(k for k in ENTRY_KEYS if k != "GROUP_SIZE_M" or name.label != PER_TOKEN)

    def optional_keys(self, name: TunedName) -> tuple[str, ...]:
        """Further keys that an entry of such a file may have; any other one fails the launch."""
        amd = _AMD.match(name.device) is not None
        return (*self.extra_keys, *self.flags, *ROCM_KEYS * amd)

    def written_n(self, name: TunedName) -> int:
        """N as the file's name has it.

        Raises:
            ValueError: two elements a byte, and an odd N.
        """
        if not (self.packed_int4_n and name.label == INT4):
            return name.n
        if name.n % 2:
            raise ValueError(f"N = {name.n} of {INT4}: {self.name} counts pairs, an odd N has none")
        return name.n // 2

    def obstacle(self, name: TunedName) -> str | None:
        """Why no name of this family means ``name``, or ``None`` when one does."""
        if name.kind is not self.kind:
            return f"{self.name} holds {self.kind.value} files, this one is {name.kind.value}"
        if name.label not in self.labels:
            if name.label == "int8_w8a8" and name.kind is ProductKind.MOE:
                return (
                    f"{self.engine} has no label for INT8 W8A8 experts and reads the file without "
                    "one, which serves bf16 as well"
                )
            return f"{self.name} asks for no files of dtype {name.label or 'none'}"
        if name.per_channel and not self.per_channel:
            return f"names of {self.name} do not tell scales a channel from those of tensors"
        if name.down and not self.down:
            return f"{self.engine} reads no file of its own for the second product"
        if self.kind is ProductKind.LINEAR and name.blockwise == (name.label == PER_TOKEN):
            return "files of blocks have a block_shape, those of tokens have none"
        if (name.dtypes is None) == (name.label == PER_TOKEN):
            return f"{PER_TOKEN} names an input and an output dtype, others do not"
        return None


_ONE_SCALE = ScaleRule(clamped=False, whole_blocks=False)

FAMILIES: dict[str, ConfigFamily] = {
    one.name: one
    for one in (
        ConfigFamily(
            name="vllm-linear",
            engine="vLLM",
            kind=ProductKind.LINEAR,
            folder="vllm/model_executor/layers/quantization/utils/configs",
            space=False,
            labels=("fp8_w8a8", "int8_w8a8", PER_TOKEN),
            scale_rule=_ONE_SCALE,
            # The INT8 loader asks with the blank up to 0.27, a newer shared one without.
            twin_labels=("int8_w8a8",),
        ),
        ConfigFamily(
            name="vllm-moe",
            engine="vLLM",
            kind=ProductKind.MOE,
            folder="vllm/model_executor/layers/fused_moe/configs",
            space=False,
            labels=(None, "fp8_w8a8", *_WEIGHT_ONLY, "float32"),
            scale_rule=ScaleRule(clamped=True, whole_blocks=True),
            version_key=True,
            merges_h200=True,
            # Taken by weight-only kernels, set to 1 by the launch of all others.
            extra_keys=("SPLIT_K",),
        ),
        ConfigFamily(
            name="sglang-linear",
            engine="SGLang",
            kind=ProductKind.LINEAR,
            folder="python/sglang/srt/layers/quantization/configs",
            space=True,
            labels=("fp8_w8a8", "int8_w8a8"),
            scale_rule=_ONE_SCALE,
        ),
        ConfigFamily(
            name="sglang-moe",
            engine="SGLang",
            kind=ProductKind.MOE,
            folder="python/sglang/srt/layers/moe/moe_runner/triton_utils/configs",
            space=True,
            labels=(None, "fp8_w8a8", "int8_w8a8", "int8_w8a16", INT4, "float32"),
            scale_rule=_ONE_SCALE,
            version_folder=True,
            packed_int4_n=True,
            per_channel=True,
            down=True,
            flags=("USE_TMA",),
        ),
    )
}


def family_named(name: str) -> ConfigFamily:
    """A family by its name.

    Raises:
        ValueError: none is called so.
    """
    if name not in FAMILIES:
        raise ValueError(
            f"unknown family {shown(name)}: {nearest(name, FAMILIES)}choose from "
            f"{', '.join(FAMILIES)}"
        )
    return FAMILIES[name]
