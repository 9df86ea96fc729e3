"""Queues, bindings and routes: which queues a message reaches, and what is refused."""

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

from aiotask.exceptions import ImproperlyConfigured, Unroutable
from aiotask.routing import (
    ROUTE_OPTIONS,
    Address,
    Destination,
    Queue,
    Router,
    Rules,
    address,
    read_queues,
    read_routes,
    topic_matches,
)

MEDIA = (
    Queue("default", "media", "media.default"),
    Queue("videos", "media", "media.video"),
    Queue("images", "media", "media.image"),
)
FEEDS = (
    Queue("default", "tasks", "task.#", "topic"),
    Queue("feeds", "tasks", "feed.#"),
    Queue("audit", "tasks", "#"),
)
EVERYWHERE = (Queue("paris", "news", exchange_type="fanout"), Queue("rome", "news"), Queue("other"))


def reached(
    router: Router, queue: str | None = None, exchange: str | None = None, key: str | None = None
) -> Destination:
    return router.resolve(Address(queue, exchange, key))


def refusal(action: Callable[[], Any], *kinds: type[Exception]) -> tuple[str, str]:
    """Return the text and the hint of an error."""
    with pytest.raises(kinds or (TypeError, ValueError)) as raised:
        action()
    text, *hint = raised.value.args
    return text, "".join(hint)


# Patterns


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("usa.news", "usa.news", True),
        ("usa.news", "usa.weather", False),
        ("usa.news", "usa", False),
        ("usa", "usa.news", False),
        ("*.news", "norway.news", True),
        ("*.news", "news", False),
        ("*.news", "north.norway.news", False),
        ("*", "usa", True),
        ("usa.*", "usa", False),
        ("usa.#", "usa", True),
        ("usa.#", "usa.news.today", True),
        ("#.news", "news", True),
        ("#.news", "norway.news", True),
        ("#.news", "norway.weather", False),
        ("usa.#.today", "usa.today", True),
        ("usa.#.today", "usa.a.b.today", True),
        ("usa.#.today", "usa.a.b", False),
        ("#", "anything.at.all", True),
        ("#", "", True),
        ("#.*", "one", True),
        ("*.#", "one", True),
        ("#.#", "a.b", True),
        ("#.*.#.*", "a", False),
        ("#.*.#.*", "a.b", True),
        ("feed.#", "feed.#", True),
        ("usa.new", "usa.news", False),
        ("us*.news", "usa.news", False),
    ],
)
def test_topic_pattern_matches_words(pattern: str, key: str, fits: bool) -> None:
    assert topic_matches(pattern, key) is fits


def test_topic_pattern_is_no_trap_when_it_has_many_wildcards() -> None:
    assert not topic_matches(".".join(["#", "a"] * 60), ".".join(["a"] * 59 + ["b"] * 60))


# Destinations


def test_message_goes_to_the_default_queue_when_nothing_is_said() -> None:
    router = Router(default_queue="tasks")
    assert reached(router) == Destination(("tasks",), "", "tasks")
    assert router.plain
    assert router.consumed == ("tasks",)


def test_queue_is_reached_by_its_name_whether_it_is_declared_or_not() -> None:
    for router in (Router(), Router(MEDIA), Router(FEEDS), Router(EVERYWHERE)):
        assert reached(router, "mail") == Destination(("mail",), "", "mail")
        assert reached(router, "default").queues == ("default",)
    assert reached(Router(EVERYWHERE), "rome").queues == ("rome",)


def test_direct_exchange_reaches_the_queues_that_are_bound_for_the_key() -> None:
    router = Router(MEDIA)
    assert reached(router, exchange="media", key="media.image") == Destination(("images",), "media", "media.image")
    assert reached(router, exchange="media", key="media.*").queues == ()


def test_direct_exchange_reaches_each_queue_that_is_bound_for_the_key() -> None:
    router = Router([Queue("a", "x", "k"), Queue("b", "x", "k"), Queue("c", "x", "l")])
    assert reached(router, exchange="x", key="k").queues == ("a", "b")


