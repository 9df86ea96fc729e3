"""Where a message goes: the queues that are declared, what they are bound to, and the routes of tasks. Pure, no I/O.

Exchanges and bindings are AMQP's (https://www.rabbitmq.com/tutorials/amqp-concepts). The sender finds the queues by
these tables and sends one message to each, on every broker alike. `Settings` makes a `Router` of its values.
"""

import fnmatch
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from aiotask.exceptions import ImproperlyConfigured, Unroutable
from aiotask.options import CALL_OPTIONS, TASK_OPTIONS, checked_text
from aiotask.suggestions import did_you_mean

EXCHANGE_TYPES: Final = ("direct", "topic", "fanout")
DEFAULT_EXCHANGE: Final = ""
"""AMQP's own exchange, which every queue is bound to by its name."""

ROUTE_OPTIONS: Final = tuple(sorted(TASK_OPTIONS.keys() & CALL_OPTIONS))
"""What a route may say: the options that a task and a call both have."""

Route = Mapping[str, Any]


class Queue(msgspec.Struct, frozen=True):
    """A queue that there is, as an item of `task_queues`.

    Attributes:
        name: Its name, by which it is always reached.
        exchange: The exchange that it is bound to; None is that of `task_default_exchange`.
        routing_key: What it is bound for; of a topic exchange a pattern of words with dots between them, where `*` is
            one word and `#` any number. None is its name, and for the default queue `task_default_routing_key`.
        exchange_type: "direct", "topic" or "fanout"; None is `task_default_exchange_type`.

    Raises:
        ImproperlyConfigured: A value doesn't fit.
    """

    name: str
    exchange: str | None = None
    routing_key: str | None = None
    exchange_type: str | None = None

    def __post_init__(self) -> None:
        try:
            checked_text("name", self.name)
            for field in ("exchange", "routing_key"):
                value = getattr(self, field)
                if value is not None:
                    checked_text(field, value)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"Queue {self.name!r:.80}: {error}") from None
        if self.exchange_type is not None and self.exchange_type not in EXCHANGE_TYPES:
            listed = ", ".join(map(repr, EXCHANGE_TYPES))
            hint = did_you_mean(str(self.exchange_type), EXCHANGE_TYPES)
            raise ImproperlyConfigured(
                f"Queue {self.name!r}: exchange_type is {self.exchange_type!r:.80}; it takes one of {listed}.{hint}"
            )


class Address(NamedTuple):
    """Where options say that a message goes; None is what they don't say."""

    queue: str | None
    exchange: str | None
    routing_key: str | None


class Destination(NamedTuple):
    """The queues that a message reaches, in the order of their declaration, and how it was sent there."""

    queues: tuple[str, ...]
    exchange: str
    """`DEFAULT_EXCHANGE` when it is sent to a queue by its name."""
    routing_key: str


class Binding(NamedTuple):
    """That a queue gets what is sent to an exchange with a fitting routing key."""

    queue: str
    exchange: str
    type: str
    key: str


class Rules:
    """Routes by the names of tasks and by patterns: an exact name first, then the patterns in their order."""

    def __init__(self, routes: Iterable[tuple[Any, Any]]) -> None:
        """Read pairs of a name, a glob with `*`, or a regular expression, and a route.

        Raises:
            TypeError, ValueError: One doesn't fit; the text is a predicate of the setting, and a hint may follow it.
        """
        self._names: dict[str, Route] = {}
        self._patterns: list[tuple[str, re.Pattern[str], Route]] = []
        for key, value in routes:
            if isinstance(key, re.Pattern) and isinstance(key.pattern, str):
                self._patterns.append((key.pattern, key, _of_setting(key.pattern, value)))
            elif not isinstance(key, str) or not key:
                raise ValueError(
                    f"routes {key!r:.80}; a task's name is a text, a pattern a text with * or a regular expression"
                )
            elif "*" in key:
                self._patterns.append((key, re.compile(fnmatch.translate(key)), _of_setting(key, value)))
            else:
                self._names[key] = _of_setting(key, value)

    def find(self, task: str) -> Route | None:
        """Return the route of a task's name, or None."""
        found = self._names.get(task)
        if found is not None:
            return found
        return next((route for _, pattern, route in self._patterns if pattern.match(task)), None)

    def unused(self, tasks: Iterable[str]) -> Iterator[str]:
        """Return the names and patterns that are those of none of `tasks`."""
        names = set(tasks)
        yield from (name for name in self._names if name not in names)
        yield from (text for text, pattern, _ in self._patterns if not any(map(pattern.match, names)))


