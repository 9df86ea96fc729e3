"""What serializers and compressions may be called, by people and in messages."""

from typing import Any

from aiotask.exceptions import ImproperlyConfigured


def checked_name(kind: str, name: Any) -> str:
    """See that `name` can be the name of a serializer or a compression (`kind`); return how errors call it.

    Raises:
        ImproperlyConfigured: It is no name.
    """
    if not isinstance(name, str) or not name.isprintable() or not name.strip() or "/" in name or len(name) > 100:
        raise ImproperlyConfigured(
            f"{name!r:.80} can't be the name of a {kind}: it takes a short text without '/', such as 'yaml'."
        )
    return f"The {kind} {name!r}"


def check_content_type(what: str, content_type: Any) -> None:
    """See that `content_type` is one.

    Raises:
        ImproperlyConfigured: It is none.
    """
    parts = content_type.split("/") if isinstance(content_type, str) else []
    if len(parts) != 2 or not all(parts) or not content_type.isprintable() or " " in content_type:
        raise ImproperlyConfigured(
            f"{what}: content_type is {content_type!r:.80}; it takes a media type such as 'application/x-yaml'."
        )
