"""Memory that kernels work in, kept between launches."""

import torch
from torch import Tensor

#: Workspaces that are kept; a server of ever new shapes would fill the GPU with them.
MAX_HELD = 64
#: Words of one that is kept: one long prompt must not cost memory for ever.
MAX_HELD_WORDS = 2**24

#: By device and number of counters.  Launches on one stream follow each other, and those with as
#: many counters never write partial sums where another one counts.
_held: dict[tuple[torch.device, int], Tensor] = {}


def zeroed_words(words: int, counters: int, device: torch.device) -> Tensor:
    """int32 words, the first of them zero, that no launch on another stream uses.

    Kept ones belong to the device's default stream.  What is allocated on another one may lie in a
    pool that a CUDA graph owns: ``torch.compile(mode="reduce-overhead")`` warms up on a stream of
    its own, without capturing, and takes back all memory that it does not see as a result.

    Args:
        words: at least so many.
        counters: of them, those that have to be zero; a launch leaves them so.
        device: where they lie.
    """
    if device.type != "cuda":
        return torch.zeros(words, dtype=torch.int32, device=device)
    # The stream that captures is never the default one: a graph's workspace is its own, too.
    own_stream = torch.cuda.current_stream(device) != torch.cuda.default_stream(device)
    if own_stream or words > MAX_HELD_WORDS:
        fresh = torch.empty(words, dtype=torch.int32, device=device)
        fresh[:counters].zero_()
        return fresh
    key = (device, counters)
    held = _held.get(key)
    if held is None or held.numel() < words:
        if len(_held) >= MAX_HELD:
            _held.clear()  # the allocator gives the memory to later work of the same stream
        held = _held[key] = torch.zeros(words, dtype=torch.int32, device=device)
    return held