RouterFunction = Callable[..., Any]
"""`route(name, args, kwargs, options, task=None)`, which returns a queue's name, a mapping of options, or None."""


def read_routes(value: Any) -> tuple[Rules | RouterFunction, ...]:
    """Return the setting `task_routes` as routers, to be asked in their order.

    Raises:
        TypeError, ValueError: It doesn't fit; the text is a predicate of the setting, and a hint may follow it.
    """
    if inspect.iscoroutinefunction(value):
        raise ValueError(
            f"holds the coroutine function {value.__qualname__}, which nothing could await; it takes a plain one"
        )
    if callable(value):
        return (value,)
    if isinstance(value, Mapping):
        return (Rules(value.items()),)
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            f"must be a mapping of task names to routes, a list of pairs, or a function, or a list of those, "
            f"not {value!r:.80}"
        )
    routers: list[Rules | RouterFunction] = []
    for are_pairs, items in itertools.groupby(value, _is_pair):
        if are_pairs:
            routers.append(Rules(items))
        else:
            routers += itertools.chain.from_iterable(map(read_routes, items))
    return tuple(routers)


def read_queues(value: Any) -> list[Queue]:
    """Return the setting `task_queues` as a list: of names, mappings or `Queue`s, or of a mapping of names to them.

    Raises:
        TypeError, ValueError: It doesn't fit; the text is a predicate of the setting, and a hint may follow it.
    """
    if isinstance(value, Mapping):
        queues = [_named_queue(name, item) for name, item in value.items()]
    elif isinstance(value, (list, tuple)):
        queues = [_read_queue(item) for item in value]
    else:
        raise TypeError(f"must be a list of queues, or a mapping of their names to their keys, not {value!r:.80}")
    types: dict[str, Queue] = {}
    names: set[str] = set()
    for queue in queues:
        if queue.name in names:
            raise ValueError(f"declares the queue {queue.name!r} twice")
        names.add(queue.name)
        if queue.exchange is not None and queue.exchange_type is not None:
            first = types.setdefault(queue.exchange, queue)
            if first.exchange_type != queue.exchange_type:
                raise ValueError(
                    f"declares the exchange {queue.exchange!r} as {first.exchange_type} for the queue {first.name!r} "
                    f"and as {queue.exchange_type} for {queue.name!r}"
                )
    return queues


def address(*levels: Mapping[str, Any]) -> Address:
    """Return where the options of several levels say that a message goes, the one that counts most first.

    The first level that names a queue or an exchange decides; a routing key of that level, or of one before it, goes
    with what it names, so that a call may give a key to the queue of a route.
    """
    routing_key = None
    for level in levels:
        if routing_key is None:
            routing_key = level.get("routing_key")
        queue, exchange = level.get("queue"), level.get("exchange")
        if queue is not None or exchange is not None:
            return Address(queue, exchange, routing_key)
    return Address(None, None, routing_key)


