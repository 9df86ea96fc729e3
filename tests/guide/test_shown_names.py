"""What logs, `dead show` and the request show of a call can be other than its name and its arguments."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiotask import AioTask, get_task_logger

Post = Callable[..., Awaitable[str]]


@pytest.fixture
def request_of(app: AioTask) -> Any:
    """A task that tells what its request says."""

    @app.task(name="proj.login", bind=True, default_retry_delay=0)
    async def login(self: Any, user: str, *, password: str = "", fail: bool = False, again: bool = False) -> list[Any]:
        get_task_logger("proj").info("from the body")
        if again and not self.request.retries:
            raise self.retry()
        if fail:
            raise ValueError("no")
        request = self.request
        return [request.task, request.shadow, request.argsrepr, request.kwargsrepr]

    return login


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return the lines that say what became of tasks, and what tasks log."""
    caplog.set_level(logging.INFO, "aiotask")
    return lambda: [
        f"{record.task} {record.getMessage()}"
        for record in caplog.records
        if record.name.startswith(("aiotask.worker.tasks", "aiotask.task"))
    ]


async def test_shadow_is_what_logs_call_the_task(app: AioTask, request_of: Any, lines: Any) -> None:
    async with app.worker():
        result = await request_of.apply_async(("george",), shadow="login of george")
        assert (await result.get(timeout=10))[:2] == ["proj.login", "login of george"]
    body, outcome = lines()
    assert body == "login of george from the body"
    assert outcome.startswith(f"login of george Task login of george[{result.id}] succeeded after ")


async def test_shadow_stays_with_retries_and_failures(app: AioTask, request_of: Any, lines: Any) -> None:
    async with app.worker():
        result = await request_of.apply_async(("george",), {"again": True, "fail": True}, shadow="other")
        with pytest.raises(ValueError, match="no"):
            await result.get(timeout=10)
    said = [line for line in lines() if line.startswith("other Task other[")]
    assert ["is retried" in said[0], "failed" in said[1]] == [True, True]
    assert (await result.meta()).name == "proj.login"


async def test_shadow_is_the_name_of_a_dead_letter_s_line_too(app: AioTask, lines: Any) -> None:
    async with app.worker():
        result = await app.send_task("proj.unknown", shadow="other")
        with pytest.raises(Exception, match=r"proj\.unknown"):
            await result.get(timeout=10)
    assert lines()[0].startswith(f"other Task other[{result.id}] was dead-lettered")


@pytest.mark.parametrize("shadow", ["", "two\nlines", 5])
async def test_shadow_that_can_not_be_a_name_is_refused(request_of: Any, shadow: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="shadow is "):
        await request_of.apply_async(("george",), shadow=shadow)


async def test_request_shows_the_arguments_when_the_call_gives_no_other_text(app: AioTask, request_of: Any) -> None:
    async with app.worker():
        result = await request_of.delay("george", password="secret")
        assert await result.get(timeout=10) == ["proj.login", None, "('george',)", "{'password': 'secret'}"]


async def test_request_shows_the_call_s_text_in_place_of_the_arguments(app: AioTask, request_of: Any) -> None:
    async with app.worker():
        result = await request_of.apply_async(
            ("george",), {"password": "secret"}, argsrepr="(...)", kwargsrepr="{'password': '***'}"
        )
        assert (await result.get(timeout=10))[2:] == ["(...)", "{'password': '***'}"]


async def test_text_in_place_of_arguments_is_cut_and_stays_on_one_line(app: AioTask, request_of: Any) -> None:
    async with app.worker():
        result = await request_of.apply_async(("x" * 1000,), {"password": "s"}, kwargsrepr="two\nlines\x1b[2J")
        args, kwargs = (await result.get(timeout=10))[2:]
    assert args == "('" + "x" * 198 + "..."
    assert kwargs == r"two\nlines\x1b[2J"


@pytest.mark.parametrize("option", ["argsrepr", "kwargsrepr"])
async def test_text_in_place_of_arguments_has_to_be_one(request_of: Any, option: str) -> None:
    with pytest.raises(TypeError, match=f"{option} is 5; it takes a text"):
        await request_of.apply_async(("george",), **{option: 5})
