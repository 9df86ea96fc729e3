"""A task asks to be run again, or is, by its policy."""

import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiotask import AioTask, ArgumentError, EncodeError, MaxRetriesExceeded, Retry, TaskRevokedError
from aiotask.message import DeadLetter


class Declined(Exception):
    pass


@pytest.mark.priorities
async def test_retry_runs_the_task_again_under_the_same_id_with_all_that_it_had(app: AioTask) -> None:
    seen: list[Any] = []

    @app.task(bind=True, name="proj.fetch")
    async def fetch(self, url: str) -> str:  # type: ignore[no-untyped-def]
        request = self.request
        info = request.delivery_info
        seen.append((request.id, request.root_id, url, request.headers, request.priority, info["queue"]))
        if request.retries < 2:
            raise self.retry(countdown=0)
        return f"after {request.retries}"

    async with app.worker(queues=["mail"]):
        result = await fetch.apply_async(("x",), queue="mail", priority=2, headers={"trace": "ab"})
        assert await result.get(timeout=10) == "after 2"
        meta = await result.meta()
    assert seen == [(result.id, result.id, "x", {"trace": "ab"}, 2, "mail")] * 3
    assert meta.retries == 2


@pytest.mark.parametrize("plain", [False, True])
async def test_retry_works_in_coroutines_and_threads_alike(app: AioTask, plain: bool) -> None:
    def body(self: Any) -> str:
        try:
            if self.request.retries == 0:
                raise Declined("first")
        except Declined as exc:
            raise self.retry(exc=exc, countdown=0) from exc
        return threading.current_thread().name

    async def coroutine(self: Any) -> str:
        return body(self)

    task = app.task(bind=True, name="proj.t")(body if plain else coroutine)
    async with app.worker():
        name = await (await task.delay()).get(timeout=10)
    assert (name == threading.current_thread().name) is not plain


async def test_retry_is_shown_with_its_reason_and_its_traceback_while_it_waits(app: AioTask) -> None:
    @app.task(bind=True)
    async def fetch(self) -> None:  # type: ignore[no-untyped-def]
        try:
            raise Declined("no answer", 5)
        except Declined as exc:
            raise self.retry(exc=exc, countdown=300) from exc

    async with app.worker():
        result = await fetch.delay()
        async for meta in result.updates():
            assert meta.state == "RETRY"
            break
        assert type(meta.result) is Declined
        assert meta.result.args == ("no answer", 5)
        assert 'raise Declined("no answer", 5)' in (await result.traceback() or "")
        assert not await result.ready()
        assert not await result.failed()
        assert repr(await result.info()) == repr(meta.result)


async def test_retry_without_a_reason_shows_none(app: AioTask) -> None:
    @app.task(bind=True)
    async def fetch(self) -> None:  # type: ignore[no-untyped-def]
        raise self.retry(countdown=300)

    async with app.worker():
        result = await fetch.delay()
        meta = await anext(aiter(result.updates()))
        assert (meta.state, meta.result, meta.traceback) == ("RETRY", None, None)


async def test_retry_is_not_early(app: AioTask) -> None:
    at: list[float] = []

    @app.task(bind=True, default_retry_delay=0.2)
    async def fetch(self, how: str) -> None:  # type: ignore[no-untyped-def]
        at.append(time.time())
        if self.request.retries == 0:
            options = {
                "countdown": {"countdown": 0.2},
                "eta": {"eta": datetime.now(UTC) + timedelta(seconds=0.2)},
                "usual": {},
            }
            raise self.retry(**options[how])

    async with app.worker():
        for how in ("countdown", "eta", "usual"):
            at.clear()
            await (await fetch.delay(how)).get(timeout=10)
            assert at[1] - at[0] >= 0.2, how


