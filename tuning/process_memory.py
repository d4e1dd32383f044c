"""How much host memory a process and its descendants hold; Linux, no answer elsewhere."""

import os
from pathlib import Path

__all__ = ["available_bytes", "offer_to_oom_killer", "resident_bytes"]

_CGROUP = Path("/sys/fs/cgroup")


def resident_bytes(pid: int) -> int:
    """Resident bytes of a process and its descendants; 0 when it is gone or cannot be read.

    Pages that a forked child shares with its parent count twice.
    """
    total, pending, seen = 0, [pid], {pid}
    while pending:
        process = Path("/proc") / str(pending.pop())
        try:
            total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in (process / "task").iterdir():
                for child in map(int, (task / "children").read_text().split()):
                    if child not in seen:
                        seen.add(child)
                        pending.append(child)
        except (OSError, IndexError, ValueError):
            continue  # it ended while it was read
    return total


def available_bytes() -> int | None:
    """What may still be allocated without swapping: the system's figure or the cgroup's room."""
    found = [room for room in (_system_room(), _cgroup_room()) if room is not None]
    return min(found, default=None)


def _system_room() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _cgroup_room() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        used = (_CGROUP / "memory.current").read_text().strip()
    except OSError:
        return None
    return int(limit) - int(used) if limit.isdecimal() and used.isdecimal() else None


def offer_to_oom_killer() -> None:
    """Have Linux end this process first when memory runs out, and not the sweep's parent."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return
