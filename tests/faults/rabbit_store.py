"""What the fault tests see of a RabbitMQ server past the broker: what is handed out, and what is begun."""

import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from tests.servers.rabbitmq import RabbitServer

from aiotask.connections.redis.rows import is_final, row_key
from aiotask.message import QueueDepth

from .record import Record
from .stores import QUEUE, RedisStore

_COUNTS = (
    "[{{binary_to_list(element(4, amqqueue:get_name(Q))), case amqqueue:get_type(Q) of rabbit_quorum_queue -> "
    "{{ok, {{_, T}}, _}} = ra:local_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1), T; "
    "_ -> [{{messages, T}}] = rabbit_amqqueue:info(Q, [messages]), T end, element(2, rabbit_amqqueue:stat(Q))}} || "
    'Q <- rabbit_amqqueue:list(<<"{vhost}">>)].'
)
_UNSETTLED = (
    "lists:sum([N || R <- rabbit_networking:connections(), lists:member(proplists:get_value(peer_port, "
    "rabbit_reader:info(R, [peer_port])), {ports}), C <- rabbit_channel:list(), "
    "[{{connection, P}}, {{messages_unacknowledged, N}}] <- "
    "[rabbit_channel:info(C, [connection, messages_unacknowledged])], P =:= R])."
)


class RabbitStore:
    """A virtual host of a RabbitMQ server for the messages, and a Redis server for the results."""

    found_within_s = 1.0
    acknowledges_early = True

    def __init__(self, server: RabbitServer, results: RedisStore, record: Path, *, vhost: str = "/") -> None:
        """Look at a virtual host; the bodies of its workers write `record`."""
        self.server = server
        self.vhost = vhost
        self.results = results
        self.url = server.url(vhost)
        self.settings = {"result_backend": results.url}
        self._record = Record(record)
        self._ended: dict[str, int | None] = {}

    def begun(self, pid: int | None) -> list[str]:
        """The server does not know what has begun: what the bodies have recorded, and no result tells the end of."""
        begun = dict.fromkeys(event.task_id for event in self._record.starts() if pid in {None, event.pid})
        unknown = [id_ for id_ in begun if id_ not in self._ended]
        rows: list[Any] = self.results.client.mget([row_key(id_) for id_ in unknown]) if unknown else []
        for id_, row in zip(unknown, rows, strict=True):
            if row is not None and is_final(row):
                result = msgspec.json.decode(row)["result"]
                self._ended[id_] = result if isinstance(result, int) else None
        return [id_ for id_ in begun if id_ not in self._ended or self._was_ended_elsewhere(id_, pid)]

    def _was_ended_elsewhere(self, id_: str, pid: int | None) -> bool:
        """Bodies return their process."""
        return pid is not None and self._ended[id_] not in {None, pid}

    def unsettled(self, pid: int) -> int:
        """Return how many messages the server has handed to a process, which is frozen, and that it waits for."""
        ports = sorted(_ports(pid) - {0})
        found = self.server.evaluate(_UNSETTLED.format(ports=ports))
        return int(found)

    def done_count(self) -> int:
        return self.results.done_count()

    def stored_outcomes(self) -> int:
        return self.results.stored_outcomes()

    def given_back(self) -> None:
        """To look at a message is to take it, which the server counts."""

    def leases_have_lapsed(self) -> bool:
        raise NotImplementedError("there are none")

    def holds_up_others(self) -> bool:
        return False

    def end_waits(self) -> None:
        """Messages are pushed."""

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return of each queue of the server how many messages it has, and how many of them wait."""
        deadline = time.monotonic() + 10
        while True:
            try:
                found = self.server.evaluate(_COUNTS.format(vhost=self.vhost))
            except AssertionError as error:
                if "*** eval" not in str(error) or time.monotonic() > deadline:
                    raise  # else a queue has come or gone meanwhile
                time.sleep(0.05)
            else:
                counts = re.findall(r'\{"(.*?)", (\d+), (\d+)\}', found)
                return {name: (int(total), int(ready)) for name, total, ready in counts}

    def whole(self, depth: QueueDepth) -> QueueDepth:
        counts = self.counts()
        taken = [counts.get(f"{QUEUE}{kind}", (0, 0)) for kind in ("", ".returned", ".suspects")]
        depth.reserved = sum(total - ready for total, ready in taken)
        depth.delayed = sum(total for name, (total, _) in counts.items() if ".delay." in name)
        return depth

    def close(self) -> None:
        self.results.close()


def _ports(pid: int) -> set[int]:
    """Return the local ports of a process's TCP connections."""
    inodes = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.update(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    return {int(words[1].rpartition(":")[2], 16) for words in map(str.split, lines) if words[9] in inodes}