async def test_retry_may_change_the_arguments(app: AioTask) -> None:
    @app.task(bind=True)
    async def fetch(self, url: str, times: int = 1) -> list[Any]:  # type: ignore[no-untyped-def]
        if self.request.retries == 0:
            raise self.retry(kwargs={"url": "b", "times": 2}, countdown=0)
        if self.request.retries == 1:
            raise self.retry(args=("c",), kwargs={}, countdown=0)
        if self.request.retries == 2:
            raise self.retry(args=["d"], countdown=0)
        return [url, times]

    async with app.worker():
        assert await (await fetch.delay(url="a")).get(timeout=10) == ["d", 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"args": "ab"}, r"args is 'ab'; it takes a tuple or list"),
        ({"kwargs": {"nonsense": 1}}, "got an unexpected keyword argument 'nonsense'"),
        ({"args": (1,)}, "argument `url`: Expected `str`, got `int`"),
        ({"exc": Declined}, "retry takes an exception"),
        ({"exc": "a text"}, "exc is 'a text'; retry takes an exception"),
        ({"exc": "a text", "throw": False}, "exc is 'a text'; retry takes an exception"),
        ({"countdown": "5"}, "countdown is '5'; it takes seconds"),
        ({"countdown": 1, "eta": datetime.now(UTC)}, "Give countdown or eta, not both"),
        ({"eta": datetime(2026, 3, 1)}, "give it a time zone"),  # noqa: DTZ001
        ({"args": (object(),)}, "Expected `str`, got `object`"),
    ],
)
async def test_retry_that_makes_no_sense_fails_the_task_with_the_reason(
    app: AioTask, options: dict[str, Any], said: str
) -> None:
    @app.task(bind=True)
    async def fetch(self, url: str = "") -> None:  # type: ignore[no-untyped-def]
        raise self.retry(**{"countdown": 0, **options} if "eta" not in options else options)

    async with app.worker():
        with pytest.raises((TypeError, ValueError, ArgumentError), match=said):
            await (await fetch.delay()).get(timeout=10)


async def test_retry_fails_the_task_when_its_arguments_can_not_be_serialised(app: AioTask) -> None:
    @app.task(bind=True)
    async def fetch(self, what=None) -> None:  # type: ignore[no-untyped-def]
        raise self.retry(args=(object(),), countdown=0)

    async with app.worker():
        with pytest.raises(EncodeError, match="object is not serialisable"):
            await (await fetch.delay()).get(timeout=10)


# The limit


async def test_limit_raises_the_reason_when_one_is_given(app: AioTask) -> None:
    runs = []

    @app.task(bind=True, max_retries=2)
    async def fetch(self) -> None:  # type: ignore[no-untyped-def]
        runs.append(self.request.retries)
        try:
            raise Declined("again")
        except Declined as exc:
            raise self.retry(exc=exc, countdown=0) from exc

    async with app.worker():
        result = await fetch.delay()
        with pytest.raises(Declined, match="again"):
            await result.get(timeout=10)
        assert await result.state() == "FAILURE"
    assert runs == [0, 1, 2]


async def test_limit_raises_max_retries_exceeded_when_no_reason_is_given(app: AioTask) -> None:
    @app.task(bind=True, max_retries=0, name="proj.fetch")
    async def fetch(self) -> None:  # type: ignore[no-untyped-def]
        try:
            raise Declined("the cause")
        except Declined:
            self.retry(countdown=0)

    async with app.worker():
        result = await fetch.delay()
        with pytest.raises(
            MaxRetriesExceeded, match=rf"Can't retry proj\.fetch\[{result.id}\] more than 0 times"
        ) as raised:
            await result.get(timeout=10)
    assert "the cause" in raised.value.__notes__[0]
    assert "direct cause" in raised.value.__notes__[0]


async def test_limit_of_one_call_wins_over_the_task_s(app: AioTask) -> None:
    runs = []

    @app.task(bind=True, max_retries=5)
    async def fetch(self) -> None:  # type: ignore[no-untyped-def]
        runs.append(self.request.retries)
        raise self.retry(exc=Declined("over"), countdown=0, max_retries=1)

    async with app.worker():
        with pytest.raises(Declined, match="over"):
            await (await fetch.delay()).get(timeout=10)
    assert runs == [0, 1]


async def test_limit_is_none_when_the_task_says_so(app: AioTask) -> None:
    @app.task(bind=True, max_retries=None)
    async def fetch(self) -> int:  # type: ignore[no-untyped-def]
        if self.request.retries < 10:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    async with app.worker():
        assert await (await fetch.delay()).get(timeout=10) == 10


async def test_limit_raises_also_without_throw(app: AioTask) -> None:
    @app.task(bind=True, max_retries=0)
    async def fetch(self) -> str:  # type: ignore[no-untyped-def]
        self.retry(throw=False)
        return "not reached"

    async with app.worker():
        with pytest.raises(MaxRetriesExceeded):
            await (await fetch.delay()).get(timeout=10)


# Without throw


async def test_body_goes_on_and_its_value_is_dropped_without_throw(app: AioTask) -> None:
    seen: list[Any] = []

    @app.task(bind=True)
    async def fetch(self) -> str:  # type: ignore[no-untyped-def]
        if self.request.retries:
            return "second"
        retry = self.retry(throw=False, countdown=0, exc=Declined("why"))
        seen.append(type(retry) is Retry and retry.exc.args == ("why",))
        return "dropped"

    async with app.worker():
        assert await (await fetch.delay()).get(timeout=10) == "second"
    assert seen == [True]


# Outside a worker


