"""Memory that kernels work in, kept between launches."""

import torch
from torch import Tensor

#: Workspaces that are kept; a server of ever new shapes would fill the GPU with them.
MAX_HELD = 64

#: By device, stream and number of counters.  Launches on one stream follow each other, and those
#: with as many counters never write partial sums where another one counts.
_held: dict[tuple[torch.device, int, int], Tensor] = {}


def zeroed_words(words: int, counters: int, device: torch.device) -> Tensor:
    """int32 words, the first of them zero, that no launch on another stream uses.

    Args:
        words: at least so many.
        counters: of them, those that have to be zero; a launch leaves them so.
        device: where they lie.
    """
    if device.type != "cuda":
        return torch.zeros(words, dtype=torch.int32, device=device)
    if torch.cuda.is_current_stream_capturing():
        # A replay may run beside anything: its workspace is the graph's own.
        fresh = torch.empty(words, dtype=torch.int32, device=device)
        fresh[:counters].zero_()
        return fresh
    key = (device, torch.cuda.current_stream(device).cuda_stream, counters)
    held = _held.get(key)
    if held is None or held.numel() < words:
        if len(_held) >= MAX_HELD:
            _held.clear()  # the allocator gives the memory to later work of the same stream
        held = _held[key] = torch.zeros(words, dtype=torch.int32, device=device)
    return held
