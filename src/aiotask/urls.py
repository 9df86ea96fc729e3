"""Reads what a broker or backend URL says: masked for people's eyes, and whole, so that two of one place are equal."""

import os
import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from aiotask.exceptions import ImproperlyConfigured
from aiotask.project import project_folder

_PARAMETER_TO_MASK = r"([?&;][^=&;]*(?:pass|pwd|secret|token)[^=&;]*=)[^&;#]*"


def mask_url(url: str) -> str:
    """Return `url` with each password as `***`: `redis://user:***@host/0`. For messages, logs and `repr`.

    A password is taken to reach to the last `@`, since people forget to percent-encode `@`, `/` and `?` in theirs: the
    worst case then shows too little of a URL, never a part of a password. Parameters that are named like a secret
    (`?password=`) are masked as well.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and "://" not in rest:
        return url  # a path, where `:` and `@` are letters like any other
    if not separator:
        scheme, rest = "", url
    user_info, at, place = rest.rpartition("@")
    user, colon, _ = user_info.partition(":")
    if at and colon:
        rest = f"{user}:***@{place}"
    return scheme + separator + re.sub(_PARAMETER_TO_MASK, r"\1***", rest, flags=re.IGNORECASE)


def resolve_sqlite(url: str, base: Path) -> str:
    """Return the absolute path that a SQLite URL names, symbolic links followed.

    The path is taken as it is written: nothing is percent-decoded, `~` has no meaning.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`.
        base: The folder, usually the current one, whose project's folder a relative path begins at, so that all
            processes of a project meet in one file wherever in it they are started.

    Raises:
        ImproperlyConfigured: `url` is no such URL; the message shows the two forms.
    """
    scheme, _, path = url.partition(":///")
    if path == ":memory:":
        raise ImproperlyConfigured(f"{url!r} can't be shared by processes; for one process alone write 'memory://'")
    if "?" in path:
        raise ImproperlyConfigured(
            f"{url!r} has parameters, and SQLite URLs take none; write them into the setting 'broker_transport_options'"
        )
    if scheme != "sqlite" or not path.strip("/"):
        raise ImproperlyConfigured(
            f"{mask_url(url)!r} is no SQLite URL; write 'sqlite:///relative.db' or 'sqlite:////absolute.db'"
        )
    return os.path.realpath(project_folder(base) / path)


def complete_redis(url: str) -> str:
    """Return a `redis://` or `rediss://` URL with the host, port and database that it leaves out.

    What can't be read is returned as it is; whoever connects says what is wrong with it.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        return url
    database = parts.path.strip("/") or "0"
    user, at, place = parts.netloc.rpartition("@")
    host = place.removesuffix(f":{parts.port}").rstrip(":") or "localhost"
    return urlunsplit((parts.scheme, f"{user}{at}{host}:{port}", f"/{database}", parts.query, parts.fragment))
