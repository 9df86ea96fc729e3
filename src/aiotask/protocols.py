"""The seams: what a broker and a result backend have to do. These docstrings are the specification.

The contract suites in `aiotask.testing` hold every implementation to them, clause by clause. Durations are seconds as
float, times epoch seconds UTC by the *broker's* clock, batches ordered and never empty.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from aiotask.message import (
    DeadLetter,
    Delivery,
    Envelope,
    Finish,
    QueueDepth,
    Settlement,
    Start,
    TaskMessage,
    Verdict,
)
from aiotask.options import Timing
from aiotask.outcome import TaskMeta
from aiotask.settings import Settings

T = TypeVar("T")


class Renewal(NamedTuple):
    """What a lease keeper found out while renewing."""

    lost: Sequence[Hashable]
    """Receipts that another consumer owns by now, or that are gone."""


class LeaseKeeper(Protocol):
    """Renews leases from a thread of its own, so that a blocked event loop loses none. Synchronous."""

    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        """Extend the lease of each receipt to a full lease from now, where the consumer still owns it.

        Never takes a message back from a consumer that has got it meanwhile. What is being settled, until a turn of the
        event loop after `settle` has returned, need not be named as lost when it is gone.

        Raises:
            BrokerError: Nothing is known; try again.

        Cost: one round trip; idempotent.
        """

    def close(self) -> None:
        """Free what it holds; the receipts keep their leases."""


class Subscription(Protocol):
    """One consumer's way to take messages from some queues and to answer them."""

    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        """Take up to `max_items` messages that are due, waiting up to `wait` seconds for the first.

        Each is leased to this consumer. Reclaimed ones come first (their consumer did not renew), then by priority,
        0 first, and in one priority in the order in which they became due. `[]` after `wait`, and while the link is
        down. A message that is not due is never handed out, nor one that is parked. Cancelling is safe: what the
        cancelled call had taken is given back at once.

        Cost: one round trip when there is work; none while waiting, if the broker can push.
        """

    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        """Take what was parked: of each waiting line in `lines` up to so many messages, leased to this consumer.

        Returns at once, `[]` when nothing is parked there and while the link is down. A line belongs to its queue;
        those of one name are taken from over all queues of the subscription: by priority, 0 first, and in one priority
        in the order in which they were parked. Between lines there is no order.

        What is parked stays until it is taken, whoever parked it, and outlives every worker. Its `Delivery` says which
        `line` it came from, and is otherwise the one that was parked: with its priority, expiry, losses and count. From
        then on it is like any other: released, or lost with its consumer, it comes back by `receive`, ahead, and not
        into the line. Cancelling is safe, as in `receive`.

        Cost: one round trip.
        """

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        """Judge and count the starts of `batch`, in its order, as one step. The body may only run after RUN.

        Looks at, in this order: is it still mine (LOST), was its task revoked (REVOKED), was it started and lost before
        while acknowledged early (STARTED_BEFORE), was it lost as often as allowed (TOO_MANY_STARTS), is it past its
        time (EXPIRED).

        Cost: one round trip.
        """

    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        """Carry out `batch`, mixed as it is, as one step; return the deliveries that are no longer ours.

        A settlement of a delivery that has another owner, or is settled already, has no effect at all.

        Cost: one round trip. Kept and repeated while the link is down, until the lease is lost.
        """

    def lease_keeper(self) -> LeaseKeeper:
        """Return a keeper of this subscription's leases, to be used in one thread."""

    async def set_queues(self, queues: Sequence[str]) -> None:
        """Take from `queues` from now on. What was received stays."""

    async def close(self) -> None:
        """Hand back at once what was received and not settled. Idempotent.

        What was begun counts as lost: nobody knows what became of it, and what is acknowledged early must not start
        again. Whoever knows better settles it before.
        """


class Broker(Protocol):
    """A place where messages wait. Knows no task, no retry and no result."""

    @property
    def connected(self) -> bool:
        """False from the moment a link is known to be down until it is up again."""

    async def open(self) -> None:
        """Connect.

        Raises:
            BrokerConnectionError: It can't be reached or refuses us; afterwards links are remade for ever.
        """

    async def close(self) -> None:
        """Disconnect. Idempotent; the broker can be opened again."""

    async def publish(self, batch: Sequence[Envelope]) -> None:
        """Store `batch`; every message of it is durable on return, to the degree that the broker knows durability.

        Raises:
            PublishError: Some were not confirmed; it names them.
            BrokerFull: There is no room; nothing of the batch was stored.

        Cost: one round trip.
        """

    async def subscribe(self, queues: Sequence[str], *, consumer: str, lease: float, max_losses: int) -> "Subscription":
        """Begin to consume `queues`, made where they don't exist.

        Args:
            queues: Names, in no order of importance.
            consumer: Unique to this start of this worker.
            lease: Seconds that a received message stays ours without a renewal.
            max_losses: A message that was lost so often after a start is not begun again.
        """


