"""Where this user's caches are kept."""

import os
from pathlib import Path

from tiles.home_folder import home_folder

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/tile-workbench``, by default below ``~/.cache``; it may not exist yet.

    Source: XDG base directory specification 0.8; a relative path in the variable is ignored.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(named) if os.path.isabs(named) else home_folder() / ".cache"
    return base / "tile-workbench"
