"""What is measured on each broker: which task queues, how many tasks, and what aiotask has to reach there."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from benchmarks.peers.rabbitmq import Rabbit, rabbitmq_server
from benchmarks.peers.server import Server, redis_server

ASYNCIO, EVERYBODY, NOBODY = "asyncio", "everybody", ""


@dataclass(frozen=True)
class Goal:
    """A row of the table: a figure of aiotask, and whom it is compared with."""

    workload: str
    figure: str
    unit: str
    goal: str = ""
    against: str = EVERYBODY
    """Of these the best one; or another figure of aiotask's own, by its name."""
    least: bool = True
    """Whether less is better."""
    called: str = ""
    """What that other figure is called."""


@dataclass(frozen=True)
class Suite:
    """All there is to say of one broker."""

    title: str
    own: Sequence[str]
    """aiotask's adapters; where there are several, they differ in where results are."""
    requirements: Mapping[str, Sequence[str]]
    """Of each other queue: what its environment has."""
    asyncio: Sequence[str]
    """Those that run bodies in an event loop, as aiotask does."""
    folder: str
    """Of the adapters, and what the names of environments begin with."""
    start: Callable[[], AbstractContextManager[Any]]
    connect: Callable[[str], Any]
    counts: Mapping[str, int]
    """How many tasks (for `idle`, seconds); so few that no queue takes long."""
    own_counts: Mapping[str, int]
    """aiotask's, where others take longer for a tenth of it, or are not asked."""
    goals: Sequence[Goal]
    once: Sequence[str] = ()
    """Long, and hardly touched by what else the machine does: in the first round, and by default of aiotask alone."""
    again: Sequence[str] = ("drain", "trips")
    """Short for aiotask: measured again right before every other queue, so that a ratio is of one moment."""
    ceilings: Sequence[str] = ()
    """No task queues, but what the driver does with bare messages: beside the drain alone, in aiotask's environment."""
    typed: Sequence[str] = ()
    """Those that make queues of the kind that is asked for, aiotask's among them."""

    @property
    def names(self) -> list[str]:
        return [*self.own, *self.requirements, *self.ceilings]

    def adapter(self, name: str) -> str:
        """Return the module of an adapter."""
        return f"benchmarks.peers.adapters.{self.folder}{'.' if self.folder else ''}{name.replace('-', '_')}"

    def environment(self, name: str) -> str | None:
        """Return the name of the environment of a queue; None for that of the running interpreter."""
        if name in self.own or name in self.ceilings:
            return None
        return f"{self.folder}{'-' if self.folder else ''}{name}"


REDIS = Suite(
    title="aiotask on Redis",
    own=("aiotask",),
    requirements={
        "taskiq": ["taskiq", "taskiq-redis", "hiredis"],
        "streaq": ["streaq"],
        "saq": ["saq[redis,hiredis]", "typing_extensions"],
        "arq": ["arq"],
        "docket": ["pydocket", "hiredis"],
        "dramatiq": ["dramatiq[redis]", "hiredis"],
        "huey": ["huey[redis]", "hiredis"],
        "celery": ["celery[redis]", "hiredis"],
    },
    asyncio=("taskiq", "streaq", "saq", "arq", "docket"),
    folder="",
    start=redis_server,
    connect=Server.at,
    counts={"drain": 2_000, "trips": 300, "one-by-one": 500, "naps": 2_000, "large": 1_000, "idle": 10, "memory": 0},
    own_counts={"drain": 20_000, "one-by-one": 2_000, "large": 20_000, "idle": 20, "memory": 100_000},
    once=("idle", "memory"),
    goals=(
        Goal("no-op drain, 100 at once, results", "drain_per_s", "/s", "10 x the fastest asyncio peer", ASYNCIO, False),
        Goal("sends, 100 concurrent callers", "sends_per_s", "/s", "5 x the fastest peer", EVERYBODY, False),
        Goal(
            "sends one after the other",
            "one_by_one_per_s",
            "/s",
            "0.83 x bare XADD",
            "bare_per_s",
            called="bare XADD by redis-py",
        ),
        Goal("round trip, p50", "p50_ms", "ms", "0.4 x the fastest peer"),
        Goal("round trip, p99", "p99_ms", "ms", "0.4 x the fastest peer"),
        Goal("2,000 tasks of 50 ms, 100 at once", "naps_s", "s", "1.08 s"),
        Goal("reads of the server per task drained", "reads_per_task", "", "0.1"),
        Goal("idle worker, CPU", "idle_cpu_percent", "%", "0.8 %"),
        Goal("idle worker, commands that it sends", "idle_reads_per_s", "/s", "4/s"),
        Goal("the same with those that its scripts run", "idle_commands_per_s", "/s"),
        Goal("worker's memory over 100,000 tasks", "rss_growth_mib", "MiB", "1 MiB", NOBODY),
        Goal("worker's memory over 100,000 delayed tasks", "delayed_growth_mib", "MiB", "20 MiB", NOBODY),
        Goal(
            "drain with 4 KB arguments",
            "large_per_s",
            "/s",
            "0.6 x the drain above",
            "drain_per_s",
            called="the small drain",
        ),
    ),
)
"""Requirements as their documentation says, and hiredis for all that use redis-py, since aiotask has it. saq imports
typing_extensions without asking for it."""

RABBITMQ = Suite(
    title="aiotask on RabbitMQ",
    own=("aiotask-redis", "aiotask-rpc"),
    requirements={
        "taskiq": ["taskiq", "taskiq-aio-pika", "taskiq-redis", "hiredis"],
        "faststream": ["faststream[rabbit,cli]"],
        "dramatiq": ["dramatiq[rabbitmq,redis]", "hiredis"],
        "celery-redis": ["celery[redis]", "hiredis"],
        "celery-rpc": ["celery"],
    },
    asyncio=("taskiq", "faststream"),
    folder="rabbitmq",
    start=rabbitmq_server,
    connect=Rabbit.at,
    counts={"drain": 2_000, "trips": 300, "naps": 2_000, "large": 1_000},
    own_counts={"drain": 20_000, "large": 10_000},
    ceilings=("aio-pika", "aiormq"),
    typed=("aiotask-redis", "aiotask-rpc", "faststream"),
    goals=(
        Goal("no-op drain, 100 at once, results", "drain_per_s", "/s", "4 x the fastest asyncio peer", ASYNCIO, False),
        Goal("the same beside dramatiq's two processes", "drain_per_s", "/s", "above dramatiq", "dramatiq", False),
        Goal("confirmed sends, 100 concurrent callers", "sends_per_s", "/s", "the fastest peer's", EVERYBODY, False),
        Goal("round trip, p50", "p50_ms", "ms", "0.6 x the fastest asyncio peer", ASYNCIO),
        Goal("round trip, p99", "p99_ms", "ms", "", ASYNCIO),
        Goal("2,000 tasks of 50 ms, 100 at once", "naps_s", "s"),
        Goal("drain with 4 KB arguments", "large_per_s", "/s", "", "drain_per_s", called="the small drain"),
    ),
)
"""Requirements as their documentation says, and hiredis for all that use redis-py."""

SUITES = {"redis": REDIS, "rabbitmq": RABBITMQ}
