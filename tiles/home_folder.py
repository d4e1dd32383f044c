"""This user's home, where it is known."""

from pathlib import Path

__all__ = ["home_folder"]


def home_folder() -> Path:
    """``$HOME``, or what the system's list of users says.

    A container's process often has neither, under a number that nobody listed; its home is the
    root then, as it is for a shell there: nothing of its own is found, and what is written there is
    refused by the system and told as such.
    """
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")
