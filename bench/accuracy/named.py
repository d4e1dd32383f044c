"""Pairs as ``workbench quantize`` takes them, e.g. ``bench.accuracy.named:encoder``."""

from bench.accuracy.pairs import all_pairs
from bench.accuracy.task import Pair

__all__ = ["encoder", "gpt", "resnet", "vit"]


def _named(name: str) -> Pair:
    (found,) = (pair for pair in all_pairs() if pair.name == name)
    return found


def encoder() -> Pair:
    """The sentence encoder, finding functions of the standard library by their docstrings."""
    return _named("minilm.functions-stdlib")


def gpt() -> Pair:
    """A decoder of bytes."""
    return _named("gpt.next-byte")


def resnet() -> Pair:
    """A residual network on noisy digits."""
    return _named("resnet.noisy-digits")


def vit() -> Pair:
    """A vision transformer on digits."""
    return _named("vit.digits")
