"""The servers that tests start: they answer, they end when they should, and nothing of them is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from tests.servers.redis import MISSING, PATIENCE_S, RedisServer, need_redis


def gone(pid: int) -> bool:
    """Wait until no process has this id; True when that comes."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if "zombie" in Path(f"/proc/{pid}/status").read_text():  # its new parent does not look
            return True
        time.sleep(0.01)
    return False


def test_server_answers_when_started(private_redis: RedisServer) -> None:
    assert private_redis.call("PING")
    assert private_redis.running


def test_server_is_not_the_systems(private_redis: RedisServer) -> None:
    assert private_redis.port != 6379
    assert private_redis.call("CONFIG", "GET", "dir")[1].decode() == str(private_redis.folder)
    assert private_redis.call("INFO")["process_id"] == private_redis.pid


def test_server_keeps_its_data_over_a_kill_when_it_appends(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    server.call("SET", "key", "value")
    port, pid = server.port, server.pid
    server.restart()
    assert server.call("GET", "key") == b"value"
    assert server.port == port
    assert gone(pid)


def test_server_is_empty_when_restarted_without_its_data(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("--appendonly", "yes")
    server.call("SET", "key", "value")
    server.restart(keep=False)
    assert server.call("GET", "key") is None


def test_server_that_is_frozen_answers_when_it_goes_on(private_redis: RedisServer) -> None:
    private_redis.sigstop()
    with pytest.raises(redis.exceptions.TimeoutError), redis.Redis(port=private_redis.port, socket_timeout=0.05) as one:
        one.ping()
    private_redis.sigcont()
    assert private_redis.call("PING")


@pytest.mark.parametrize("frozen", [False, True])
def test_server_ends_when_stopped(private_redis: RedisServer, frozen: bool) -> None:
    pid = private_redis.pid
    if frozen:
        private_redis.sigstop()
    private_redis.stop()
    assert gone(pid)
    assert not private_redis.running


def test_server_asks_for_its_password(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(password="p@ss/word")
    assert server.call("PING")
    with pytest.raises(redis.exceptions.AuthenticationError), redis.Redis(port=server.port) as stranger:
        stranger.ping()


def test_server_speaks_tls_alone_when_told_so(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(tls=True)
    assert server.url().startswith("rediss://")
    assert server.call("PING")


def test_server_has_a_unix_socket(private_redis: RedisServer) -> None:
    with redis.Redis(unix_socket_path=str(private_redis.socket_path)) as client:
        assert client.ping()


def test_server_says_why_when_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"did not start; it said:\n(?s:.*)no-such-option"):
        RedisServer(tmp_path, "--no-such-option", "1").start()


def test_shared_server_is_empty_in_each_test(redis_server: RedisServer) -> None:
    assert redis_server.call("DBSIZE") == 0
    redis_server.call("SET", "key", "value", db=3)


def test_shared_server_is_empty_after_another_test(redis_server: RedisServer) -> None:
    assert redis_server.call("DBSIZE", db=3) == 0


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="only the kernel of Linux kills orphans")
def test_server_dies_with_the_tests_when_they_are_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.servers.redis import RedisServer\n"
        "print(RedisServer(Path(sys.argv[1])).start().pid, flush=True); time.sleep(60)"
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
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[Exception]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="tools/need-servers") as raised:
        need_redis()
    assert str(raised.value) == MISSING
