"""What a subscription has in hand, and the acknowledgements of it in the order in which it was delivered."""

from collections import OrderedDict
from collections.abc import Hashable, Iterable
from itertools import takewhile

from aiotask.brokers.amqp.packing import Receipt
from aiotask.connections.amqp import AmqpChannel

_REMEMBERED = 10_000


class Recent:
    """The last ten thousand keys that were added."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def add(self, key: Hashable) -> None:
        """Add a key; the one that was added first makes way for it."""
        self._keys[key] = None
        if len(self._keys) > _REMEMBERED:
            self._keys.popitem(last=False)

    def discard(self, key: Hashable) -> None:
        """Remove a key, if it is there."""
        self._keys.pop(key, None)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys


class Holding:
    """Receipts by what the server calls them on the channel of now, and those of channels that are gone."""

    def __init__(self) -> None:
        self._tags: dict[AmqpChannel, dict[int, Receipt]] = {}
        """Of each channel in the order of delivery, which is that of the tags."""
        self.void: dict[Hashable, Receipt] = {}
        """Begun, and delivered by a channel that is gone: by their identities."""
        self.unstarted = Recent()
        """Identities of what a channel has delivered which is gone, and that was not begun: no loss of ours."""
        self._settled = Recent()
        self.out: dict[Receipt, None] = {}
        """All that was handed out and is ours, those among them that were acknowledged as they began."""

    def deliver(self, receipt: Receipt) -> None:
        """Note what the server has delivered."""
        self._tags.setdefault(receipt.channel, {})[receipt.tag] = receipt

    def hand_out(self, receipts: Iterable[Receipt]) -> None:
        """Note what was handed out."""
        self.out.update(dict.fromkeys(receipts))

    def acknowledge(self, receipts: Iterable[Receipt]) -> list[tuple[AmqpChannel, list[tuple[int, bool]]]]:
        """Return what to tell the server so that it forgets these: of each channel one tag for all in a row."""
        done: dict[AmqpChannel, set[int]] = {}
        for receipt in receipts:
            if receipt.tag in self._tags.get(receipt.channel, ()):
                done.setdefault(receipt.channel, set()).add(receipt.tag)
                if receipt.consumer is not None:
                    receipt.consumer.unacked -= 1
            self.remember(receipt.message_id)
        return [(channel, _in_rows(self._tags[channel], tags)) for channel, tags in done.items()]

    def remember(self, message_id: str) -> None:
        """Note that a message has ended here: nothing is left to do for who gets it again."""
        if message_id:
            self._settled.add(message_id)

    def was_settled(self, message_id: str) -> bool:
        """Tell whether a message has ended here not long ago; it comes again when the server has not heard of that."""
        return message_id in self._settled

    def leave(self, receipt: Receipt) -> None:
        """Note that a receipt is nobody's business of ours any more."""
        receipt.held = False
        self.out.pop(receipt, None)
        if receipt.void_at is not None and self.void.get(receipt.identity) is receipt:
            del self.void[receipt.identity]

    def give_up(self, receipt: Receipt) -> None:
        """Note that a receipt was never begun and is none of ours: who gets its message again, maybe we, may run it."""
        self.leave(receipt)
        self._settled.discard(receipt.message_id)
        self.unstarted.add(receipt.identity)

    def lose(self, channel: AmqpChannel, now: float) -> None:
        """Note that a channel is gone. What was begun may come again here; what was not, is the server's to give."""
        for receipt in self._tags.pop(channel, {}).values():
            if receipt.begun and receipt.held:
                receipt.void_at = now
                self.void[receipt.identity] = receipt
            else:
                self.unstarted.add(receipt.identity)
                self.leave(receipt)

    def attach(self, again: Receipt, now: float, patience: float) -> Receipt | None:
        """Let the delivery of a message that still runs here take the place of the one before; return that."""
        before = self.void.pop(again.identity, None)
        if before is None:
            return None
        if not self.ours(before, now, patience):  # it was given up: nobody would settle it
            self.leave(before)
            return None
        before.void_at = None
        before.channel, before.tag, before.consumer = again.channel, again.tag, again.consumer
        self.deliver(before)
        return before

    def ours(self, receipt: object, now: float, patience: float) -> bool:
        """Tell whether a receipt is ours: settled it is not, nor when its channel has been gone for too long."""
        return (
            isinstance(receipt, Receipt)
            and receipt.held
            and (receipt.void_at is None or now - receipt.void_at < patience)
        )


def _in_rows(tags: dict[int, Receipt], done: set[int]) -> list[tuple[int, bool]]:
    """Take what is done out of `tags`; return the acknowledgements."""
    row = list(takewhile(done.__contains__, tags))
    for tag in row:
        del tags[tag]
    singles = sorted(done.intersection(tags))
    for tag in singles:
        del tags[tag]
    acks = [(row[-1], len(row) > 1)] if row else []
    return acks + [(tag, False) for tag in singles]
