"""Calls with options: when, where, how urgent, for how long, and under which id."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from aiotask import AioTask, AsyncResult, EncodeError, ImproperlyConfigured, PublishError, TaskRevokedError
from aiotask.message import Envelope, QueueDepth


class Program:
    """An app with one task that notes what it is called with and when."""

    def __init__(self, app: AioTask) -> None:
        self.ran: list[Any] = []
        self.at: list[float] = []

        @app.task(name="proj.note")
        async def note(what: Any = None) -> Any:
            self.at.append(time.time())
            self.ran.append(what)
            return what

        self.note = note


@pytest.fixture
def program(app: AioTask) -> Program:
    return Program(app)


async def test_call_takes_arguments_and_options(app: AioTask, program: Program) -> None:
    async with app.worker():
        assert await (await program.note.apply_async(("by place",))).get(timeout=10) == "by place"
        assert await (await program.note.apply_async([], {"what": "by name"})).get(timeout=10) == "by name"
        assert await (await program.note.apply_async(kwargs={"what": "too"})).get(timeout=10) == "too"
        assert await (await program.note.apply_async()).get(timeout=10) is None


async def test_result_has_the_id_that_was_given(app: AioTask, program: Program) -> None:
    result = await program.note.apply_async(("x",), task_id="order-17")
    assert result.id == "order-17"
    async with app.worker():
        assert await app.result("order-17").get(timeout=10) == "x"


async def test_ids_are_unique_when_none_is_given(program: Program) -> None:
    results = await program.note.send_many([()] * 500)
    assert len({result.id for result in results}) == 500


# When


async def test_task_is_not_early_when_it_has_a_countdown(app: AioTask, program: Program) -> None:
    async with app.worker():
        before = time.time()
        result = await program.note.apply_async(countdown=0.3)
        assert program.ran == []
        await result.get(timeout=10)
    assert program.at[0] >= before + 0.3


async def test_task_is_not_early_when_it_has_an_eta_in_any_zone(app: AioTask, program: Program) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    async with app.worker():
        eta = datetime.now(zone) + timedelta(seconds=0.3)
        await (await program.note.apply_async(eta=eta)).get(timeout=10)
    assert program.at[0] >= eta.timestamp()


@pytest.mark.parametrize("options", [{"countdown": 0}, {"countdown": -5}, {"eta": datetime(2020, 1, 1, tzinfo=UTC)}])
async def test_task_runs_at_once_when_its_time_has_come(
    app: AioTask, program: Program, options: dict[str, Any]
) -> None:
    await program.note.apply_async(**options)
    async with app.worker(burst=True) as worker:
        await worker.wait()
    assert len(program.ran) == 1


async def test_delayed_task_takes_no_slot_and_does_not_wait_among_those_that_are_due(
    app: AioTask, program: Program, depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    async with app.worker(concurrency=1):
        await program.note.apply_async(("later",), countdown=300)
        await (await program.note.delay("now")).get(timeout=10)
        found = await depth()
    assert (found.ready, found.reserved) == (0, 0)
    assert program.ran == ["now"]


@pytest.mark.not_on("amqp", "RabbitMQ does not tell which queue a delayed message is of")
async def test_delayed_task_is_counted_in_the_broker(
    app: AioTask, program: Program, depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    await program.note.apply_async(("later",), countdown=300)
    found = await depth()
    assert (found.delayed, found.ready, found.reserved) == (1, 0, 0)


async def test_delay_outlives_the_worker_and_the_connections(app: AioTask, program: Program) -> None:
    before = time.time()
    result = await program.note.apply_async(("later",), countdown=0.5)
    async with app.worker(burst=True) as worker:
        await worker.wait()
    await app.close()
    assert program.ran == []
    async with app.worker():
        assert await result.get(timeout=10) == "later"
    assert program.at[0] >= before + 0.5


async def test_delayed_tasks_run_in_the_order_of_their_times(app: AioTask, program: Program) -> None:
    late = await program.note.apply_async(("late",), countdown=0.3)
    early = await program.note.apply_async(("early",), countdown=0.1)
    async with app.worker(concurrency=1):
        await asyncio.gather(late.get(timeout=10), early.get(timeout=10))
    assert program.ran == ["early", "late"]


@pytest.mark.parametrize(
    "expires", [datetime(2020, 1, 1, tzinfo=UTC), datetime.now(timezone(timedelta(hours=-8))) - timedelta(seconds=1), 0]
)
async def test_task_is_revoked_and_never_runs_when_it_has_expired(app: AioTask, program: Program, expires: Any) -> None:
    result = await program.note.apply_async(expires=expires)
    async with app.worker():
        with pytest.raises(TaskRevokedError, match=r"^expired$"):
            await result.get(timeout=10)
    assert await result.state() == "REVOKED"
    assert await result.ready()
    assert not await result.failed()
    assert program.ran == []


async def test_task_is_revoked_when_it_expires_before_it_is_due(app: AioTask, program: Program) -> None:
    async with app.worker():
        result = await program.note.apply_async(countdown=0.2, expires=0.1)
        with pytest.raises(TaskRevokedError, match="expired"):
            await result.get(timeout=10)
    assert program.ran == []


async def test_task_runs_when_it_has_not_expired_yet(app: AioTask, program: Program) -> None:
    async with app.worker():
        await (await program.note.apply_async(expires=60)).get(timeout=10)
        await (await program.note.apply_async(expires=datetime.now(UTC) + timedelta(minutes=1))).get(timeout=10)
    assert len(program.ran) == 2


async def test_task_s_own_expiry_holds_when_the_call_has_none(app: AioTask) -> None:
    seen: list[Any] = []

    @app.task(bind=True, expires=60)
    async def look(self) -> None:  # type: ignore[no-untyped-def]
        seen.append(self.request.expires)

    before = datetime.now(UTC)
    async with app.worker():
        await (await look.delay()).get(timeout=10)
        await (await look.apply_async(expires=3600)).get(timeout=10)
    assert before + timedelta(seconds=60) <= seen[0] <= datetime.now(UTC) + timedelta(seconds=60)
    assert seen[1] >= before + timedelta(seconds=3600)


# In which order


async def test_tasks_run_in_the_order_in_which_they_were_sent(app: AioTask, program: Program) -> None:
    for number in range(10):
        await program.note.delay(number)
    results = await program.note.send_many([(number,) for number in range(10, 30)])
    async with app.worker(concurrency=1):
        await results[-1].get(timeout=10)
    assert program.ran == list(range(30))


@pytest.mark.priorities
async def test_urgent_tasks_run_first_and_in_one_priority_the_first_sent(app: AioTask, program: Program) -> None:
    for name, priority in [
        ("low", 9),
        ("usual 1", None),
        ("urgent 1", 0),
        ("usual 2", 5),
        ("urgent 2", 0),
        ("high", 4),
    ]:
        last = await program.note.apply_async((name,), priority=priority)
    async with app.worker(concurrency=1, burst=True) as worker:
        await worker.wait()
    assert await last.state() == "SUCCESS"
    assert program.ran == ["urgent 1", "urgent 2", "high", "usual 1", "usual 2", "low"]


@pytest.mark.priorities
async def test_task_s_own_priority_holds_when_the_call_has_none(app: AioTask, program: Program) -> None:
    @app.task(priority=1)
    async def urgent(what: str) -> None:
        program.ran.append(what)

    await program.note.delay("usual")
    await urgent.delay("own")
    await urgent.apply_async(("call's",), priority=9)
    async with app.worker(concurrency=1, burst=True) as worker:
        await worker.wait()
    assert program.ran == ["own", "usual", "call's"]


# Where


async def test_task_goes_to_the_queue_that_call_task_or_setting_say(url: str) -> None:
    app = AioTask("proj", broker=url, task_default_queue="usual")

    @app.task
    async def plain() -> str:
        return str(plain.request.delivery_info["queue"])

    @app.task(queue="mail")
    async def mail() -> str:
        return str(mail.request.delivery_info["queue"])

    async with app.worker(queues=["usual", "mail", "slow"]):
        assert await (await plain.delay()).get(timeout=10) == "usual"
        assert await (await mail.delay()).get(timeout=10) == "mail"
        assert await (await mail.apply_async(queue="slow")).get(timeout=10) == "slow"


async def test_task_is_left_alone_when_no_worker_takes_its_queue(
    app: AioTask, program: Program, depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    await program.note.apply_async(("other's",), queue="other")
    await program.note.apply_async(("mine",), queue="mine")
    async with app.worker(queues=["mine"], burst=True) as worker:
        await worker.wait()
    assert program.ran == ["mine"]
    assert (await depth("other")).ready == 1


# What else


async def test_result_is_not_stored_when_the_call_does_not_want_it(app: AioTask, program: Program) -> None:
    ignored = await program.note.apply_async(("x",), ignore_result=True)
    async with app.worker(burst=True) as worker:
        await worker.wait()
    assert program.ran == ["x"]
    assert await ignored.state() == "PENDING"


async def test_result_is_stored_when_the_call_wants_it_and_the_task_does_not(app: AioTask) -> None:
    @app.task(ignore_result=True)
    async def quiet() -> int:
        return 5

    async with app.worker():
        assert await (await quiet.apply_async(ignore_result=False)).get(timeout=10) == 5


async def test_calls_that_are_made_together_share_a_round_trip(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    await app.connect()
    batches: list[int] = []
    publish = app.broker.publish

    async def counting(batch: Sequence[Envelope]) -> None:
        batches.append(len(batch))
        await publish(batch)

    monkeypatch.setattr(app.broker, "publish", counting)
    await asyncio.gather(*(program.note.delay(number) for number in range(50)))
    assert batches == [50]
    await program.note.send_many([(number,) for number in range(30)])
    assert batches == [50, 30]


async def test_call_returns_once_the_broker_has_confirmed(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    await app.connect()
    asked, confirm = asyncio.Event(), asyncio.Event()
    publish = app.broker.publish

    async def slow(batch: Sequence[Envelope]) -> None:
        await publish(batch)
        asked.set()
        await confirm.wait()

    monkeypatch.setattr(app.broker, "publish", slow)
    sending = asyncio.create_task(program.note.delay("x"))
    await asked.wait()
    assert not sending.done()
    confirm.set()
    assert (await sending).id


@pytest.mark.priorities
async def test_many_are_sent_in_one_batch_with_results_in_their_order(app: AioTask, program: Program) -> None:
    results = await program.note.send_many(((number,) for number in range(50)), headers={"trace": "ab"}, priority=3)
    async with app.worker():
        assert [await result.get(timeout=10) for result in results] == list(range(50))
    assert await program.note.send_many([]) == []


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (
            {"count_down": 5},
            TypeError,
            "proj.note: apply_async takes no option 'count_down'. Did you mean 'countdown'?",
        ),
        ({"message": 5}, TypeError, "proj.note: apply_async takes no option 'message'."),
        ({"task": 5}, TypeError, "proj.note: apply_async takes no option 'task'."),
        ({"countdown": "5"}, TypeError, "countdown is '5'; it takes seconds as a number."),
        ({"countdown": 5, "eta": datetime.now(UTC)}, ValueError, "Give countdown or eta, not both."),
        ({"eta": datetime(2026, 3, 1)}, ValueError, "give it a time zone, e.g. datetime.now(UTC)."),  # noqa: DTZ001
        ({"expires": datetime(2026, 3, 1)}, ValueError, "give it a time zone, e.g. datetime.now(UTC)."),  # noqa: DTZ001
        ({"priority": 10}, ValueError, "priority is 10; it takes a whole number from 0 (the most urgent) to 9."),
        ({"priority": "high"}, ValueError, "priority is 'high'; it takes a whole number"),
        ({"queue": ""}, ValueError, "queue is ''; it takes 1 to 255 printable characters."),
        ({"queue": 5}, TypeError, "queue is 5; it takes a text."),
        ({"task_id": 17}, TypeError, "task_id is 17; it takes a text."),
        ({"headers": ["a"]}, TypeError, "headers is ['a']; it takes a mapping with text keys."),
        ({"ignore_result": "yes"}, TypeError, "ignore_result is 'yes'; it takes True or False."),
    ],
)
async def test_call_is_refused_and_nothing_is_sent_when_an_option_does_not_fit(
    program: Program,
    depth: Callable[..., Awaitable[QueueDepth]],
    options: dict[str, Any],
    kind: type[Exception],
    said: str,
) -> None:
    with pytest.raises(kind) as raised:
        await program.note.apply_async((), **options)
    assert said in str(raised.value)
    with pytest.raises(kind):
        await program.note.send_many([(), ()], **options)
    found = await depth()
    assert (found.ready, found.delayed) == (0, 0)


async def test_many_have_no_one_id(program: Program) -> None:
    with pytest.raises(TypeError, match="send_many takes no task_id"):
        await program.note.send_many([()], task_id="x")


@pytest.mark.parametrize(("args", "kwargs"), [("ab", None), (5, None), ({"a"}, None), ((), "ab"), ((), [("what", 1)])])
async def test_call_is_refused_when_arguments_are_no_sequence_and_no_mapping(
    program: Program, args: Any, kwargs: Any
) -> None:
    with pytest.raises(TypeError, match=r"proj\.note: (args is .*; it takes a tuple or list|kwargs is .* a mapping)"):
        await program.note.apply_async(args, kwargs)


async def test_headers_are_refused_when_they_can_not_be_carried(program: Program) -> None:
    with pytest.raises(EncodeError, match=r"proj\.note: the headers can't be serialised"):
        await program.note.apply_async(headers={"a": object()})


async def test_calls_that_fail_together_have_exceptions_of_their_own(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def publish(batch: Sequence[Envelope]) -> None:
        raise PublishError("no answer", [envelope.id for envelope in batch]) from OSError("link down")

    await app.connect()
    monkeypatch.setattr(app.broker, "publish", publish)
    calls = [program.note.apply_async(task_id=id_) for id_ in ("a", "b")]
    first, second = await asyncio.gather(*calls, return_exceptions=True)
    assert first is not second
    for error in (first, second):
        assert isinstance(error, PublishError)
        assert (str(error), error.unsent, repr(error.__cause__)) == ("no answer", ("a", "b"), "OSError('link down')")


async def test_call_that_was_sent_hears_nothing_of_another_that_was_not(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def publish(batch: Sequence[Envelope]) -> None:
        raise PublishError("only half of it", ["b"])

    await app.connect()
    monkeypatch.setattr(app.broker, "publish", publish)
    calls = [program.note.apply_async(task_id=id_) for id_ in ("a", "b")]
    first, second = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, AsyncResult)
    assert isinstance(second, PublishError)


async def test_broker_that_is_not_there_is_named_with_the_reason() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"broker_url 'mongodb://u:\*\*\*@host/0': .* not available"):
        AioTask("proj", broker="mongodb://u:hunter2@host/0")
