"""Names from files and folders, as a terminal and pages may show them."""

__all__ = ["printable", "printable_name"]


def printable_name(text: str) -> str:
    """A name without what breaks a line or is no UTF-8: such characters as escapes."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode()
        for one in text
    )


def printable(name: str, width: int = 120) -> str:
    """A name from a file on one line, without what would steer a terminal; cut at ``width``."""
    cut = name if len(name) <= width else f"{name[: width - 1]}…"
    return cut if cut.isprintable() else repr(cut)[1:-1]
