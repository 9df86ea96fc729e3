"""What a Redis server says of itself, and whether it can be used. No I/O."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from aiotask.connections.redis.commands import pack_command
from aiotask.connections.redis.errors import ReplyError, ServerRefused, wants_password

OLDEST: Final = (6, 2)

QUESTIONS: Final = pack_command(("HELLO",)) + pack_command(("INFO",))
"""HELLO is allowed to every user, and while the server loads; INFO says more, and an ACL may forbid it."""
QUESTIONS_REPLIES: Final = 2

_EVICTS_NOTHING: Final = "noeviction"


class Server(NamedTuple):
    """What there is to know of the server that the link is connected to."""

    version: tuple[int, ...]
    role: str
    """`master` or `replica`; a Sentinel has `sentinel`."""
    mode: str
    """`standalone`, `cluster` or `sentinel`."""
    loading: bool
    eviction: str | None
    """Its `maxmemory-policy`; None where the user may not see it."""

    @property
    def version_text(self) -> str:
        """As people write it."""
        return ".".join(map(str, self.version))

    @property
    def evicts(self) -> bool:
        """True when it may throw away what it was given to keep."""
        return self.eviction is not None and self.eviction != _EVICTS_NOTHING


def read_answers(place: str, answers: Sequence[Any]) -> Server:
    """Return what the replies to `QUESTIONS` say.

    Raises:
        ServerRefused: They say that it is no Redis, or that it does not let us in.
    """
    hello, info = answers
    for answer in answers:
        if isinstance(answer, ReplyError) and answer.code == "NOAUTH":
            raise wants_password(place)
    greeting = {} if isinstance(hello, ReplyError) else _pairs(hello)
    facts = {} if isinstance(info, ReplyError) else _lines(info)
    version = facts.get("redis_version") or greeting.get("version") or ""
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not numbers:
        raise ServerRefused(
            f"{place} answers, but does not say which version of Redis it is ({hello!r}, {info!r}). "
            "Is it a Redis, and may this user call HELLO or INFO?"
        )
    role = facts.get("role") or greeting.get("role") or "master"
    return Server(
        version=numbers,
        role="replica" if role == "slave" else role,
        mode=facts.get("redis_mode") or greeting.get("mode") or "standalone",
        loading=facts.get("loading", "0") != "0",
        eviction=facts.get("maxmemory_policy"),
    )


def check_server(place: str, server: Server) -> None:
    """See that `server` can hold queues and results.

    Raises:
        ServerRefused: It can't; the message says why and what to do.
    """
    if server.version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ServerRefused(f"Redis {place} is version {server.version_text}; aiotask needs {oldest} or newer.")
    if server.mode == "sentinel":
        raise ServerRefused(
            f"{place} is a Redis Sentinel. Write sentinel://host:26379/0?master_name=mymaster, and it is asked for the "
            "master."
        )
    if server.mode == "cluster":
        raise ServerRefused(
            f"Redis {place} is a node of a Redis Cluster, which this version can't use. Use a server on its own."
        )
    if server.loading:
        raise ServerRefused(f"Redis {place} is still loading its data. Try again in a moment.")
    if server.role != "master":
        raise ServerRefused(
            f"Redis {place} is a read-only replica. Name its master, or the Sentinels that know which it is."
        )


def _pairs(flat: Any) -> dict[str, str]:
    if not isinstance(flat, list):
        return {}
    words = [item.decode() if isinstance(item, bytes) else str(item) for item in flat]
    return dict(zip(words[::2], words[1::2], strict=False))


def _lines(info: Any) -> dict[str, str]:
    text = info.decode() if isinstance(info, bytes) else ""
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
