"""One consumer of a Redis broker: takes, starts and settles messages."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from aiotask.brokers.redis.calls import LINK_ERRORS, Calls, tell
from aiotask.brokers.redis.entries import read_entries
from aiotask.brokers.redis.keeper import RedisLeaseKeeper
from aiotask.brokers.redis.keys import STARTED, UNPARKED, Line, Receipt
from aiotask.brokers.redis.packing import pack_finishes, pack_given_back
from aiotask.brokers.redis.scripts import BEGIN, HAND_BACK, HANDED, LOOK, RECEIVE, SETTLE, UNPARK
from aiotask.connections.redis import BlockingReader, LinkClosed, LinkDown, ReplyError
from aiotask.message import Delivery, Finish, Settlement, Start, Verdict
from aiotask.protocols import ResultBackend

_SCAN_MOST_S: Final = 5.0
"""Longest time between two looks, for lapsed leases (a quarter of the lease when that is shorter) and for messages."""
_LATER: Final = 1.1
"""Consumers look at most so much later than they were told, so that they don't all at once."""
_SHORTEST_S: Final = 0.001
"""The server takes 0 for a wait without end."""
_LOST, _REVOKED = 0, 2
"""Why begin.lua has not started something."""


class RedisSubscription:
    """A `Subscription`, `FusedStart`, `FusedFinish` and `Pipelined` on a `RedisLink`.

    What it is handed stands under its name in the streams' own records, and under another, with a `!`, once it is
    started. Who takes a message from it moves it to another place: so an id that is still on record is still its own.
    A small service of it looks for lapsed leases while it is open.
    """

    batches: Final = 3
    """See `Pipelined`: one is received or begun, one runs, one is settled."""

    def __init__(
        self,
        calls: Calls,
        queues: Sequence[str],
        *,
        consumer: str,
        lease: float,
        max_losses: int,
        forget: Callable[["RedisSubscription"], None],
    ) -> None:
        self.consumer = consumer
        self._calls = calls
        self._link = calls.link
        self._keys = calls.keys
        self._lease_ms = max(1, round(lease * 1000))
        # Who looks for lapsed leases reads there how long they are. Never another's name: closing hands back all of it.
        self._name = f"{self._lease_ms}:{consumer}#{os.urandom(4).hex()}"
        self._scan_ms = max(1, min(round(_SCAN_MOST_S * 1000), self._lease_ms // 4))
        self._max_losses = max_losses
        self._forget = forget
        self._queues = list(dict.fromkeys(queues))
        self._ever = dict.fromkeys(self._queues)
        self._reader = BlockingReader(self._link)
        self._held: set[Receipt] = set()
        self._ending: set[Receipt] = set()
        """What a settlement is under way of: when it is found to be nobody's, it is not lost."""
        self._unheard = False
        self._quiet_until = 0.0
        """Nothing was left when it was asked last, and nothing comes before that time without a token in `wake`."""
        self._returning: set[asyncio.Task[None]] = set()
        self._service: asyncio.Task[None] | None = None
        self._closed = False

    # ---- taking ----

    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        """See `Subscription`; `[]` at once when it is closed. Over several queues their lines of one rank take turns.

        Raises:
            BrokerError: The server refuses: a key belongs to another program, or the user may not do this.

        Cost: one round trip when there is work, two when it had to wait; while waiting one every 5 s.
        """
        return await self.receive_and_begin(max_items, wait, 0)

    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        """See `FusedStart`, and `receive`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        try:
            quiet = self._quiet_until - loop.time()
            if wait > 0 and quiet > 0:
                await self._pause(min(wait, quiet))
            while not self._closed:
                left = max(0.0, deadline - loop.time())
                taken, due_in = await self._handed(self._ask(max_items, starts, left))
                if len(taken) < max_items:
                    self._quiet_until = loop.time() + due_in
                if taken:
                    return self._hold(taken)
                left = deadline - loop.time()
                if left <= 0:
                    break
                await self._pause(min(left, due_in))
        except LinkClosed:
            return []
        except LINK_ERRORS as error:
            self._unheard = True  # of several lines one may have been read before another was refused
            await self._calls.fail(error, self._queues)
        return []

    async def _handed(self, ask: "Awaitable[tuple[list[Delivery], float]]") -> tuple[list[Delivery], float]:
        """Return what `ask` does. Cancelled, what it is handed all the same is given back."""
        try:
            return await ask
        except asyncio.CancelledError:
            self._give_back_soon()
            raise

    def _give_back_soon(self) -> None:
        """Give back what is handed out and nobody has seen, once all that was asked until now is answered."""
        self._unheard = True
        giving = asyncio.get_running_loop().create_task(self._try_to_give_back())
        self._returning.add(giving)
        giving.add_done_callback(self._returning.discard)

    async def _try_to_give_back(self) -> None:
        try:
            await self._give_back_unheard()
        except LINK_ERRORS as error:
            tell("What was handed out and not taken is given back later, at the latest when its lease lapses", error)

    async def _ask(self, max_items: int, starts: int, wait: float) -> tuple[list[Delivery], float]:
        """Return what is due, and in how many seconds the next will be."""
        if len(self._queues) > 1:  # another one comes first
            self._queues = [*self._queues[1:], self._queues[0]]
        queues = self._queues
        try:
            if self._unheard:
                await self._give_back_unheard()
            keys, args = self._keys.prefixes(queues), (self._name, max_items, starts, self._keys.revoked)
            due_in, *handed = await self._link.run(RECEIVE, keys, args, wait=wait)
        except LinkDown as error:
            self._unheard = self._unheard or error.sent
            return [], 0.0  # what a lost reply has handed out is nobody's yet: ask again once there is a connection
        deliveries: list[Delivery] = []
        for place, name, entries, begun in handed:
            line = self._keys.line(queues[place - 1], name.decode())
            read_entries(line, entries, deliveries, begun=begun == 1)
        return deliveries, _SCAN_MOST_S if due_in < 0 else due_in / 1000

    async def _give_back_unheard(self) -> None:
        """Give back what was handed out by a reply that nobody has heard, begun or not: it has not run."""
        queues = list(self._ever)
        self._unheard = False  # what is not heard from now on is another's to find
        try:
            found = await self._link.run(HANDED, self._keys.prefixes(queues), (self._name,))
            strays: list[Receipt] = []
            for place, name, ids in found:
                line = self._keys.line(queues[place - 1], name.decode())
                strays += [(line, entry_id) for entry_id in ids if (line, entry_id) not in self._held]
            if strays:
                await self._calls.once(SETTLE, pack_given_back(self._keys, strays))
        except BaseException:
            self._unheard = True
            raise

    def _hold(self, taken: list[Delivery]) -> list[Delivery]:
        if self._closed:  # it was handed out behind the back of `close`
            self._give_back_soon()
            return []
        self._held.update([delivery.receipt for delivery in taken])
        return taken

    async def _pause(self, seconds: float) -> None:
        """Wait until somebody is to look again, at most so long."""
        self._quiet_until = 0.0  # a token may be popped now, and be lost
        seconds = max(_SHORTEST_S, seconds)
        wakes = [f"{prefix}wake" for prefix in self._keys.prefixes(self._queues)]
        try:
            await self._reader.call("BLPOP", *wakes, f"{seconds:.3f}", block=seconds)
        except LinkDown:
            return  # or it was interrupted

    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        """See `Subscription`; `[]` when it is closed."""
        wanted = {line: limit for line, limit in lines.items() if limit > 0}
        if self._closed or not wanted:
            return []
        try:
            taken, _ = await self._handed(self._ask_parked(wanted))
        except LinkClosed:
            return []
        except LINK_ERRORS as error:
            await self._calls.fail(error, self._queues)
        return self._hold(taken)

    async def _ask_parked(self, wanted: Mapping[str, int]) -> tuple[list[Delivery], float]:
        queues, names = self._queues, list(wanted)
        args = [self._name, *(word for pair in wanted.items() for word in pair)]
        try:
            handed = await self._link.run(UNPARK, self._keys.prefixes(queues), args)
        except LinkDown as error:
            self._unheard = self._unheard or error.sent
            return [], 0.0
        deliveries: list[Delivery] = []
        for place, name, entries in handed:
            read_entries(self._keys.line(queues[place - 1], UNPARKED), entries, deliveries, parked_in=names[name])
        return deliveries, 0.0

    # ---- starting ----

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        """See `Subscription`; repeated while the connection is down."""
        verdicts = [Verdict.RUN] * len(batch)
        whole: dict[Line, list[int]] = {}
        judged: dict[Line, list[tuple[int, bytes]]] = {}
        for position, start in enumerate(batch):
            delivery = start.delivery
            line = delivery.receipt[0]
            if delivery.losses or delivery.expires_at is not None:
                verdicts[position], expires = self._judge(delivery, acks_late=start.acks_late)
                judged.setdefault(line, []).append((position, expires))
            else:
                whole.setdefault(line, []).append(position)
        lines = list({**whole, **judged})
        args: list[Any] = []
        order: list[int] = []
        for line in lines:
            ours = whole.get(line, ())
            args.append(len(ours))
            args += [batch[position].delivery.receipt[1] for position in ours]
            order += ours
            special = judged.get(line, ())
            args.append(len(special))
            for position, expires in special:
                args += (batch[position].delivery.receipt[1], expires)
                order.append(position)
        ids = [batch[position].delivery.id for position in order]
        args = [f"{self._name}{STARTED}", self._keys.revoked, len(ids), *ids, *args]
        try:
            refused = await self._calls.repeat(BEGIN, [line.key for line in lines], args)
        except LINK_ERRORS as error:
            await self._calls.fail(error, self._queues)
        for place, code in zip(refused[::2] if refused else (), refused[1::2] if refused else (), strict=True):
            position = order[place]
            if code == _LOST:
                verdicts[position] = Verdict.LOST
                self._held.discard(batch[position].delivery.receipt)
            elif code == _REVOKED:
                verdicts[position] = Verdict.REVOKED
            elif verdicts[position] is Verdict.RUN:
                verdicts[position] = Verdict.EXPIRED
        return verdicts

    def _judge(self, delivery: Delivery, *, acks_late: bool) -> tuple[Verdict, bytes]:
        """Return the verdict if it is still ours, and by when it may start, which the server judges; b"" for never."""
        if delivery.losses and not acks_late:
            return Verdict.STARTED_BEFORE, b""
        if delivery.losses >= self._max_losses:
            return Verdict.TOO_MANY_STARTS, b""
        expires_at = delivery.expires_at
        return Verdict.RUN, b"%d" % (1 << 53 if expires_at is None else round(expires_at * 1000))

    # ---- ending ----

    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        """See `Subscription`.

        Raises:
            BrokerError: The server refuses the batch, or the link is closed.
        """
        return await self.finish([Finish(settlement) for settlement in batch])

    def fuses(self, backend: ResultBackend) -> bool:
        """See `FusedFinish`: true of a `RedisBackend` on the same link."""
        return getattr(backend, "link", None) is self._link

    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        """See `FusedFinish`; repeated as `settle` is, and done once."""
        parcel = pack_finishes(self._keys, batch)
        receipts = [finish.settlement.delivery.receipt for finish in batch]
        self._ending.update(receipts)
        try:
            refused = await self._calls.once(SETTLE, parcel)
        except LINK_ERRORS as error:
            await self._calls.fail(error, parcel.queues)
        finally:
            # Later: when the caller, too, knows that they are ended.
            asyncio.get_running_loop().call_soon(self._ending.difference_update, receipts)
        self._held.difference_update(receipts)
        return [batch[position].settlement.delivery for position in refused]

    def lease_keeper(self) -> RedisLeaseKeeper:
        """See `Subscription`."""
        return RedisLeaseKeeper(
            self._link, self._name, self._lease_ms, lambda: self._keys.prefixes(self._queues), self._ending
        )

    # ---- coming and going ----

    async def set_queues(self, queues: Sequence[str]) -> None:
        """See `Subscription`; a waiting `receive` follows at once."""
        self._queues = list(dict.fromkeys(queues))
        self._quiet_until = 0.0
        self._ever.update(dict.fromkeys(self._queues))
        self._reader.interrupt()
        left = [queue for queue in self._ever if queue not in self._queues]
        commands = [("ZREM", f"{prefix}consumers", self._name) for prefix in self._keys.prefixes(left)]
        try:
            if commands:
                await self._link.pipeline(commands)
        except LINK_ERRORS as error:
            tell(f"Redis {self._link.place} can't be told who consumes what no more", error)
        await self._look()

    async def start(self) -> None:
        """Look for lapsed leases, and so be counted as a consumer, now and from time to time until it is closed."""
        next_look = await self._look()
        self._service = asyncio.create_task(
            self._serve(next_look), name=f"aiotask looks for lapsed leases ({self.consumer})"
        )

    async def _serve(self, next_look: float) -> None:
        while True:
            await asyncio.sleep(next_look * random.uniform(1.0, _LATER))  # noqa: S311 - spreads processes
            next_look = await self._look()

    async def _look(self) -> float:
        """Return in how many seconds to look again. What fails is only told: the next look is another try."""
        keys, args = self._keys.prefixes(self._queues), (self._name, self._lease_ms, self._scan_ms)
        try:
            due_in, reclaimed = await self._link.run(LOOK, keys, args, wait=self._link.command_timeout_s)
        except LINK_ERRORS as error:
            tell(f"Lapsed leases can't be looked for in Redis {self._link.place}, trying again", error)
            return self._scan_ms / 1000
        if reclaimed:
            # Whose lease has lapsed may still be connected, and be the one that is woken: it will not come.
            self._quiet_until = 0.0
            self._reader.interrupt()
        return int(due_in) / 1000

    async def close(self) -> None:
        """See `Subscription`; a waiting `receive` returns `[]`.

        Raises:
            BrokerError: The server refuses. While it can't be reached nothing is raised: the leases lapse.
        """
        if self._closed:
            return
        self._closed = True
        self._forget(self)
        if self._service is not None:
            self._service.cancel()
        await self._reader.close()
        deadline = asyncio.get_running_loop().time() + self._link.command_timeout_s
        heard = [word for line, entry_id in self._held for word in (line.key, entry_id)]
        try:
            await self._calls.repeat(HAND_BACK, self._keys.prefixes(list(self._ever)), (self._name, *heard), deadline)
        except ReplyError as error:
            await self._calls.fail(error, list(self._ever))
        except LINK_ERRORS as error:
            tell(f"Nothing could be handed back to Redis {self._link.place}; it comes when the leases lapse", error)