class Router:
    """The routing settings, compiled. Immutable.

    Attributes:
        declared: The queues that there are, by their names; the default queue alone when none are declared.
        routers: Who is asked for the route of a task, in this order.
        consumed: What a worker takes from that is not told otherwise.
        create_missing: True where queues are made when they are first used.
        plain: True when a task that names nothing but a queue goes straight to it, or to the default queue.
    """

    def __init__(
        self,
        queues: Sequence[Queue] | None = None,
        routes: Any = None,
        *,
        default_queue: str = "default",
        default_exchange: str | None = None,
        default_exchange_type: str = "direct",
        default_routing_key: str | None = None,
        create_missing: bool = True,
    ) -> None:
        """Take the values of the settings of these names, each checked already."""
        self.declared = {queue.name: queue for queue in queues or (Queue(default_queue),)}
        self.routers = () if routes is None else read_routes(routes)
        self.consumed = tuple(self.declared)
        self.create_missing = create_missing
        self.default_queue = default_queue
        self._types: dict[str, str] = {}
        self._bindings: dict[str, list[tuple[str, str]]] = {}
        self._keys: dict[str, tuple[str, str]] = {}
        self._default_key = default_routing_key or default_queue
        for queue in self.declared.values():
            exchange = queue.exchange or default_exchange
            if exchange is None:
                continue
            key = queue.routing_key or (self._default_key if queue.name == default_queue else queue.name)
            self._keys[queue.name] = exchange, key
            self._bindings.setdefault(exchange, []).append((queue.name, key))
            if queue.exchange_type is not None:
                self._types[exchange] = queue.exchange_type
        for exchange in self._bindings:
            self._types.setdefault(exchange, default_exchange_type)
        self._default_exchange = default_exchange or self._keys.get(default_queue, (DEFAULT_EXCHANGE,))[0]
        self.plain = not self.routers and create_missing and self._default_exchange == DEFAULT_EXCHANGE

    def bindings(self) -> list[Binding]:
        """Return what the declared queues are bound to, for brokers that have exchanges."""
        return [
            Binding(queue, exchange, self._types[exchange], key)
            for exchange, bound in self._bindings.items()
            for queue, key in bound
        ]

    def route(self, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any) -> Route:
        """Return the options of the first route that there is for a call; empty when there is none.

        Args:
            name: The task's name.
            args: The call's positional arguments.
            kwargs: The call's keyword arguments.
            options: The call's options; a function gets a copy.
            task: The task, or None where only its name is known.

        Raises:
            ImproperlyConfigured: A function returned no route.
        """
        for router in self.routers:
            if isinstance(router, Rules):
                found = router.find(name)
            else:
                found = self._ask(router, name, args, kwargs, options, task)
            if found is not None:
                return found
        return {}

    def known_route(self, name: str) -> Route | None:
        """Return the route of a task as the rules say it; None when a function is to be asked at each call."""
        for router in self.routers:
            if not isinstance(router, Rules):
                return None
            found = router.find(name)
            if found is not None:
                return found
        return {}

    def resolve(self, to: Address) -> Destination:
        """Return the queues that a message with this address reaches: none when nothing is bound for it.

        A queue alone is reached alone, whatever it is bound to. With a routing key beside it, the message goes to the
        queue's exchange when that is of the type topic or fanout. An exchange without a key gets that of the queue
        beside it, else the default one.

        Raises:
            Unroutable: A queue is not declared, and missing ones are not made.
        """
        queue, exchange, key = to
        if exchange is None and queue is not None:
            exchange, _ = self._keys.get(queue, (DEFAULT_EXCHANGE, queue))
            if key is None or exchange == DEFAULT_EXCHANGE or self._types[exchange] == "direct":
                return self._straight(queue)
        elif exchange is None:
            exchange = self._default_exchange
            if key is None:
                bound = self._bound(exchange, self._default_key) if exchange else ()
                return Destination(bound, exchange, self._default_key) if bound else self._straight(self.default_queue)
        if exchange == DEFAULT_EXCHANGE:
            return self._straight(queue or key or self.default_queue)
        if key is None:
            key = self._default_key if queue is None else self._key_of(queue, exchange)
        return Destination(self._bound(exchange, key), exchange, key)

    def fallback(self, to: Address) -> Destination:
        """Return where a message goes that no queue is bound for: to the queue that is named, else the default one.

        Raises:
            Unroutable: That queue is not declared, and missing ones are not made.
        """
        return self._straight(to.queue or self.default_queue)

    def why_unbound(self, destination: Destination) -> str:
        """Say in a sentence why a destination without queues has none."""
        exchange, key = destination.exchange, destination.routing_key
        bindings = self._bindings.get(exchange)
        if bindings is None:
            known = ", ".join(map(repr, self._bindings)) or "none"
            return (
                f"No queue is bound to the exchange {exchange!r}; task_queues declares these: {known}."
                f"{did_you_mean(exchange, self._bindings)}"
            )
        listed = ", ".join(f"{bound!r} (the queue {queue!r})" for queue, bound in bindings)
        return f"No queue is bound to the exchange {exchange!r} for the routing key {key!r}; there are {listed}."

    def why_undeclared(self, queue: str) -> str | None:
        """Say in a sentence why a queue may not be used: missing ones are not made. None when it may."""
        if self.create_missing or queue in self.declared:
            return None
        known = ", ".join(map(repr, self.declared))
        return (
            f"There is no queue {queue!r}, and task_create_missing_queues is False; task_queues declares these: "
            f"{known}.{did_you_mean(queue, self.declared)}"
        )

    def _straight(self, queue: str) -> Destination:
        refusal = self.why_undeclared(queue)
        if refusal is not None:
            raise Unroutable(refusal)
        return Destination((queue,), DEFAULT_EXCHANGE, queue)

    def _key_of(self, queue: str, exchange: str) -> str:
        own, key = self._keys.get(queue, (exchange, queue))
        return key if own == exchange else queue

    def _bound(self, exchange: str, key: str) -> tuple[str, ...]:
        bindings = self._bindings.get(exchange)
        if bindings is None:
            # A queue that is not declared is bound to an exchange of its own name, as Celery makes them.
            return (key,) if key == exchange and self.create_missing else ()
        match self._types[exchange]:
            case "fanout":
                return tuple(queue for queue, _ in bindings)
            case "topic":
                return tuple(queue for queue, pattern in bindings if topic_matches(pattern, key))
            case _:
                return tuple(queue for queue, bound in bindings if bound == key)

    def _ask(
        self, router: RouterFunction, name: str, args: Any, kwargs: Any, options: Mapping[str, Any], task: Any
    ) -> Route | None:
        returned = router(name, args, kwargs, dict(options), task=task)
        if returned is None:
            return None
        try:
            return _read_route(returned)
        except (TypeError, ValueError) as error:
            what, hint = _text_and_hint(error)
            raise ImproperlyConfigured(
                f"{getattr(router, '__qualname__', router)!s} of task_routes routes {name!r} {what}.{hint}"
            ) from None


