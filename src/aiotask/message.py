"""A task message in its three shapes, and what can be done with it. Values, no I/O.

`TaskMessage` is what the caller means; a codec (`wire/`) makes it an `Envelope`, which is all that a broker sees; a
broker hands it out as a `Delivery`, which a worker answers with a `Settlement`.
Times are epoch seconds, durations seconds, both float.
"""

import os
import time
from enum import Enum
from typing import Any, Final, Literal

import msgspec

DEFAULT_PRIORITY: Final = 5
PRIORITIES: Final = range(10)
"""0 is the most urgent."""


def new_id() -> str:
    """Return a fresh task id: 32 hexadecimal digits, 12 of the time in milliseconds and 20 of randomness.

    Ids of one time stand side by side in a store's index: with 200,000 results in SQLite that is worth a third of the
    whole drain (RFC 9562 has version 7 for the same reason).
    """
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


class Foreign(msgspec.Struct, array_like=True):
    """What a message of another protocol says that ours has no field for, so that it can be sent on as it came."""

    headers: dict[str, Any] = {}
    """All headers, as they came."""
    properties: dict[str, Any] = {}
    """AMQP's basic properties but for the content type, as they came."""
    facts: dict[str, Any] = {}
    """What the request tells of it, by the names of the request's own fields."""


class TaskMessage(msgspec.Struct, array_like=True):
    """One call of a task, as its caller means it. The order of the fields is the native wire format: append only."""

    task: str
    id: str
    payload: bytes
    """The serialised `[args, kwargs]`, in the format that `content_type` names."""
    content_type: str = "application/json"
    retries: int = 0
    root_id: str | None = None
    parent_id: str | None = None
    eta: float | None = None
    """When it was due by the sender's clock; the broker keeps the time that counts."""
    expires: float | None = None
    """When it expires by the sender's clock; the broker keeps the time that counts."""
    priority: int = DEFAULT_PRIORITY
    ignore_result: bool | None = None
    """None means as the task is declared."""
    origin: str | None = None
    headers: dict[str, Any] | None = None
    compression: str | None = None
    """The content type of how the payload is compressed, or None; nothing else of the message is."""
    shadow: str | None = None
    """What logs call it instead of the task's name."""
    argsrepr: str | None = None
    """What is shown in place of the positional arguments."""
    kwargsrepr: str | None = None
    """What is shown in place of the keyword arguments."""
    via: tuple[str, str] | None = None
    """The exchange that it was sent to, and the routing key; None when it was sent to its queue by name."""
    foreign: Foreign | None = None
    """Not None makes it a message of another protocol than ours, and so are its retries."""
    reply_to: str | None = None
    """The reply queue of its caller, where its result backend is one that sends results (`ReplyReceiver`)."""


class Envelope(msgspec.Struct):
    """What a broker carries: an opaque body and the facts that it acts upon.

    Our own format says everything in the body. Another protocol's has `headers` and `properties` beside it, which only
    a `HeaderCarrier` carries: opaque to it as well, but that they are AMQP's, where it speaks AMQP.
    """

    id: str
    """The task id: for dead letters and revokes. It is not unique: a retry has the same."""
    queue: str
    body: bytes
    content_type: str
    priority: int = DEFAULT_PRIORITY
    delay_s: float | None = None
    """Due so long after the broker has taken it, by the broker's clock."""
    due_at: float | None = None
    """Due at this time, by the broker's clock; not with `delay_s`."""
    ttl_s: float | None = None
    """Expires so long after the broker has taken it."""
    expires_at: float | None = None
    """Expires at this time, by the broker's clock; not with `ttl_s`."""
    headers: dict[str, Any] | None = None
    """The headers of another protocol's message; None for a message of ours."""
    properties: dict[str, Any] | None = None
    """AMQP's basic properties by their names (`reply_to`, `content_encoding`, ...), but for the content type. What they
    say wins over what the broker would make of the fields above."""