def test_topic_exchange_reaches_the_queues_whose_pattern_matches() -> None:
    router = Router(FEEDS)
    assert reached(router, exchange="tasks", key="feed.import").queues == ("feeds", "audit")
    assert reached(router, exchange="tasks", key="other").queues == ("audit",)


def test_fanout_exchange_reaches_every_queue_that_is_bound_to_it() -> None:
    router = Router(EVERYWHERE)
    assert reached(router, exchange="news").queues == ("paris", "rome")
    assert reached(router, exchange="news", key="whatever").queues == ("paris", "rome")


def test_key_goes_with_the_exchange_of_its_queue_when_that_is_no_direct_one() -> None:
    assert reached(Router(FEEDS), "feeds", key="feed.import") == Destination(("feeds", "audit"), "tasks", "feed.import")
    assert reached(Router(MEDIA), "videos", key="media.image") == Destination(("videos",), "", "videos")
    assert reached(Router(), "videos", key="media.image") == Destination(("videos",), "", "videos")


def test_exchange_gets_the_key_of_the_queue_beside_it() -> None:
    assert reached(Router(MEDIA), "videos", "media") == Destination(("videos",), "media", "media.video")
    assert reached(Router(MEDIA), "videos", "media", "media.image").queues == ("images",)
    # That key is for its own exchange; for another one it is its name.
    router = Router((*MEDIA, Queue("archive", "store", "videos")))
    assert reached(router, "videos", "store") == Destination(("archive",), "store", "videos")


def test_exchange_gets_the_default_key_when_there_is_none() -> None:
    assert reached(Router(MEDIA), exchange="media") == Destination((), "media", "default")
    router = Router(MEDIA, default_routing_key="media.video")
    assert reached(router, exchange="media") == Destination(("videos",), "media", "media.video")


def test_key_alone_is_the_name_of_a_queue_where_there_is_no_default_exchange() -> None:
    assert reached(Router(), key="mail") == Destination(("mail",), "", "mail")
    assert reached(Router([Queue("default"), Queue("mail")]), key="mail").queues == ("mail",)
    assert reached(Router(default_exchange="media"), exchange="", key="mail").queues == ("mail",)


def test_key_alone_goes_with_the_default_exchange_where_there_is_one() -> None:
    for router in (Router(MEDIA), Router(MEDIA[1:], default_exchange="media")):
        assert reached(router, key="media.video") == Destination(("videos",), "media", "media.video")


def test_default_exchange_and_key_hold_for_what_names_nothing() -> None:
    celerys = Router(
        [Queue("default", routing_key="task.#"), Queue("feeds", routing_key="feed.#")],
        default_exchange="tasks",
        default_exchange_type="topic",
        default_routing_key="task.default",
    )
    assert reached(celerys) == Destination(("default",), "tasks", "task.default")
    assert not celerys.plain


def test_default_key_binds_the_default_queue_and_no_other_when_they_name_none() -> None:
    router = Router([Queue("celery"), Queue("mail")], default_queue="celery", default_exchange="celery")
    assert reached(router).queues == ("celery",)
    assert reached(router, exchange="celery", key="mail").queues == ("mail",)
    router = Router([Queue("q"), Queue("mail")], default_queue="q", default_exchange="x", default_routing_key="k")
    assert reached(router, exchange="x", key="k").queues == ("q",)
    assert reached(router, exchange="x", key="q").queues == ()


def test_default_queue_is_reached_when_nothing_is_bound_for_what_names_nothing() -> None:
    router = Router([Queue("spot", "media", "spot")], default_queue="spot", default_exchange="main")
    assert reached(router) == Destination(("spot",), "", "spot")


def test_default_queue_is_bound_to_the_default_exchange_when_no_queues_are_declared() -> None:
    router = Router(default_queue="q", default_exchange="x", default_routing_key="k")
    assert reached(router) == Destination(("q",), "x", "k")
    assert router.consumed == ("q",)


def test_exchange_of_the_name_of_a_queue_that_is_made_reaches_it() -> None:
    assert reached(Router(), exchange="video", key="video") == Destination(("video",), "video", "video")
    assert reached(Router(), "video", "video").queues == ("video",)
    assert reached(Router(), exchange="video", key="image").queues == ()
    assert reached(Router(create_missing=False), exchange="video", key="video").queues == ()


