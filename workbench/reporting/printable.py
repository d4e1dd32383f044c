"""Names as pages show them."""

__all__ = ["printable_name"]


def printable_name(text: str) -> str:
    """A name without what breaks a line or is no UTF-8: such characters as escapes."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode()
        for one in text
    )
