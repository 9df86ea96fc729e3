"""What of a round trip is RabbitMQ's own. `python -m benchmarks.rabbit_floor [ROUNDS]`.

Bare blocking sockets, one message at a time.
A client and a worker that would need no time at all could not be faster with the same guarantees.
"""

import socket
import sys
import time
from typing import Any

from pamqp import body, commands, frame
from pamqp.header import ContentHeader, ProtocolHeader

from benchmarks.peers.rabbitmq import Rabbit, rabbitmq_server
from benchmarks.table import Figure, median, print_table

MESSAGES = 300
PAUSE_S = 0.0005
"""What the message before has left to do on the server is done by then."""
BODY = b"x" * 150
DIRECT = "amq.rabbitmq.reply-to"

basic, queue = commands.Basic, commands.Queue


class Connection:
    """A connection with one channel."""

    def __init__(self, server: Rabbit) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = b""
        self._socket.sendall(ProtocolHeader().marshal())
        self.wait(commands.Connection.Start)
        self._send(0, commands.Connection.StartOk({}, "PLAIN", "\0guest\0guest", "en_US"))
        self.wait(commands.Connection.Tune)
        self._send(0, commands.Connection.TuneOk(10, 131_072, 0), commands.Connection.Open(server.vhost))
        self.wait(commands.Connection.OpenOk)
        self.ask(commands.Channel.Open(), commands.Channel.OpenOk)

    def close(self) -> None:
        self._socket.close()

    def _send(self, channel: int, *frames: Any) -> None:
        self._socket.sendall(b"".join(frame.marshal(one, channel) for one in frames))

    def send(self, *frames: Any) -> None:
        """Write frames at once, in one write."""
        self._send(1, *frames)

    def ask(self, question: Any, answer: type[Any]) -> Any:
        """Send and wait for an answer."""
        self.send(question)
        return self.wait(answer)

    def wait(self, kind: type[Any]) -> Any:
        """Return the next frame of a kind; what comes before it is dropped."""
        while True:
            while len(self._unread) < 7 or len(self._unread) < int.from_bytes(self._unread[3:7], "big") + 8:
                more = self._socket.recv(65536)
                assert more, "the server has hung up"
                self._unread += more
            used, _, found = frame.unmarshal(self._unread)
            self._unread = self._unread[used:]
            assert not isinstance(found, commands.Channel.Close | commands.Connection.Close), found.reply_text
            if isinstance(found, kind):
                return found


def message(key: str, *, persistent: bool, reply_to: str | None = None) -> tuple[Any, ...]:
    """Return the frames of a message as a task, or its result, has them."""
    properties = basic.Properties(
        delivery_mode=2 if persistent else 1, correlation_id="c" * 32, message_id="m" * 16, reply_to=reply_to
    )
    header = ContentHeader(body_size=len(BODY), properties=properties)
    return basic.Publish(routing_key=key, mandatory=persistent), header, body.ContentBody(BODY)


def way(server: Rabbit, arguments: dict[str, Any], *, persistent: bool) -> tuple[float, float]:
    """Return the median microseconds from a publish to its delivery, and until an acknowledgement is heard of."""
    client, worker = Connection(server), Connection(server)
    client.ask(commands.Confirm.Select(), commands.Confirm.SelectOk)
    name = worker.ask(queue.Declare(durable=True, arguments=arguments, queue=f"q{time.time()}"), queue.DeclareOk).queue
    worker.ask(basic.Qos(prefetch_count=100), basic.QosOk)
    worker.ask(basic.Consume(queue=name, consumer_tag="tag"), basic.ConsumeOk)
    ways, heard = [], []
    for _ in range(MESSAGES):
        written = time.perf_counter()
        client.send(*message(name, persistent=persistent))
        delivery = worker.wait(basic.Deliver)
        delivered = time.perf_counter()
        worker.send(basic.Ack(delivery.delivery_tag), commands.Channel.Flow(True))
        worker.wait(commands.Channel.FlowOk)
        heard.append((time.perf_counter() - delivered) * 1e6)
        ways.append((delivered - written) * 1e6)
        client.wait(basic.Ack)
        time.sleep(PAUSE_S)
    client.close()
    worker.close()
    return median(ways), median(heard)


def direct(server: Rabbit) -> float:
    """Return the median microseconds of a direct reply, which has no queue, no confirm and no second attempt."""
    client, worker = Connection(server), Connection(server)
    client.ask(basic.Consume(queue=DIRECT, no_ack=True), basic.ConsumeOk)
    name = worker.ask(queue.Declare(durable=True, queue=f"d{time.time()}"), queue.DeclareOk).queue
    worker.ask(basic.Consume(queue=name, no_ack=True), basic.ConsumeOk)
    times = []
    for _ in range(MESSAGES):
        client.send(*message(name, persistent=True, reply_to=DIRECT))
        reply_to = worker.wait(ContentHeader).properties.reply_to
        written = time.perf_counter()
        worker.send(*message(reply_to, persistent=False))
        client.wait(basic.Deliver)
        times.append((time.perf_counter() - written) * 1e6)
        time.sleep(PAUSE_S)
    client.close()
    worker.close()
    return median(times)


def main(rounds: int) -> None:
    """Print the medians of `rounds`, and what they come to for one trip."""
    seen: dict[str, list[float]] = {}
    with rabbitmq_server() as server:
        for _ in range(rounds):
            server.renew()
            quorum, heard = way(server, {"x-queue-type": "quorum"}, persistent=True)
            classic, _ = way(server, {}, persistent=True)
            reply, _ = way(server, {"x-expires": 600_000}, persistent=False)
            found = {"quorum": quorum, "heard": heard, "classic": classic, "reply": reply, "direct": direct(server)}
            for name, value in found.items():
                seen.setdefault(name, []).append(value)
        version = server.version()
    found = {name: median(values) for name, values in seen.items()}
    print(f"{version}, medians of {rounds} rounds of {MESSAGES} messages\n")
    print_table(
        [
            Figure("task to a quorum queue, from the write to its delivery", found["quorum"], "us"),
            Figure("the same with a classic queue", found["classic"], "us"),
            Figure("acknowledgement, until the server is known to have had it", found["heard"], "us"),
            Figure("result to a reply queue, confirmed", found["reply"], "us"),
            Figure("direct reply", found["direct"], "us"),
            Figure("a trip over rpc, early acknowledgement", found["quorum"] + found["heard"] + found["reply"], "us"),
            Figure("a trip of classic queue and direct reply", found["classic"] + found["direct"], "us"),
        ]
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