def test_exchange_has_the_type_that_one_of_its_queues_names() -> None:
    router = Router([Queue("a", "x", "k.*"), Queue("b", "x", "#", "topic"), Queue("c", "y", "k.*")])
    assert reached(router, exchange="x", key="k.l").queues == ("a", "b")
    assert reached(router, exchange="y", key="k.l").queues == ()


def test_fallback_is_the_queue_that_is_named_else_the_default_one() -> None:
    router = Router(MEDIA)
    assert router.fallback(Address("videos", "nowhere", "x")).queues == ("videos",)
    assert router.fallback(Address(None, "nowhere", "x")).queues == ("default",)


def test_unbound_destination_says_what_is_bound() -> None:
    router = Router(MEDIA)
    assert router.why_unbound(reached(router, exchange="medai", key="x")) == (
        "No queue is bound to the exchange 'medai'; task_queues declares these: 'media'. Did you mean 'media'?"
    )
    assert router.why_unbound(reached(router, exchange="media", key="x")) == (
        "No queue is bound to the exchange 'media' for the routing key 'x'; there are 'media.default' (the queue "
        "'default'), 'media.video' (the queue 'videos'), 'media.image' (the queue 'images')."
    )
    assert "declares these: none." in Router().why_unbound(reached(Router(), exchange="x", key="y"))


@pytest.mark.parametrize("to", [Address("video", None, None), Address(None, "", "video"), Address(None, None, "video")])
def test_queue_that_is_not_declared_is_refused_when_missing_ones_are_not_made(to: Address) -> None:
    router = Router([Queue("default"), Queue("videos")], create_missing=False)
    assert not router.plain
    said = (
        "There is no queue 'video', and task_create_missing_queues is False; task_queues declares these: 'default', "
        "'videos'. Did you mean 'videos'?"
    )
    assert refusal(lambda: router.resolve(to), Unroutable) == (said, "")
    assert router.why_undeclared("video") == said
    assert router.why_undeclared("videos") is None
    assert Router([Queue("default")]).why_undeclared("video") is None


# Addresses


def test_first_level_that_names_a_queue_or_an_exchange_decides() -> None:
    call, task, route = {"queue": "a"}, {"exchange": "x", "routing_key": "k"}, {"queue": "b"}
    assert address(call, task, route) == ("a", None, None)
    assert address({}, task, route) == (None, "x", "k")
    assert address({}, {}, route) == ("b", None, None)
    assert address({"exchange": ""}, task) == (None, "", None)
    assert address({}, {"queue": None, "exchange": None}) == (None, None, None)


def test_key_goes_with_what_a_later_level_names() -> None:
    assert address({"routing_key": "call"}, {"routing_key": "task"}, {"queue": "q", "routing_key": "route"}) == (
        "q",
        None,
        "call",
    )
    assert address({}, {"routing_key": "task"}, {}) == (None, None, "task")
    assert address({"queue": "q"}, {"routing_key": "task"}) == ("q", None, None)


# Routes


def asked(routes: Any, name: str, **options: Any) -> Any:
    return Router(routes=routes).route(name, (1,), {"a": 2}, options, None)


def test_route_is_a_queue_or_options() -> None:
    routes = {"feed.fetch": "feeds", "feed.send": {"queue": "mail", "priority": 1, "expires": None}}
    assert asked(routes, "feed.fetch") == {"queue": "feeds"}
    assert asked(routes, "feed.send") == {"queue": "mail", "priority": 1}
    assert asked(routes, "feed.fetch2") == {}


@pytest.mark.parametrize("options", [{"queue": "q"}, {"exchange": "x", "routing_key": "k"}, {"mandatory": True}])
def test_route_takes_the_options_that_tasks_and_calls_have(options: dict[str, Any]) -> None:
    assert set(options) <= set(ROUTE_OPTIONS)
    assert asked({"t": options}, "t") == options