@runtime_checkable
class HeaderCarrier(Protocol):
    """A broker that carries `headers` and `properties` beside the body, which other protocols need.

    They come back in each `Delivery` of the message, and in its `DeadLetter`: also after it was released, parked, lost
    or replayed. What another program has sent comes with its own. To other brokers no such envelope is given.
    """

    carries_headers: Literal[True]


Answering = Callable[[Mapping[str, Any]], Any]
"""Carries out a command with its arguments, and returns the answer, of plain values. Must not block."""


@runtime_checkable
class RemoteControlled(Protocol):
    """A broker over which workers can be asked something."""

    def answering(self, node: str, commands: Mapping[str, Answering]) -> AbstractAsyncContextManager[None]:
        """Answer `commands`, by their names, under a node's name, for as long as the context is open.

        A command that is not among them is answered by `{"error": ...}`, and so is one that raises. Whatever goes
        wrong, the worker goes on without: nothing is raised.
        """

    async def ask(
        self, command: str, arguments: Mapping[str, Any], *, destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        """Ask the nodes named in `destination` (None: all) to carry out `command`; return their answers by node name.

        Returns when all of `destination` have answered, or all that are known to listen, where the broker knows that;
        and after `timeout` seconds with the answers that have come by then. Of several nodes of one name one is in it.

        Args:
            command: Its name.
            arguments: Plain values.
            destination: Node names.
            timeout: Seconds.

        Raises:
            BrokerError: It could not be asked.

        Cost: one round trip, and waiting.
        """


@runtime_checkable
class Revoking(Protocol):
    """A broker that keeps which tasks must not start, as safe as its messages and also while no worker is there."""

    async def revoke(self, ids: Sequence[str]) -> None:
        """Let no message of these task ids be started any more, on any subscription, also one that is made later.

        From the return on `begin` says REVOKED of them, whether they wait, are delayed, parked or handed out by then,
        or are sent later; what was begun before is left alone. Where subscriptions are told, instead of asking at each
        `begin`, one that exists learns it a moment later; one that is made after it knows it. At least the newest
        100,000 ids (`REVOKED_KEPT`) are kept. Idempotent.

        Raises:
            BrokerError: Nothing is known to be kept; try again.

        Cost: one round trip.
        """


@runtime_checkable
class FusedFinish(Protocol):
    """A subscription that can end executions in one atomic step, when results live on the same link."""

    def fuses(self, backend: "ResultBackend") -> bool:
        """Tell whether `finish` can store rows of `backend`."""

    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        """Settle, store the row and publish the follow-ups of each, all or nothing; return those no longer ours.

        A finish of a delivery that is no longer ours stores and publishes nothing. Rows obey the rule of
        `ResultBackend.store`.

        Cost: one round trip for the batch.
        """


@runtime_checkable
class FusedStart(Protocol):
    """A subscription that can start messages by the step that hands them out, where `begin` is a step of its own."""

    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        """Receive, and begin those of the first `starts` that need no judging; they come as `begun`.

        That needs what was lost before, was revoked, or is past its time. Who gets a delivery that is `begun` may run
        its body at once: it counts as started, as after RUN. It may also be begun by `begin` later, which judges it
        again, and be settled without having run, by which nothing is lost. What nobody has got, since the call was
        cancelled or the reply was lost, is given back, and counts as not started.

        Cost: as `receive`.
        """


@runtime_checkable
class Pipelined(Protocol):
    """A subscription whose steps somebody else carries out, while this process does other things.

    Several small batches under way are better there than one: while one runs, the next is begun, and the last settled.
    Where each step has a price of its own, like a commit to a disk, one large batch is.
    """

    @property
    def batches(self) -> int:
        """In how many batches a worker best begins as many messages as it has slots."""


@runtime_checkable
class Examinable(Protocol):
    """A broker that can be reached, and still be of no use to a worker."""

    async def examine(self, queues: Sequence[str]) -> None:
        """See that a worker could take from `queues`, without a trace.

        Raises:
            BrokerError: It could not; says why, and what to do.
        """


@runtime_checkable
class QueueAdmin(Protocol):
    """A broker that can tell what it holds and act on it. For the command line and control, not for the hot path."""

    async def queues(self) -> list[str]:
        """Return the names of the queues that hold anything, parked messages and dead letters included, sorted."""

    async def depths(self, queues: Sequence[str]) -> list[QueueDepth]:
        """Count what each of `queues` holds, in their order; an unknown queue is empty."""

    async def consumers(self, queues: Sequence[str]) -> list[int]:
        """Count the subscriptions that take from each of `queues` now, in their order.

        One counts from `subscribe` to `close`, for its queues of that moment. One whose process died, which is seen by
        its neither receiving nor renewing, is counted until a lease of its would have ended.
        """

    async def purge(self, queues: Sequence[str]) -> int:
        """Drop what waits, is delayed or parked in `queues`; return how many. What is handed out or dead stays."""

    async def dead_letters(self, queues: Sequence[str] | None = None, limit: int = 100) -> list[DeadLetter]:
        """Return the dead letters of `queues` (None: of all), the newest first."""

    async def find_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        """Return the dead letters of these task ids, the newest first."""

    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        """Put the dead letters of these task ids back into their queues, due now, nothing counted against them.

        Returns the ids that were put back. A letter whose body was cut is left where it is.
        """

    async def purge_dead(self, queues: Sequence[str] | None = None) -> int:
        """Drop the dead letters of `queues` (None: of all); return how many."""


class ResultBackend(Protocol):
    """Where states and results are kept."""

    @property
    def connected(self) -> bool:
        """False from the moment a link is known to be down until it is up again."""

    async def open(self) -> None:
        """Connect.

        Raises:
            BackendConnectionError: It can't be reached or refuses us.
        """

    async def close(self) -> None:
        """Disconnect. Idempotent; the backend can be opened again."""

    def encode(self, meta: TaskMeta, expires: float | None) -> Any:
        """Return `meta` as a row of this backend, kept for `expires` seconds (None: for ever). No I/O.

        A result that is `Packed` stays so, and comes back so: only who reads it knows what may be decoded.

        Raises:
            EncodeError: The result is not serialisable.
        """

    async def store(self, rows: Sequence[Any]) -> None:
        """Store encoded rows. Idempotent.

        Of rows of one id the last wins, except that a final state is never replaced by anything.

        Raises:
            BackendError: Nothing is known to be stored; try again.

        Cost: one round trip.
        """

    async def fetch(self, ids: Sequence[str]) -> list[TaskMeta | None]:
        """Return what is stored of each id, in their order; None where nothing is, or it has expired.

        Cost: one round trip.
        """

    def watch(self, ids: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[TaskMeta]]:
        """Follow `ids`: first what is stored of each now, then each change as it is stored, until closed.

        Pushed where the store can push. Of changes in quick succession the last is certain to come, and a final state
        always is; nothing comes twice in a row for one id. Closing the backend ends it by `BackendConnectionError`.
        """

    async def forget(self, ids: Sequence[str]) -> int:
        """Remove what is stored of `ids`, final or not; return how many there were."""


@runtime_checkable
class ReplyReceiver(Protocol):
    """A result backend that stores nothing: what becomes of a task is sent to the process that has sent it."""

    reply_to: str
    """Where to: the name of the queue of this process."""

    def expect(self, ids: Sequence[str]) -> None:
        """Keep what will come of these tasks, which are about to be sent with `reply_to`. No I/O."""


class MessageCodec(Protocol):
    """Makes the body of a message and reads it again. No I/O."""

    content_type: str

    def encode(self, message: TaskMessage) -> bytes:
        """Return the body."""

    def decode(self, body: bytes) -> TaskMessage:
        """Return the message.

        Raises:
            DecodeError: The bytes are no message of this format.
        """


class Serializer(Protocol):
    """Turns argument and result values into bytes and back. No I/O."""

    name: str
    content_type: str
    content_encoding: str
    """The character encoding of the bytes; `binary` where they are no text."""

    def encode(self, value: Any) -> bytes:
        """Return the bytes.

        Raises:
            EncodeError: Something in `value` can't be serialised; the message names its path.
        """

    def decode(self, data: bytes) -> Any:
        """Return the value.

        Raises:
            DecodeError: `data` is not of this content type.
        """


class Beyond(NamedTuple):
    """What few calls ask for beyond one message in one queue."""

    queues: tuple[str, ...]
    """Further queues that the same message goes to."""
    immediate: bool
    """Whether a worker has to consume each of its queues at that moment."""


class Outgoing(NamedTuple):
    """A message on its way to the broker."""

    message: TaskMessage
    queue: str
    when: Timing
    beyond: Beyond | None = None


class Application(Protocol):
    """The app, as tasks and results see it."""

    main: str | None
    conf: Settings
    codec: MessageCodec
    origin: str
    """Who sends: `gen<pid>@<host>`."""

    @property
    def tasks(self) -> Mapping[str, Any]:
        """The registry: name -> task."""

    @property
    def broker(self) -> Broker:
        """The live broker."""

    @property
    def backend(self) -> ResultBackend:
        """The live result backend."""

    def backend_for(self, task_name: str | None) -> ResultBackend:
        """Return the live result backend of a task: its own, else the app's; also the app's when it isn't known."""

    async def connect(self) -> None:
        """Open what is not open yet on the running loop."""

    def run_sync(self, what: str, make: "Callable[[Application], Coroutine[Any, Any, T]]") -> T:
        """Run a coroutine for code without a loop, and block; `make` gets the app to use there."""

    async def run_here(self, task: Any, call: Outgoing) -> Any:
        """Run a call in this process; return its `EagerResult`."""

    async def send(self, calls: Sequence[Outgoing]) -> None:
        """Publish; return when every one is durable. Connects at the first use."""
