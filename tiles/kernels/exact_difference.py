"""What makes an output wrong where it has to be right bit for bit."""

import torch

__all__ = ["POISON", "first_difference", "poison"]

#: What outputs of bytes hold before a checked launch.
POISON = 0x55


def poison(tensor: torch.Tensor) -> None:
    """Fill a tensor of any strides with what is rarely right."""
    if tensor.dtype == torch.uint8:
        tensor.fill_(POISON)
    else:
        tensor.fill_(-1.25)


def first_difference(name: str, written: torch.Tensor, wanted: torch.Tensor) -> str:
    """The first element that is not bit-identical, or nothing; one NaN is like another."""
    if written.dtype == torch.uint8:
        differs = written != wanted
    else:
        nans = written.isnan() & wanted.isnan()
        differs = ((written != wanted) | (written.signbit() != wanted.signbit())) & ~nans
    count = int(differs.sum())
    if not count:
        return ""
    place = tuple(int(index) for index in differs.nonzero()[0])
    got, want = written[place].item(), wanted[place].item()
    return f"{name}{list(place)} = {got!r}, wanted {want!r} exactly; {count} differ"