def test_pattern_routes_what_it_matches() -> None:
    routes = {"feed.tasks.*": "feeds", re.compile(r"(video|image)\..*"): "media"}
    assert asked(routes, "feed.tasks.fetch") == {"queue": "feeds"}
    assert asked(routes, "feed.tasks.deep.fetch") == {"queue": "feeds"}
    assert asked(routes, "feed.tasksfetch") == {}
    assert asked(routes, "my.feed.tasks.fetch") == {}
    assert asked(routes, "image.resize") == {"queue": "media"}


def test_exact_name_comes_before_patterns_and_those_in_their_order() -> None:
    pairs = [("a.*", "first"), ("a.b*", "second"), ("a.bc", "exact")]
    for routes in (pairs, dict(pairs), (pairs,)):
        assert asked(routes, "a.bc") == {"queue": "exact"}
        assert asked(routes, "a.bd") == {"queue": "first"}


def test_routers_of_a_list_are_asked_in_their_order() -> None:
    def route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None) -> Any:
        return "by-function" if name == "b" else None

    routes = [{"a": "one"}, route, {"a": "two", "b": "two", "c": "two"}, ("d", "three")]
    assert [asked(routes, name).get("queue") for name in "abcde"] == ["one", "by-function", "two", "three", None]


def test_function_gets_the_call_and_returns_a_route() -> None:
    got: list[Any] = []

    def route(*args: Any, **kwargs: Any) -> Any:
        got.append((args, kwargs))
        args[3]["queue"] = "changed"
        return {"queue": "q", "priority": None}

    options = {"priority": 3}
    task = object()
    assert Router(routes=route).route("t", (1,), {"a": 2}, options, task) == {"queue": "q"}
    assert got == [(("t", (1,), {"a": 2}, {"priority": 3, "queue": "changed"}), {"task": task})]
    assert options == {"priority": 3}


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (5, "decide of task_routes routes 't' to 5; a route is a queue's name or a mapping of options."),
        (
            {"que": "x"},
            (
                "decide of task_routes routes 't' with the unknown option 'que'; "
                f"a route takes {', '.join(ROUTE_OPTIONS)}. Did you mean 'queue'?"
            ),
        ),
    ],
)
def test_function_is_named_when_it_returns_no_route(returned: Any, said: str) -> None:
    def decide(*_: Any, **__: Any) -> Any:
        return returned

    decide.__qualname__ = "decide"
    assert refusal(lambda: asked(decide, "t"), ImproperlyConfigured) == (said, "")


@pytest.mark.parametrize(
    ("routes", "said", "hint"),
    [
        (
            5,
            "must be a mapping of task names to routes, a list of pairs, or a function, or a list of those, not 5",
            "",
        ),
        (
            ["proj.route"],
            (
                "must be a mapping of task names to routes, a list of pairs, or a function, or a list of those, "
                "not 'proj.route'"
            ),
            "",
        ),
        ({5: "q"}, "routes 5; a task's name is a text, a pattern a text with * or a regular expression", ""),
        ({"": "q"}, "routes ''; a task's name is a text, a pattern a text with * or a regular expression", ""),
        (
            {re.compile(b"x"): "q"},
            "routes re.compile(b'x'); a task's name is a text, a pattern a text with * or a regular expression",
            "",
        ),
        ({"t": 5}, "routes 't' to 5; a route is a queue's name or a mapping of options", ""),
        ([("t.*", None)], "routes 't.*' to None; a route is a queue's name or a mapping of options", ""),
        (
            {"t": {"exchange_type": "topic"}},
            f"routes 't' with the unknown option 'exchange_type'; a route takes {', '.join(ROUTE_OPTIONS)}",
            " Did you mean 'exchange'?",
        ),
        (
            {"t": {"priority": 12}},
            (
                "routes 't' with priority 12; it takes a whole number from 0 (the most urgent) to 9, or None for the "
                "setting"
            ),
            "",
        ),
        ({re.compile("t+"): ""}, "routes 't+' with queue ''; it takes a non-empty text, or None for the setting", ""),
    ],
)
def test_routes_say_what_fits_when_they_do_not(routes: Any, said: str, hint: str) -> None:
    assert refusal(lambda: read_routes(routes)) == (said, hint)


def test_routes_take_no_coroutine_function() -> None:
    async def route() -> None: ...

    assert "which nothing could await" in refusal(lambda: read_routes([route]))[0]


