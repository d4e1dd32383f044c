"""The catalogue of faults that a folder of tuned files can have, each with what it leads to."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["RULES", "Effect", "FaultRule"]


class Effect(Enum):
    """What a fault does to a server."""

    CRASH = "crash"  #: loading the file, or launching with it, raises
    UNREAD = "unread"  #: no loader opens it, and nothing says so
    WRONG = "wrong"  #: the kernel computes something else
    SLOW = "slow"  #: slower than it could be
    UNSAFE = "unsafe"  #: not looked into, nor ever written


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One kind of fault."""

    name: str  #: stable; ``group.fault``
    effect: Effect
    about: str  #: one line
    fixed: bool = False  #: whether ``--fix`` may mend it


_C, _U, _W, _S, _X = Effect.CRASH, Effect.UNREAD, Effect.WRONG, Effect.SLOW, Effect.UNSAFE

RULES: dict[str, FaultRule] = {
    rule.name: rule
    for rule in (
        FaultRule("path.link", _X, "a link that leads out of the folder, or nowhere"),
        FaultRule("path.dots", _X, "a name with two dots in a row, or control characters"),
        FaultRule("path.kind", _X, "no regular file behind a .json name"),
        FaultRule("path.size", _X, "far larger than any tuned file"),
        FaultRule("path.closed", _X, "the file cannot be read"),
        FaultRule("name.unknown", _U, "a name that no loader asks for"),
        FaultRule("name.space", _U, "a blank too many, or too few, in block_shape", fixed=True),
        FaultRule("name.device", _U, "the device is not spelt as drivers name it", fixed=True),
        FaultRule("name.h200", _U, "vLLM asks for NVIDIA_H200, whatever the H200", fixed=True),
        FaultRule("name.spelling", _U, "blanks, zeros or parts that no name has", fixed=True),
        FaultRule("name.label", _U, "a dtype that the engine never asks for"),
        FaultRule("name.twin", _U, "INT8 under one of its two names alone", fixed=True),
        FaultRule("name.collision", _U, "several files mean the same"),
        FaultRule("folder.version", _C, "a triton_ folder that does not read as integers"),
        FaultRule("folder.unversioned", _U, "experts of SGLang outside of a triton_ folder"),
        FaultRule("folder.misplaced", _U, "a triton_ folder where the loader looks for none"),
        FaultRule("version.other", _S, "tuned with another Triton than the one that runs"),
        FaultRule(
            "version.key", _C, "triton_version in a file whose loader takes M alone", fixed=True
        ),
        FaultRule("version.value", _S, "triton_version that is no version"),
        FaultRule("json.broken", _C, "not JSON"),
        FaultRule("json.encoding", _C, "not UTF-8, or with a byte-order mark", fixed=True),
        FaultRule("json.duplicate", _S, "a key that stands twice: the last one counts", fixed=True),
        FaultRule("json.constant", _C, "NaN or an infinity"),
        FaultRule("body.shape", _C, "not an object of entries"),
        FaultRule("body.empty", _C, "no M at all"),
        FaultRule("body.key", _C, "a key that is no integer; not mended over an entry", fixed=True),
        FaultRule("body.range", _S, "an M below 1, or beyond any batch: no call has it"),
        FaultRule("body.order", _S, "M does not ascend, so a tie takes another row", fixed=True),
        FaultRule("entry.missing", _C, "a key is missing"),
        FaultRule(
            "entry.extra",
            _C,
            "a key that the kernel does not take; not mended if misspelt",
            fixed=True,
        ),
        FaultRule("entry.type", _C, "text, a fraction or a truth value for an integer", fixed=True),
        FaultRule("entry.range", _C, "a number that no launch has"),
        FaultRule("tile.power", _C, "a tile that is no power of two"),
        FaultRule("tile.dot", _C, "a tile below the smallest product of the tensor cores"),
        FaultRule("tile.warps", _C, "warps that are no power of two, or too many threads"),
        FaultRule("tile.scale-k", _W, "BLOCK_SIZE_K against the blocks of scales"),
        FaultRule(
            "tile.whole-blocks", _S, "parts of blocks of scales in a K-step of vLLM's experts"
        ),
        FaultRule("gpu.smem", _C, "more shared memory than the GPU has a CTA"),
        FaultRule("gpu.registers", _S, "accumulators that spill"),
        FaultRule("down.alone", _S, "a second product's file without the first's"),
        FaultRule("down.block-m", _S, "BLOCK_SIZE_M unlike the first product's", fixed=True),
        FaultRule(
            "lookup.loss", _S, "the nearest M loses more than allowed against what was measured"
        ),
        FaultRule("model.missing", _S, "a file that a model will ask for is not there"),
        FaultRule("model.int4-n", _U, "int4 experts under the N of the other engine"),
    )
}