async def test_direct_call_raises_the_current_exception_or_the_reason(app: AioTask) -> None:
    @app.task(bind=True)
    async def fetch(self, how: str) -> None:  # type: ignore[no-untyped-def]
        if how == "reason":
            self.retry(exc=Declined("reason"))
        if how == "nothing":
            self.retry()
        try:
            raise Declined("current")
        except Declined as exc:
            self.retry(exc=exc) if how == "both" else self.retry()

    for how, said in [("reason", "reason"), ("current", "current"), ("both", "current")]:
        with pytest.raises(Declined, match=said):
            await fetch(how)
    with pytest.raises(Retry, match="outside a worker"):
        await fetch("nothing")


# By policy


async def test_failures_of_the_named_classes_are_retried_until_the_limit(app: AioTask) -> None:
    runs: list[int] = []

    @app.task(bind=True, autoretry_for=(Declined, OSError), max_retries=2, default_retry_delay=0)
    async def fetch(self) -> None:  # type: ignore[no-untyped-def]
        runs.append(self.request.retries)
        raise TimeoutError("slow")

    async with app.worker():
        with pytest.raises(TimeoutError, match="slow"):
            await (await fetch.delay()).get(timeout=10)
    assert runs == [0, 1, 2]


async def test_failures_of_other_classes_are_not_retried(app: AioTask) -> None:
    runs = []

    @app.task(autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), default_retry_delay=0)
    def fetch(kind: str) -> None:
        runs.append(kind)
        raise FileNotFoundError if kind == "excepted" else Declined

    async with app.worker():
        with pytest.raises(FileNotFoundError):
            await (await fetch.delay("excepted")).get(timeout=10)
        with pytest.raises(Declined):
            await (await fetch.delay("other")).get(timeout=10)
    assert runs == ["excepted", "other"]


async def test_automatic_retry_waits_as_the_policy_says(app: AioTask) -> None:
    at: list[float] = []

    @app.task(autoretry_for=(Declined,), retry_backoff=0.1, retry_jitter=False, max_retries=2)
    async def fetch() -> None:
        at.append(time.time())
        raise Declined

    async with app.worker():
        with pytest.raises(Declined):
            await (await fetch.delay()).get(timeout=10)
    assert at[1] - at[0] >= 0.1
    assert at[2] - at[1] >= 0.2


async def test_automatic_retry_waits_as_a_retry_does_when_it_has_no_backoff(app: AioTask) -> None:
    at: list[float] = []

    @app.task(autoretry_for=(Declined,), default_retry_delay=0.2, max_retries=1)
    def fetch() -> None:
        at.append(time.time())
        raise Declined

    async with app.worker():
        with pytest.raises(Declined):
            await (await fetch.delay()).get(timeout=10)
    assert at[1] - at[0] >= 0.2


async def test_automatic_retry_shows_its_reason_while_it_waits(app: AioTask) -> None:
    @app.task(autoretry_for=(Declined,), retry_kwargs={"max_retries": 1, "countdown": 300})
    async def fetch() -> None:
        raise Declined("no answer")

    async with app.worker():
        result = await fetch.delay()
        meta = await anext(aiter(result.updates()))
    assert (meta.state, repr(meta.result)) == ("RETRY", "Declined('no answer')")
    assert 'raise Declined("no answer")' in (meta.traceback or "")


async def test_retry_by_hand_is_not_a_failure_for_the_policy(app: AioTask) -> None:
    @app.task(bind=True, autoretry_for=(Exception,), max_retries=1, default_retry_delay=300)
    async def fetch(self) -> str:  # type: ignore[no-untyped-def]
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return "once"

    async with app.worker():
        assert await (await fetch.delay()).get(timeout=10) == "once"


async def test_retries_share_the_expiry_of_the_first_message(app: AioTask) -> None:
    runs = []

    @app.task(bind=True)
    async def fetch(self) -> None:  # type: ignore[no-untyped-def]
        runs.append(self.request.retries)
        raise self.retry(countdown=0.3)

    async with app.worker():
        result = await fetch.apply_async(expires=0.25)
        with pytest.raises(TaskRevokedError, match="expired"):
            await result.get(timeout=10)
    assert runs == [0]


async def test_nothing_is_a_dead_letter_when_retries_are_used_up(
    app: AioTask, dead_letters: Callable[[], Awaitable[list[DeadLetter]]]
) -> None:
    @app.task(autoretry_for=(Declined,), max_retries=1, default_retry_delay=0, acks_late=True)
    async def fetch() -> None:
        raise Declined

    async with app.worker():
        with pytest.raises(Declined):
            await (await fetch.delay()).get(timeout=10)
    assert await dead_letters() == []