class Delivery(msgspec.Struct, eq=False):
    """One handing-out of an envelope to one consumer. Compared and hashed by identity."""

    id: str
    queue: str
    body: bytes
    content_type: str
    priority: int
    receipt: Any
    """The adapter's own handle: hashable, valid for this handing-out only; a lease keeper takes it too."""
    delivery_count: int = 1
    """How often it was handed out, this time included, but for those times that ended in its being parked."""
    losses: int = 0
    """How often a worker was lost after it had started it."""
    expires_at: float | None = None
    """Who reads the message sets it, where the broker knows none and the message does: `begin` goes by it."""
    line: str | None = None
    """The waiting line that it was taken from; None when it came from its queue."""
    headers: dict[str, Any] | None = None
    """As in its envelope, or as another program has sent them; None where there are none."""
    properties: dict[str, Any] | None = None
    """As `headers`."""
    begun: bool = False
    """Whether it was begun by the step that handed it out (`FusedStart`)."""
    via: tuple[str, str] | None = None
    """The exchange and the routing key that another program has sent it by; None where it was sent to its queue."""


class Start(msgspec.Struct):
    """A delivery that a worker is about to start, and how it will be acknowledged."""

    delivery: Delivery
    acks_late: bool = False


class Verdict(Enum):
    """What `Subscription.begin` says of a delivery. All but LOST leave it with the consumer, who settles it."""

    RUN = "run"
    LOST = "lost"
    """Another consumer has it by now: forget it, don't settle."""
    REVOKED = "revoked"
    """Its task must not start any more (`Revoking`)."""
    EXPIRED = "expired"
    STARTED_BEFORE = "started_before"
    """Acknowledged early, and a worker was lost after starting it: it must not start again."""
    TOO_MANY_STARTS = "too_many_starts"
    """Workers were lost after starting it as often as the subscription allows."""


class Settlement(msgspec.Struct):
    """What becomes of a delivery.

    `ack` removes it. `release` gives it back: at once and ahead of what waits when `delay_s` is 0, else in so many
    seconds, at the end of its line; it is counted as a loss when it is `lost`, otherwise not. `replace` puts `envelope`
    in its place. `park` puts it into the waiting line `line` of its queue, which `Subscription.unpark` takes from; that
    counts neither as a loss nor as a handing-out. `dead` moves it to its queue's dead letters with `reason` and
    `detail`.
    """

    delivery: Delivery
    action: Literal["ack", "release", "replace", "park", "dead"] = "ack"
    delay_s: float = 0.0
    lost: bool = False
    """What ran it was lost, though not the consumer: to be released, and counted as if that had been lost."""
    line: str = ""
    envelope: Envelope | None = None
    reason: str = ""
    detail: str = ""


class Finish(msgspec.Struct):
    """All that ends one execution, to take effect as one step: the settlement, the result row, the follow-ups."""

    settlement: Settlement
    row: Any = None
    """What `ResultBackend.encode` made of the outcome, or None when nothing is stored."""
    follow_ups: tuple[Envelope, ...] = ()


class DeadLetter(msgspec.Struct):
    """A message that nobody will run, kept with the reason."""

    id: str
    queue: str
    reason: str
    """One word: an error's class name, e.g. `NotRegistered`, `DecodeError`, `WorkerLost`, `Reject`."""
    detail: str
    died_at: float
    body: bytes
    """At most `DEAD_BODY_BYTES` of it."""
    body_bytes: int
    """How long it was; longer than `body` means cut, and that it can't be replayed."""
    content_type: str
    priority: int = DEFAULT_PRIORITY
    headers: dict[str, Any] | None = None
    """As those of its delivery."""
    properties: dict[str, Any] | None = None


DEAD_BODY_BYTES: Final = 64 * 1024

REVOKED_KEPT: Final = 100_000
"""So many revoked task ids are kept at least, the newest."""


class QueueDepth(msgspec.Struct):
    """How many messages of one queue are in which condition."""

    queue: str
    ready: int = 0
    delayed: int = 0
    parked: int = 0
    """In the waiting lines of tasks that are limited."""
    reserved: int = 0
    """Handed out and not settled."""
    dead: int = 0