def test_rules_know_which_of_them_match_no_task() -> None:
    rules = Rules([("a.b", "q"), ("a.*", "q"), ("c.*", "q"), ("d", "q"), (re.compile("e+"), "q")])
    assert list(rules.unused(["a.b", "a.c"])) == ["d", "c.*", "e+"]


def test_known_route_is_none_where_a_function_is_asked_first() -> None:
    router = Router(routes=[{"a": "q"}, print, {"b": "q"}])
    assert router.known_route("a") == {"queue": "q"}
    assert router.known_route("b") is None
    assert Router(routes={"a": "q"}).known_route("b") == {}


# Declarations


@pytest.mark.parametrize(
    ("value", "queues"),
    [
        (["mail", Queue("b", "x")], [Queue("mail"), Queue("b", "x")]),
        (("mail",), [Queue("mail")]),
        (
            [{"name": "mail", "exchange": "x", "routing_key": "k", "exchange_type": "topic"}],
            [Queue("mail", "x", "k", "topic")],
        ),
        (
            {"mail": {"routing_key": "k"}, "b": None, "c": Queue("c", "y")},
            [Queue("mail", None, "k"), Queue("b"), Queue("c", "y")],
        ),
        ([], []),
    ],
)
def test_queues_are_read_in_every_form(value: Any, queues: list[Queue]) -> None:
    assert read_queues(value) == queues


@pytest.mark.parametrize(
    ("value", "said", "hint"),
    [
        ("mail", "must be a list of queues, or a mapping of their names to their keys, not 'mail'", ""),
        (
            [5],
            (
                "holds 5; a queue is a name, a Queue, or a mapping such as "
                "{'name': 'videos', 'exchange': 'media', 'routing_key': 'media.video'}"
            ),
            "",
        ),
        (
            [{"exchange": "x"}],
            (
                "holds {'exchange': 'x'}; a queue is a name, a Queue, or a mapping such as "
                "{'name': 'videos', 'exchange': 'media', 'routing_key': 'media.video'}"
            ),
            "",
        ),
        (
            {"mail": "x"},
            (
                "declares the queue 'mail' by 'x'; it takes a mapping such as "
                "{'name': 'videos', 'exchange': 'media', 'routing_key': 'media.video'}"
            ),
            "",
        ),
        (
            {"mail": {"binding_key": "k"}},
            (
                "declares the queue 'mail' with the unknown key 'binding_key'; "
                "a queue takes name, exchange, routing_key, exchange_type"
            ),
            " Did you mean 'routing_key'?",
        ),
        ({"mail": Queue("post")}, "declares the queue 'post' under the name 'mail'", ""),
        (["mail", {"name": "mail"}], "declares the queue 'mail' twice", ""),
        (
            [Queue("a", "x", exchange_type="topic"), Queue("b", "x"), Queue("c", "x", exchange_type="fanout")],
            "declares the exchange 'x' as topic for the queue 'a' and as fanout for 'c'",
            "",
        ),
        (
            [{"name": "mail", "exchange": 5}],
            "holds a queue that doesn't fit: Queue 'mail': exchange is 5; it takes a text",
            "",
        ),
        ([""], "holds a queue that doesn't fit: Queue '': name is ''; it takes 1 to 255 printable characters", ""),
    ],
)
def test_queues_say_what_fits_when_they_do_not(value: Any, said: str, hint: str) -> None:
    assert refusal(lambda: read_queues(value)) == (said, hint)


def test_queue_names_the_nearest_type_of_exchange() -> None:
    assert refusal(lambda: Queue("a", "x", "k", "topics"), ImproperlyConfigured) == (
        "Queue 'a': exchange_type is 'topics'; it takes one of 'direct', 'topic', 'fanout'. Did you mean 'topic'?",
        "",
    )


@pytest.mark.parametrize("again", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_of_a_router_are_as_good(again: Callable[[Router], Router]) -> None:
    router = again(Router(FEEDS, {"a.*": "feeds"}))
    assert reached(router, exchange="tasks", key="feed.x").queues == ("feeds", "audit")
    assert router.route("a.b", (), {}, {}, None) == {"queue": "feeds"}
