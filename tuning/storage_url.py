"""The URL of a shared storage: checked, and shown without what is secret in it."""

import re

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

__all__ = ["DRIVER", "parse_storage_url", "shown_url"]

DRIVER = "postgresql+psycopg"
_EXAMPLE = f"{DRIVER}://user@host:5432/database"
#: User and password as SQLAlchemy cuts them off: a password ends at its first '@'.
_USER = re.compile(r"^[^:/]*(?::[^@]*)?@")


def parse_storage_url(text: str) -> URL:
    """A PostgreSQL URL.

    Raises:
        ValueError: not such a URL; the message never repeats the text, which may hold a password.
    """
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # ``from None``: the cause may quote the URL.
        raise ValueError(f"the storage's URL cannot be read: write {_EXAMPLE}") from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername=DRIVER)
    if url.drivername != DRIVER:
        # What stands before :// is no secret, but a text without it may be all secret.
        raise ValueError(
            f"the storage's URL begins with {url.drivername!r:.40}: only PostgreSQL is shared "
            f"safely between hosts: write {_EXAMPLE}"
        )
    # The rest of a password that holds an '@' would be the host's name, which messages show.
    if "@" in _USER.sub("", text.partition("://")[2], count=1):
        raise ValueError(
            "the storage's URL holds an '@' too many: write '@' in a user's name or password as "
            f"%40, '/' as %2F: {_EXAMPLE}"
        )
    if not url.database:
        raise ValueError(f"the storage's URL names no database: write {_EXAMPLE}")
    return url


def shown_url(url: URL) -> str:
    """The URL without user, password and options: what messages and files may hold."""
    return URL.create(
        url.drivername, host=url.host, port=url.port, database=url.database
    ).render_as_string()
