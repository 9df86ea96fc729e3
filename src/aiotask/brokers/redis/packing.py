"""Batches as the arguments of the scripts that publish and settle them. No I/O."""

import math
from collections.abc import Sequence

from aiotask.brokers.redis.entries import pack_letter, pack_message
from aiotask.brokers.redis.keys import Keys, Receipt
from aiotask.connections.redis import Word
from aiotask.message import Envelope, Finish, Settlement


class Parcel:
    """The arguments of a script for a batch: runs of what is alike, so that little is said twice."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self.prefixes: list[str] = []
        """KEYS."""
        self.args: list[Word] = []
        """ARGV, but for the lane and its number."""
        self._places: dict[str, int] = {}
        self._count_at = 0

    def place(self, queue: str) -> int:
        """Return the place of a queue in KEYS, from 1."""
        place = self._places.get(queue)
        if place is None:
            self.prefixes.append(self._keys.prefix(queue))
            place = self._places[queue] = len(self.prefixes)
        return place

    @property
    def queues(self) -> list[str]:
        """The names of the queues."""
        return list(self._places)

    def begin_run(self, queue: str, line: str | int, kind: str) -> None:
        """Begin a run; its length is added by `end_run`."""
        self.args += (self.place(queue), line, kind, 0)
        self._count_at = len(self.args) - 1

    def end_run(self, count: int) -> None:
        """Say how long the run was."""
        if count:
            self.args[self._count_at] = count


def pack_envelopes(keys: Keys, batch: Sequence[Envelope]) -> Parcel:
    """Return `batch` for enqueue.lua."""
    parcel = Parcel(keys)
    args = parcel.args
    queue, priority, special_run, count = "", -1, False, 0
    for envelope in batch:
        special = (
            envelope.delay_s is not None
            or envelope.due_at is not None
            or envelope.ttl_s is not None
            or envelope.expires_at is not None
        )
        if envelope.priority != priority or special is not special_run or envelope.queue != queue:
            parcel.end_run(count)
            queue, priority, special_run, count = envelope.queue, envelope.priority, special, 0
            parcel.begin_run(queue, priority, "s" if special else "e")
        count += 1
        args.append(pack_message(envelope))
        if special:
            args += _times(envelope)
    parcel.end_run(count)
    return parcel


def _times(envelope: Envelope) -> tuple[str, str]:
    """Return when it is due and when it expires: milliseconds, `+` from now, empty for none. Due is never early."""
    due = expires = ""
    if envelope.delay_s is not None and envelope.delay_s > 0:
        due = f"+{math.ceil(envelope.delay_s * 1000)}"
    elif envelope.due_at is not None:
        due = str(math.ceil(envelope.due_at * 1000))
    if envelope.ttl_s is not None:
        expires = f"+{round(envelope.ttl_s * 1000)}"
    elif envelope.expires_at is not None:
        expires = str(round(envelope.expires_at * 1000))
    return due, expires


def pack_finishes(keys: Keys, batch: Sequence[Finish]) -> Parcel:
    """Return `batch` for settle.lua."""
    parcel = Parcel(keys)
    args = parcel.args
    run_line, run_kind, count = None, "", 0
    for finish in batch:
        settlement = finish.settlement
        row = finish.row
        line, entry_id = settlement.delivery.receipt
        plain = settlement.action == "ack" and not finish.follow_ups
        kind = "o" if not plain else "a" if row is None else "r"
        if kind != run_kind or line is not run_line:
            parcel.end_run(count)
            run_line, run_kind, count = line, kind, 0
            parcel.begin_run(line.queue, line.name, kind)
        count += 1
        if kind == "r":
            key, data, _, expires_ms = row
            args += (entry_id, key, data, "" if expires_ms is None else expires_ms)
        elif kind == "a":
            args.append(entry_id)
        else:
            args.append(entry_id)
            _add_other(parcel, settlement, finish)
    parcel.end_run(count)
    return parcel


def _add_other(parcel: Parcel, settlement: Settlement, finish: Finish) -> None:
    args = parcel.args
    if finish.row is None:
        args += ("", "", "")
    else:
        key, data, _, expires_ms = finish.row
        args += (key, data, "" if expires_ms is None else expires_ms)
    args += _fate(settlement)
    envelopes = finish.follow_ups
    if settlement.action == "replace" and settlement.envelope is not None:
        envelopes = (settlement.envelope, *envelopes)
    args.append(len(envelopes))
    for envelope in envelopes:
        args += (parcel.place(envelope.queue), envelope.priority, pack_message(envelope), *_times(envelope))


def _fate(settlement: Settlement) -> tuple[Word, Word, Word, Word]:
    """Return what becomes of a delivery, and the three words that settle.lua wants with it."""
    priority = settlement.delivery.priority
    match settlement.action:
        case "release" if settlement.delay_s > 0:
            return "release", priority, math.ceil(settlement.delay_s * 1000), int(settlement.lost)
        case "release":
            return "release", f"{priority}r", 0, int(settlement.lost)
        case "park":
            return "park", settlement.line, priority, ""
        case "dead":
            return "dead", settlement.delivery.id, pack_letter(settlement), ""
        case _:
            return "ack", "", "", ""


def pack_given_back(keys: Keys, receipts: Sequence[Receipt]) -> Parcel:
    """Return for settle.lua that all of `receipts` are given back, ahead of what waits."""
    parcel = Parcel(keys)
    for line, entry_id in receipts:
        parcel.begin_run(line.queue, line.name, "o")
        parcel.args += (entry_id, "", "", "", "release", line.ahead, 0, 0, 0)
        parcel.end_run(1)
    return parcel