def topic_matches(pattern: str, key: str) -> bool:
    """Tell whether a topic exchange hands a message with `key` to a queue bound by `pattern`.

    Words are what stands between dots; `*` is exactly one, `#` any number, none included.

    Cost: the product of both numbers of words.
    """
    parts = pattern.split(".")
    # matched[i]: whether the first i parts match the words so far.
    matched = [True]
    for part in parts:
        matched.append(matched[-1] and part == "#")
    for word in key.split("."):
        before, matched = matched, [False]
        for i, part in enumerate(parts):
            if part == "#":
                matched.append(before[i + 1] or matched[i])
            else:
                matched.append(before[i] and part in ("*", word))
    return matched[-1]


def _is_pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], (str, re.Pattern))


def _of_setting(key: str, value: Any) -> Route:
    try:
        return _read_route(value)
    except (TypeError, ValueError) as error:
        what, hint = _text_and_hint(error)
        raise ValueError(f"routes {key!r} {what}", hint) from None


def _read_route(value: Any) -> Route:
    """Return a route as its options; None in one is as if it were not given.

    Raises:
        TypeError, ValueError: It is none; the text goes on from "routes X", and a hint may follow it.
    """
    if isinstance(value, str):
        value = {"queue": value}
    if not isinstance(value, Mapping):
        raise TypeError(f"to {value!r:.80}; a route is a queue's name or a mapping of options")
    route = {}
    for option, given in value.items():
        if option not in ROUTE_OPTIONS:
            raise ValueError(
                f"with the unknown option {option!r}; a route takes {', '.join(ROUTE_OPTIONS)}",
                did_you_mean(str(option), ROUTE_OPTIONS),
            )
        if given is None:
            continue
        try:
            route[option] = TASK_OPTIONS[option].check(given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"with {option} {given!r:.80}; it takes {error}") from None
    return route


def _named_queue(name: Any, item: Any) -> Queue:
    if isinstance(item, Queue):
        if item.name != name:
            raise ValueError(f"declares the queue {item.name!r} under the name {name!r:.80}")
        return item
    if item is not None and not isinstance(item, Mapping):
        raise ValueError(f"declares the queue {name!r:.80} by {item!r:.80}; it takes a mapping such as {_EXAMPLE}")
    return _read_queue({**(item or {}), "name": name})


def _read_queue(item: Any) -> Queue:
    if isinstance(item, Queue):
        return item
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, Mapping) or "name" not in item:
        raise ValueError(f"holds {item!r:.80}; a queue is a name, a Queue, or a mapping such as {_EXAMPLE}")
    fields = Queue.__struct_fields__
    for key in item:
        if key not in fields:
            raise ValueError(
                f"declares the queue {item['name']!r:.80} with the unknown key {key!r:.80}; "
                f"a queue takes {', '.join(fields)}",
                did_you_mean(str(key), fields),
            )
    try:
        return Queue(**item)
    except ImproperlyConfigured as error:
        raise ValueError(f"holds a queue that doesn't fit: {str(error).removesuffix('.')}") from None


_EXAMPLE: Final = "{'name': 'videos', 'exchange': 'media', 'routing_key': 'media.video'}"


def _text_and_hint(error: Exception) -> tuple[str, str]:
    text, *hint = error.args
    return text, "".join(hint)
