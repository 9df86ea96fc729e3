"""The RabbitMQ servers that tests start: they answer, they end when they should, and nothing of them is left behind."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.servers import rabbitmq
from tests.servers.rabbitmq import MISSING, RabbitServer, need_rabbitmq, vhost_of
from tests.servers.test_redis import gone

from aiotask.connections.amqp import AmqpLink, Message


async def publish(server: RabbitServer, vhost: str, count: int) -> None:
    link = AmqpLink(server.url(vhost))
    await link.open()
    channel = await link.channel(confirms=True)
    await channel.declare_queue("kept", {"x-queue-type": "quorum"})
    assert await channel.publish([Message("kept", b"", str(at)) for at in range(count)], 10.0) == [None] * count
    await link.close()


async def test_server_lives_and_dies_as_it_is_told(tmp_path: Path) -> None:
    """One test, since a server takes seconds to start."""
    with RabbitServer(tmp_path) as server:
        pid, port = server.pid, server.port
        with vhost_of(server) as vhost:
            await publish(server, vhost, 3)
            assert server.queues(vhost) == ["kept"]
            server.restart()
            assert (server.port, gone(pid)) == (port, True)
            assert server.queues(vhost) == ["kept"]
        assert vhost not in server.evaluate("rabbit_vhost:list().")
        server.sigstop()
        pid = server.pid
        server.stop()
        assert gone(pid)
        assert not server.running


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="only the kernel of Linux kills orphans")
def test_server_dies_with_the_tests_when_they_are_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.servers.rabbitmq import RabbitServer\n"
        "print(RabbitServer(Path(sys.argv[1])).start().pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).parent.parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        tests.send_signal(signal.SIGKILL)
    assert gone(pid)


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("1", pytest.fail.Exception)])
def test_missing_server_skips_here_and_fails_in_ci(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ci: str, outcome: type[Exception]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(rabbitmq, "PROGRAM", tmp_path / "missing")
    with pytest.raises(outcome, match="tools/need-servers") as raised:
        need_rabbitmq()
    assert str(raised.value) == MISSING
