"""What can go wrong on a link to RabbitMQ, and how a broker or backend turns it into errors of its own."""

from typing import Final

from aiotask.connections.translating import Translation

NOT_ENABLED: Final = 541
"""The code of what a server can do and was not told to. It ends the connection, with all its channels."""


class LinkClosed(Exception):  # noqa: N818 - says what the link is
    """The link is not open."""


class ServerRefused(Exception):  # noqa: N818 - says what the server did
    """There is no RabbitMQ that can be used: unreachable, another kind of server, too old, or it does not let us in."""


class LinkDown(Exception):  # noqa: N818 - says what the link is
    """There is no connection, or it was lost before the answer came.

    Attributes:
        sent: True when the command had left: nobody knows whether the server carried it out. False: it did not.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ServerBlocked(LinkDown):
    """The server takes no messages now: it has no memory, or no disk, left. Nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(message, sent=False)


class ChannelError(Exception):
    """The server has closed a channel, since it would not do what it was asked to. Its text is the server's.

    Attributes:
        code: AMQP's: 403 not allowed, 404 not there, 405 somebody else's alone, 406 not as it was declared, 541 not
            enabled (it closes the connection then).
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


_WHAT_TO_DO = {
    403: "Give the user the permission: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ.",
    405: "Another program uses it alone (exclusive); use another name.",
    406: "Another program has made it otherwise; delete it, use another name, or set up as that program does.",
    NOT_ENABLED: "Delays and the list of queues need quorum queues, revokes need streams. Enable them: rabbitmqctl "
    "enable_feature_flag all.",
}


_ALSO = (
    (
        403,
        "in exclusive use",
        "Another program consumes it and lets nobody else (an exclusive consumer); stop it, or use another name.",
    ),
    (403, "reserved prefix", "Names that begin with amq. are the server's own; use another name."),
    (
        406,
        "queue limit in vhost",
        "Delete queues that nobody needs, or raise the limit max-queues: rabbitmqctl set_vhost_limits -p VHOST.",
    ),
    (406, "message size", "Send less, or raise max_message_size in the server's rabbitmq.conf (in bytes)."),
)
"""What a code means besides, by what the server says with it."""


def _what_to_do(error: ChannelError) -> str:
    said = str(error)
    for code, words, hint in _ALSO:
        if code == error.code and words in said:
            return hint
    return _WHAT_TO_DO.get(error.code, "")


def translated(place: str, translation: Translation, error: BaseException) -> Exception | None:
    """Return the adapter's error for one of the link; None for any other. `place` is the masked URL."""
    if isinstance(error, ServerBlocked):
        return translation.full(str(error))
    if isinstance(error, (LinkClosed, LinkDown, ServerRefused)):
        return translation.connection(str(error))
    if isinstance(error, ChannelError):
        return translation.other(f"RabbitMQ {place} refuses: {str(error).rstrip('.')}. {_what_to_do(error)}".rstrip())
    return None
