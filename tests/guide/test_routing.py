"""Which queue a message goes to: `queue`, `task_routes`, exchanges with their bindings; and what it asks for there."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.guide.conftest import Depth

from aiotask import AioTask, ImproperlyConfigured, Queue, Task, Unroutable

FEEDS = [
    Queue("default", exchange="tasks", routing_key="task.#", exchange_type="topic"),
    Queue("feeds", exchange="tasks", routing_key="feed.#"),
    Queue("audit", exchange="tasks", routing_key="#"),
]
EVERYWHERE = ["default", Queue("paris", "news", exchange_type="fanout"), Queue("rome", "news")]
MEDIA = [
    "default",
    Queue("videos", exchange="media", routing_key="media.video"),
    Queue("images", exchange="media", routing_key="media.image"),
]


@pytest.fixture
def waiting(app: AioTask, depth: Depth) -> Callable[[], Awaitable[list[str]]]:
    """Return the name of a queue for each message that waits in it."""

    async def waiting() -> list[str]:
        await app.connect()
        broker: Any = app.broker
        return [name for name in await broker.queues() for _ in range((await depth(name)).ready)]

    return waiting


Waiting = Callable[[], Awaitable[list[str]]]


@pytest.fixture
def fetch(app: AioTask) -> Task:
    """A task that tells how it was sent."""

    @app.task(bind=True, name="feed.tasks.fetch")
    async def fetch(self: Task, x: int = 0) -> dict[str, Any]:
        return {"priority": self.request.priority, **self.request.delivery_info}

    return fetch


# Routes


@pytest.mark.parametrize(
    "routes",
    [
        {"feed.tasks.fetch": "feeds"},
        {"feed.tasks.fetch": {"queue": "feeds"}},
        {"feed.tasks.*": {"queue": "feeds"}},
        {re.compile(r"feed\.\w+\..*"): "feeds"},
        [("feed.tasks.*", "feeds"), ("feed.*", "other")],
        ([("feed.tasks.*", {"queue": "feeds"})],),
        lambda name, args, kwargs, options, task=None: "feeds" if name.startswith("feed.") else None,
        [{"other": "x"}, lambda *_, **__: None, {"feed.tasks.fetch": "feeds"}, {"*": "late"}],
    ],
)
async def test_route_decides_where_a_task_goes(app: AioTask, fetch: Task, waiting: Waiting, routes: Any) -> None:
    app.conf.task_routes = routes
    await fetch.delay()
    assert await waiting() == ["feeds"]


async def test_task_without_a_route_goes_to_the_default_queue(app: AioTask, waiting: Waiting) -> None:
    app.conf.task_routes = {"feed.tasks.*": "feeds"}

    @app.task(name="mail.send")
    async def send() -> None: ...

    await send.delay()
    assert await waiting() == ["default"]


@pytest.mark.priorities
async def test_call_wins_over_its_task_and_that_over_its_route(app: AioTask, waiting: Waiting) -> None:
    app.conf.task_routes = {"*": {"queue": "by-route", "priority": 1}}

    @app.task(bind=True, name="a", queue="by-task", priority=2)
    async def says(self: Task) -> int:
        return self.request.priority

    @app.task(bind=True, name="b")
    async def says_nothing(self: Task) -> int:
        return self.request.priority

    await says.apply_async(queue="by-call")
    await says.delay()
    await says_nothing.delay()
    assert await waiting() == ["by-call", "by-route", "by-task"]
    async with app.worker(queues=["by-route", "by-task"]):
        assert await (await says.delay()).get(timeout=10) == 2
        assert await (await says.apply_async(priority=7)).get(timeout=10) == 7
        assert await (await says_nothing.delay()).get(timeout=10) == 1
        assert await (await says_nothing.apply_async(priority=7)).get(timeout=10) == 7


@pytest.mark.priorities
async def test_function_that_routes_sees_the_call(app: AioTask, fetch: Task, waiting: Waiting) -> None:
    def by_shard(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> dict[str, Any]:
        assert task is fetch
        return {"queue": f"shard-{kwargs['x'] % 2}-{options['priority']}"}

    app.conf.task_routes = by_shard
    await fetch.apply_async(kwargs={"x": 5}, priority=3)
    assert await waiting() == ["shard-1-3"]


async def test_route_holds_for_every_way_to_send(app: AioTask, fetch: Task, waiting: Waiting) -> None:
    app.conf.task_routes = {"feed.*": "feeds", "elsewhere.*": "far"}
    await fetch.delay()
    await fetch.send_many([(1,), (2,)])
    await asyncio.to_thread(fetch.sync.delay)
    await app.send_task("feed.tasks.fetch")
    await app.send_task("elsewhere.clean")
    assert await waiting() == ["far", *["feeds"] * 5]


async def test_route_of_a_task_by_name_has_no_task(app: AioTask, waiting: Waiting) -> None:
    app.conf.task_routes = lambda name, args, kwargs, options, task: "unknown" if task is None else "known"
    await app.send_task("elsewhere.clean")
    assert await waiting() == ["unknown"]


async def test_error_of_a_function_that_routes_is_the_callers(app: AioTask, fetch: Task, waiting: Waiting) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("no shard")

    app.conf.task_routes = broken
    with pytest.raises(LookupError, match="no shard"):
        await fetch.delay()
    app.conf.task_routes = lambda *_, **__: 5
    with pytest.raises(ImproperlyConfigured, match=r"routes 'feed\.tasks\.fetch' to 5; a route is a queue's name or a"):
        await fetch.delay()
    assert await waiting() == []


# Exchanges


async def test_topic_exchange_hands_a_message_to_each_queue_whose_pattern_matches(
    app: AioTask, fetch: Task, waiting: Waiting
) -> None:
    app.conf.task_queues = FEEDS
    await fetch.apply_async(exchange="tasks", routing_key="feed.import")
    assert await waiting() == ["audit", "feeds"]


async def test_direct_exchange_hands_a_message_to_the_queue_of_its_key(
    app: AioTask, fetch: Task, waiting: Waiting
) -> None:
    app.conf.task_queues = MEDIA
    await fetch.apply_async(exchange="media", routing_key="media.image")
    assert await waiting() == ["images"]


async def test_fanout_exchange_hands_a_message_to_all_its_queues_where_it_runs_under_one_id(
    app: AioTask, url: str
) -> None:
    app.conf.task_queues = EVERYWHERE
    ran: list[Any] = []
    both = asyncio.Event()

    @app.task(bind=True, name="reload", ignore_result=True)
    async def reload(self: Task) -> None:
        ran.append((self.request.delivery_info["queue"], self.request.id))
        if len(ran) == 2:
            both.set()

    result = await reload.apply_async(exchange="news")
    async with app.worker(), asyncio.timeout(10):
        await both.wait()
    assert sorted(ran) == [("paris", result.id), ("rome", result.id)]


async def test_route_may_name_an_exchange_and_a_call_its_key(app: AioTask, fetch: Task, waiting: Waiting) -> None:
    app.conf.update(task_queues=MEDIA, task_routes={"feed.*": {"exchange": "media", "routing_key": "media.image"}})
    await fetch.delay()
    await fetch.apply_async(routing_key="media.video")
    assert await waiting() == ["images", "videos"]


async def test_task_may_name_an_exchange_and_a_key(app: AioTask, waiting: Waiting) -> None:
    app.conf.task_queues = MEDIA

    @app.task(exchange="media", routing_key="media.video")
    async def encode() -> None: ...

    class Resize(app.Task):  # type: ignore[name-defined,misc]
        exchange = "media"
        routing_key = "media.image"

        async def run(self) -> None: ...

    await encode.delay()
    await app.tasks[Resize.name].delay()
    await encode.apply_async(queue="default")
    assert await waiting() == ["default", "images", "videos"]


async def test_queue_alone_is_reached_alone_and_with_a_key_by_its_topic_exchange(
    app: AioTask, fetch: Task, waiting: Waiting
) -> None:
    app.conf.task_queues = FEEDS
    await fetch.apply_async(queue="feeds")
    assert await waiting() == ["feeds"]
    await fetch.apply_async(queue="feeds", routing_key="feed.import")
    assert await waiting() == ["audit", "feeds", "feeds"]


async def test_default_exchange_is_that_of_what_names_none(app: AioTask, fetch: Task, waiting: Waiting) -> None:
    app.conf.update(
        task_queues={"default": {"routing_key": "task.#"}, "feeds": {"routing_key": "feed.#"}},
        task_default_exchange="tasks",
        task_default_exchange_type="topic",
        task_default_routing_key="task.default",
    )
    await fetch.delay()
    await fetch.apply_async(routing_key="feed.import")
    assert await waiting() == ["default", "feeds"]


async def test_key_is_the_name_of_a_queue_where_there_is_no_exchange(
    app: AioTask, fetch: Task, waiting: Waiting
) -> None:
    await fetch.apply_async(routing_key="mail")
    await fetch.apply_async(exchange="", routing_key="post")
    assert await waiting() == ["mail", "post"]


async def test_request_tells_the_exchange_and_the_key_that_it_was_sent_with(app: AioTask, fetch: Task) -> None:
    app.conf.task_queues = MEDIA
    async with app.worker():
        info = await (await fetch.apply_async(exchange="media", routing_key="media.video")).get(timeout=10)
        assert (info["exchange"], info["routing_key"], info["queue"]) == ("media", "media.video", "videos")
        info = await (await fetch.apply_async(queue="videos")).get(timeout=10)
        assert (info["exchange"], info["routing_key"], info["queue"]) == ("", "videos", "videos")


async def test_retry_keeps_the_queue_and_how_it_was_sent(app: AioTask) -> None:
    app.conf.update(task_queues=EVERYWHERE, task_routes={"*": {"exchange": "news", "routing_key": "k"}})
    seen: list[Any] = []
    all_ran = asyncio.Event()

    @app.task(bind=True, name="reload", ignore_result=True)
    async def reload(self: Task) -> None:
        info = self.request.delivery_info
        seen.append((info["queue"], self.request.retries, info["exchange"], info["routing_key"]))
        if len(seen) == 4:
            all_ran.set()
        if self.request.retries == 0:
            raise self.retry(countdown=0)

    await reload.delay()
    async with app.worker(), asyncio.timeout(10):
        await all_ran.wait()
    assert sorted(seen) == [(queue, n, "news", "k") for queue in ("paris", "rome") for n in (0, 1)]


async def test_message_keeps_its_time_in_each_queue(app: AioTask) -> None:
    app.conf.task_queues = EVERYWHERE
    ran: list[tuple[str, float]] = []
    both = asyncio.Event()

    @app.task(bind=True, name="reload", ignore_result=True)
    async def reload(self: Task) -> None:
        ran.append((self.request.delivery_info["queue"], time.time()))
        if len(ran) == 2:
            both.set()

    async with app.worker(), asyncio.timeout(10):
        due_at = time.time() + 0.3
        await reload.apply_async(exchange="news", countdown=0.3)
        await both.wait()
    assert sorted(queue for queue, _ in ran) == ["paris", "rome"]
    assert min(at for _, at in ran) >= due_at


# What reaches no queue


async def test_mandatory_message_is_refused_when_it_reaches_no_queue(
    app: AioTask, fetch: Task, waiting: Waiting
) -> None:
    app.conf.task_queues = MEDIA
    with pytest.raises(Unroutable) as raised:
        await fetch.apply_async(exchange="media", routing_key="media.vidoe", mandatory=True)
    assert str(raised.value) == (
        "feed.tasks.fetch: No queue is bound to the exchange 'media' for the routing key 'media.vidoe'; there are "
        "'media.video' (the queue 'videos'), 'media.image' (the queue 'images'). It was not sent (mandatory)."
    )
    with pytest.raises(Unroutable, match=r"these: 'media'\. Did you mean 'media'\?"):
        await fetch.apply_async(exchange="medai", routing_key="media.video", mandatory=True)
    assert await waiting() == []


async def test_mandatory_may_be_said_by_the_task_or_its_route(app: AioTask, waiting: Waiting) -> None:
    app.conf.update(task_queues=MEDIA, task_routes={"b": {"mandatory": True}})
    for name, options in (("a", {"mandatory": True}), ("b", {})):
        task: Any = app.task(name=name, exchange="media", routing_key="x", **options)(print)
        with pytest.raises(Unroutable):
            await task.delay("x")
        await task.apply_async(("x",), mandatory=False)
    assert await waiting() == ["default", "default"]


async def test_message_is_not_lost_when_it_reaches_no_queue_and_need_not(
    app: AioTask, fetch: Task, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.task_queues = MEDIA
    async with app.worker():
        with caplog.at_level(logging.WARNING, "aiotask.sending"):
            result = await fetch.apply_async(exchange="nowhere", routing_key="x")
        assert (await result.get(timeout=10))["queue"] == "default"
    [said] = [record.getMessage() for record in caplog.records if record.name == "aiotask.sending"]
    assert said == (
        "feed.tasks.fetch goes to the queue default, since it would reach none. No queue is bound to the exchange "
        "'nowhere'; task_queues declares these: 'media'."
    )


async def test_mandatory_message_is_sent_when_it_reaches_a_queue(app: AioTask, fetch: Task, waiting: Waiting) -> None:
    await fetch.apply_async(mandatory=True)
    await fetch.apply_async(queue="new", mandatory=True)
    assert await waiting() == ["default", "new"]


@pytest.mark.parametrize("mandatory", [True, False])
async def test_queue_that_is_not_declared_is_refused_when_missing_ones_are_not_made(
    app: AioTask, fetch: Task, waiting: Waiting, mandatory: bool
) -> None:
    app.conf.update(task_queues=["default", "feeds"], task_create_missing_queues=False)
    with pytest.raises(Unroutable) as raised:
        await fetch.apply_async(queue="feed", mandatory=mandatory)
    assert str(raised.value) == (
        "feed.tasks.fetch: There is no queue 'feed', and task_create_missing_queues is False; "
        "task_queues declares these: 'default', 'feeds'. Did you mean 'feeds'?"
    )
    await fetch.apply_async(queue="feeds", mandatory=mandatory)
    assert await waiting() == ["feeds"]


# A worker that is there


async def test_immediate_message_is_refused_when_no_worker_consumes_its_queue(
    app: AioTask, fetch: Task, waiting: Waiting
) -> None:
    async with app.worker(queues=["other"]):
        for send in (
            lambda: fetch.apply_async(immediate=True),
            lambda: fetch.send_many([(1,), (2,)], immediate=True),
            lambda: app.send_task("feed.tasks.fetch", immediate=True),
        ):
            with pytest.raises(Unroutable, match="no worker consumes the queue 'default' at this moment"):
                await send()
        assert await waiting() == []


async def test_immediate_message_is_sent_when_a_worker_consumes_its_queue(app: AioTask, fetch: Task) -> None:
    async with app.worker(queues=["feeds"]):
        result = await fetch.apply_async(queue="feeds", immediate=True)
        assert (await result.get(timeout=10))["queue"] == "feeds"
    with pytest.raises(Unroutable):
        await fetch.apply_async(queue="feeds", immediate=True)


async def test_immediate_message_needs_a_worker_for_each_of_its_queues(app: AioTask, waiting: Waiting) -> None:
    app.conf.task_queues = EVERYWHERE

    @app.task(exchange="news", immediate=True, name="reload")
    async def reload() -> None: ...

    async with app.worker(queues=["paris"]):
        with pytest.raises(Unroutable, match="reload: no worker consumes the queue 'rome'"):
            await reload.delay()
        assert await waiting() == []
        async with app.worker(queues=["rome"]):
            await (await reload.delay()).get(timeout=10)


async def test_immediate_holds_in_code_without_a_loop(app: AioTask, fetch: Task) -> None:
    with pytest.raises(Unroutable):
        await asyncio.to_thread(fetch.sync.apply_async, immediate=True)


# Workers


async def test_worker_takes_from_every_declared_queue_unless_it_is_told_otherwise(app: AioTask, fetch: Task) -> None:
    app.conf.task_queues = ["default", "feeds", "mail"]
    async with app.worker():
        for queue in ("default", "feeds", "mail"):
            assert (await (await fetch.apply_async(queue=queue)).get(timeout=10))["queue"] == queue


async def test_worker_is_refused_a_queue_that_is_not_declared_when_missing_ones_are_not_made(app: AioTask) -> None:
    app.conf.update(task_queues=["default", "feeds"], task_create_missing_queues=False)
    with pytest.raises(ImproperlyConfigured) as raised:
        app.worker(queues=["default", "feed"])
    assert str(raised.value) == (
        "A worker can't take from 'feed'. There is no queue 'feed', and task_create_missing_queues is False; "
        "task_queues declares these: 'default', 'feeds'. Did you mean 'feeds'?"
    )
    app.worker(queues=["feeds"])


async def test_middleware_sees_the_message_once_wherever_it_goes(url: str) -> None:
    seen: list[Any] = []

    class Sees:
        async def publish(self, message: Any, call_next: Any) -> None:
            seen.append(message.via)
            await call_next(message)

    app = AioTask("proj", broker=url, task_queues=EVERYWHERE, middleware=[Sees()])

    @app.task(bind=True, name="reload", exchange="news")
    async def reload(self: Task) -> None: ...

    async with app.worker(queues=["paris", "rome"]):
        await (await reload.apply_async(immediate=True)).get(timeout=10)
    with pytest.raises(Unroutable):
        await reload.apply_async(immediate=True)
    await app.close()
    assert seen == [("news", "default")] * 2


# Calls that run here


async def test_call_that_runs_here_is_checked_and_not_sent(app: AioTask, fetch: Task, waiting: Waiting) -> None:
    app.conf.update(task_queues=MEDIA, task_routes={"feed.*": {"exchange": "media", "routing_key": "media.video"}})
    assert (await (await fetch.apply()).get())["queue"] == "videos"
    with pytest.raises(Unroutable):
        await fetch.apply(exchange="nowhere", mandatory=True)
    with pytest.raises(TypeError, match="mandatory is 'yes'; it takes True or False"):
        await fetch.apply(mandatory="yes")
    assert (await (await fetch.apply(immediate=True)).get())["queue"] == "videos"
    assert await waiting() == []


# Bad input


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"exchange": 5}, TypeError, "exchange is 5; it takes a text."),
        ({"exchange": "x\n"}, ValueError, "exchange is 'x\\n'; it takes 1 to 255 printable characters."),
        ({"routing_key": ""}, ValueError, "routing_key is ''; it takes 1 to 255 printable characters."),
        ({"routing_key": ["x"]}, TypeError, "routing_key is ['x']; it takes a text."),
        ({"mandatory": 1}, TypeError, "mandatory is 1; it takes True or False."),
        ({"immediate": "now"}, TypeError, "immediate is 'now'; it takes True or False."),
        (
            {"routing_kye": "x"},
            TypeError,
            "feed.tasks.fetch: apply_async takes no option 'routing_kye'. Did you mean 'routing_key'?",
        ),
    ],
)
async def test_call_says_what_an_option_takes(
    fetch: Task, waiting: Waiting, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind) as raised:
        await fetch.apply_async(**options)
    assert str(raised.value) == said
    assert await waiting() == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"exchange": 5},
            "option 'exchange' is 5; it takes a text, '' for AMQP's own exchange, or None for the setting.",
        ),
        ({"routing_key": ""}, "option 'routing_key' is ''; it takes a non-empty text, or None for the setting."),
        ({"mandatory": "yes"}, "option 'mandatory' is 'yes'; it takes True, False, or None."),
        ({"immediate": 0}, "option 'immediate' is 0; it takes True, False, or None."),
        ({"exchnage": "x"}, "unknown option 'exchnage'. Did you mean 'exchange'?"),
    ],
)
def test_task_says_what_an_option_takes_where_it_is_defined(app: AioTask, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        app.task(name="t", **options)(print)
    assert str(raised.value) == f"Task 't': {said}"


def test_routing_is_read_from_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(
        """
        [tool.aiotask]
        task_queues = ["default", {name = "videos", exchange = "media", routing_key = "media.video"}]
        task_create_missing_queues = false

        [tool.aiotask.task_routes]
        "video.*" = {exchange = "media", routing_key = "media.video"}
        "feed.tasks.*" = "default"
        """
    )
    monkeypatch.chdir(tmp_path)
    conf = AioTask("proj", broker="memory://").conf
    assert conf.task_queues == [Queue("default"), Queue("videos", "media", "media.video")]
    assert conf.task_routes["feed.tasks.*"] == "default"
