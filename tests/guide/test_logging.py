"""Records of a task's loggers have its name and id; what it prints can become such records."""

import asyncio
import logging
import re
import sys

import pytest

from aiotask import AioTask, Reject, Task, get_task_logger, redirect_stdouts

Seen = list[tuple[str, str, str | None, str | None]]


@pytest.fixture
def seen(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "aiotask.task")

    def seen() -> Seen:
        records = [record for record in caplog.records if record.name.startswith("aiotask.task")]
        return [(record.name, record.getMessage(), record.task, record.task_id) for record in records]

    return seen


async def test_records_have_the_name_and_id_of_the_execution_in_coroutines_and_threads(app: AioTask, seen) -> None:
    log = get_task_logger("proj.mail")

    @app.task(name="proj.send")
    async def send() -> None:
        log.info("from the body")
        await asyncio.to_thread(log.info, "from a thread of its own")

    @app.task(name="proj.plain", bind=True)
    def plain(self: Task) -> None:
        self.get_logger().info("from the task's own logger")

    async with app.worker():
        first, second = await send.delay(), await plain.delay()
        await first.get(timeout=10)
        await second.get(timeout=10)
    log.info("from outside")
    assert sorted(seen()) == sorted(
        [
            ("aiotask.task.proj.mail", "from the body", "proj.send", first.id),
            ("aiotask.task.proj.mail", "from a thread of its own", "proj.send", first.id),
            ("aiotask.task.proj.plain", "from the task's own logger", "proj.plain", second.id),
            ("aiotask.task.proj.mail", "from outside", None, None),
        ]
    )


async def test_finished_task_is_one_line_of_information_and_its_reception_one_for_debugging(
    app: AioTask, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    caplog.set_level(logging.DEBUG, "aiotask")
    async with app.worker():
        result = await add.delay(2, 3)
        await result.get(timeout=10)
    received, finished = [record for record in caplog.records if result.id in record.getMessage()]
    assert (received.levelno, received.getMessage()) == (logging.DEBUG, f"Task proj.add[{result.id}] was received")
    assert finished.levelno == logging.INFO
    assert re.fullmatch(rf"Task proj\.add\[{result.id}\] succeeded after \d+\.\d{{3}} s", finished.getMessage())
    for record in (received, finished):
        assert (record.task, record.task_id) == ("proj.add", result.id)


async def test_prints_become_records_line_by_line_when_redirected(app: AioTask, seen) -> None:
    @app.task(name="proj.printing")
    async def printing() -> None:
        print("one\ntwo")
        print("no end yet", end="")
        print(" but now", file=sys.stdout)

    before = sys.stdout
    with redirect_stdouts(level="WARNING"):
        async with app.worker():
            result = await printing.delay()
            await result.get(timeout=10)
        print("the last word", end="")
    assert sys.stdout is before
    of_the_task = ("proj.printing", result.id)
    assert seen() == [
        ("aiotask.task.stdout", "one", *of_the_task),
        ("aiotask.task.stdout", "two", *of_the_task),
        ("aiotask.task.stdout", "no end yet but now", *of_the_task),
        ("aiotask.task.stdout", "the last word", None, None),
    ]


def test_handler_that_writes_to_stdout_does_not_loop(capsys: pytest.CaptureFixture[str]) -> None:
    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("handled", record.getMessage())

    logger = logging.getLogger("tests.printing")
    logger.propagate = False
    logger.addHandler(Printing())
    with redirect_stdouts(logger, logging.WARNING):
        print("hello")
    assert capsys.readouterr().out == "handled hello\n"


async def test_writes_to_stderr_become_records_too(app: AioTask, seen) -> None:
    @app.task(name="proj.printing")
    def printing() -> None:
        print("to stderr", file=sys.stderr)
        sys.stdout.writelines(["to ", "stdout\n"])

    before = sys.stderr
    with redirect_stdouts(get_task_logger("printed"), logging.INFO):
        async with app.worker():
            result = await printing.delay()
            await result.get(timeout=10)
    assert sys.stderr is before
    of_the_task = ("proj.printing", result.id)
    assert seen() == [
        ("aiotask.task.printed", "to stderr", *of_the_task),
        ("aiotask.task.printed", "to stdout", *of_the_task),
    ]


@pytest.mark.parametrize("how", ["expected", "retried", "rejected"])
async def test_what_an_exception_quotes_makes_no_lines_of_its_own(
    app: AioTask, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    quoted = "a\n2026-11-21 INFO Task proj.other succeeded\x1b[2J" + "x" * 2000

    @app.task(name="proj.quote", bind=True, throws=(ValueError,))
    async def quote(self: Task) -> None:
        if how == "rejected":
            raise Reject(quoted)
        if how == "retried" and self.request.retries == 0:
            raise self.retry(exc=ValueError(quoted), countdown=0)
        raise ValueError(quoted)

    caplog.set_level(logging.INFO, "aiotask.worker.tasks")
    async with app.worker():
        result = await quote.delay()
        assert quoted in str(await result.get(timeout=10, propagate=False))
    assert len(caplog.records) == (2 if how == "retried" else 1)
    for record in caplog.records:
        assert record.getMessage().isprintable()
        assert "a\\n2026-11-21 INFO" in record.getMessage()
        assert len(record.getMessage()) < 1200
