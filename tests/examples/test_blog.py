"""The blog example, run as its docstrings say: a real web server, real workers, real files."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 25.0

PRAISE = {"author": "Ada", "email": "ada@example.org", "text": "I have waited for this explanation, thank you."}
SPAM = {
    "author": "Best Casino",
    "email": "win@example.org",
    "text": "CLICK HERE NOW!!! Earn $5000 a day: https://casino.example",
}


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true answer of `condition`; fail with `what` when there is none in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not in {PATIENCE_S:g} s: {what}"
        time.sleep(0.02)
    return answer


class Program:
    """A process of the example's, and what it has said."""

    def __init__(self, log: Path, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments], cwd=EXAMPLES, env=environment, stdout=output, stderr=output
            )

    def said(self) -> str:
        return self._log.read_text()

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has said `pattern`."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.said())
            assert match or self.process.poll() is None, f"it ended before it said {pattern!r}:\n{self.said()}"
            return match

        return until(found, f"{pattern!r} said by {self.process.args}; it said\n{self.said()}")

    def ends(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


class Blog:
    """The example on a folder of its own: its programs, and a reader who asks over HTTP."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        self.database = folder / "blog.db"
        self.programs: list[Program] = []
        self._folder = folder
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOTASK_")} | {
            "BLOG_DATABASE": str(self.database),
            "AIOTASK_BROKER_URL": broker_url,
            # So that a killed worker is missed within seconds.
            "AIOTASK_WORKER_LEASE": "2",
            "AIOTASK_WORKER_LEASE_RENEWAL": "0.5",
            "AIOTASK_WORKER_RECLAIM_INTERVAL": "0.5",
        }
        self._http = httpx2.Client(timeout=PATIENCE_S)

    def start(self, *arguments: str) -> Program:
        log = self._folder / f"{len(self.programs)}.log"
        self.programs.append(Program(log, arguments, self._environment))
        return self.programs[-1]

    def serve(self, module: str) -> Program:
        # Port 0: the server takes a free one and says which, when it is ready to answer.
        server = self.start("uvicorn", f"{module}:app", "--host", "127.0.0.1", "--port", "0")
        self._http.base_url = server.says(r"running on (http://127\.0\.0\.1:\d+)")[1]
        return server

    def work(self) -> Program:
        return self.start("aiotask", "run", "blog.tasks")

    def call(self, *arguments: str) -> str:
        """Return what `aiotask call` prints."""
        finished = subprocess.run(
            [sys.executable, "-m", "aiotask", "call", *arguments],
            cwd=EXAMPLES,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.strip()

    def post(self, comment: dict[str, str], post: int = 1) -> int:
        answer = self._http.post(f"/posts/{post}/comments", json=comment)
        assert answer.status_code == 202, answer.text
        assert answer.json()["status"] == "pending"
        return answer.json()["id"]

    def status(self, comment: int) -> str:
        return self._http.get(f"/comments/{comment}").raise_for_status().json()["status"]

    def shown(self, post: int = 1) -> list[str]:
        comments = self._http.get(f"/posts/{post}/comments").raise_for_status().json()
        return [comment["text"] for comment in comments]

    def verdicts(self, comments: list[int]) -> list[str]:
        """Wait until there is a verdict on each."""

        def decided() -> list[str]:
            statuses = [self.status(comment) for comment in comments]
            return [] if "pending" in statuses else statuses

        said = "\n".join(program.said() for program in self.programs)
        return until(decided, f"verdicts on {comments}; the programs had said\n{said}")

    def close(self) -> None:
        self._http.close()
        for program in self.programs:
            program.process.kill()
            program.process.wait()


@pytest.fixture
def blog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blog]:
    on_redis = getattr(request, "param", "sqlite") == "redis"
    broker_url = request.getfixturevalue("redis_url") if on_redis else f"sqlite:///{tmp_path}/aiotask.db"
    with closing(Blog(tmp_path, broker_url)) as blog:
        yield blog


on_each_broker = pytest.mark.parametrize("blog", ["sqlite", "redis"], indirect=True)


@on_each_broker
@pytest.mark.parametrize("module", ["blog.app", "blog.embedded"])
def test_comments_are_judged_in_the_background_when_posted(blog: Blog, module: str) -> None:
    blog.serve(module)
    if module == "blog.app":
        blog.work()
    praise, spam = blog.post(PRAISE), blog.post(SPAM)

    assert blog.verdicts([praise, spam]) == ["approved", "spam"]
    assert blog.shown() == [PRAISE["text"]]


def test_readers_see_only_this_posts_comments_when_others_have_some(blog: Blog) -> None:
    blog.serve("blog.embedded")
    blog.verdicts([blog.post(PRAISE, post=1), blog.post(PRAISE | {"text": "Elsewhere"}, post=2)])

    assert blog.shown(post=2) == ["Elsewhere"]
    assert blog.shown(post=3) == []


def test_comment_is_refused_when_it_has_no_text(blog: Blog) -> None:
    blog.serve("blog.embedded")

    with pytest.raises(AssertionError, match="text"):
        blog.post(PRAISE | {"text": ""})


@on_each_broker
def test_comments_wait_for_a_worker_when_none_runs(blog: Blog) -> None:
    blog.serve("blog.app")
    comments = [blog.post(PRAISE), blog.post(SPAM)]
    assert [blog.status(comment) for comment in comments] == ["pending", "pending"]
    assert blog.shown() == []

    blog.work()

    assert blog.verdicts(comments) == ["approved", "spam"]


def test_queued_comments_are_judged_when_the_web_server_was_restarted(blog: Blog) -> None:
    first = blog.serve("blog.app")
    comments = [blog.post(PRAISE), blog.post(SPAM)]
    assert first.ends(signal.SIGTERM) in (0, -signal.SIGTERM)

    blog.serve("blog.embedded")

    assert blog.verdicts(comments) == ["approved", "spam"]


@on_each_broker
@pytest.mark.parametrize("module", ["blog.app", "blog.embedded"])
def test_no_comment_is_lost_when_the_worker_is_killed_in_the_middle(blog: Blog, module: str) -> None:
    blog.serve("blog.app")
    comments = [blog.post(comment) for comment in [PRAISE, SPAM] * 5]

    # While another writes, nobody can store a verdict: every task is caught between reading and deciding.
    with closing(sqlite3.connect(blog.database, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        worker = blog.serve(module) if module == "blog.embedded" else blog.work()
        worker.says(r"Comment \d+ is to be")
        assert worker.ends(signal.SIGKILL) == -signal.SIGKILL
        database.execute("ROLLBACK")
        assert database.execute("SELECT DISTINCT status FROM comments").fetchall() == [("pending",)]
    if module == "blog.embedded":
        blog.serve(module)
    else:
        blog.work()

    assert blog.verdicts(comments) == ["approved", "spam"] * 5


def test_comments_without_a_message_are_judged_when_recheck_pending_is_called(blog: Blog) -> None:
    blog.serve("blog.app")
    blog.work()
    # What a web process leaves behind that is killed between its commit and its delay.
    with closing(sqlite3.connect(blog.database)) as database, database:
        database.execute("INSERT INTO comments (post, author, email, text) VALUES (1, 'Ada', 'a@example.org', 'Hm.')")

    assert blog.call("blog.tasks.recheck_pending", "--wait") == "1"
    assert blog.verdicts([1]) == ["approved"]


def test_worker_ends_with_exit_code_0_when_terminated(blog: Blog) -> None:
    worker = blog.work()
    worker.says("is ready")

    assert worker.ends(signal.SIGTERM) == 0
