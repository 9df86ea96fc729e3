"""Opens the app that a command talks through: what the command line says goes over the app's own settings."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from aiotask.adapters import open_own
from aiotask.app import AioTask
from aiotask.cli.errors import CommandError
from aiotask.cli.targets import default_app, import_tasks, load_target
from aiotask.exceptions import BackendConnectionError, BrokerConnectionError, ImproperlyConfigured
from aiotask.protocols import Examinable, QueueAdmin
from aiotask.schemes import check_url, whole_url
from aiotask.settings.checked import COMMAND_LINE
from aiotask.urls import mask_url

T = TypeVar("T")


def load_app(target: str | None, app_dir: str, *, imports: bool, alone: str | None = None, **settings: Any) -> AioTask:
    """Return the app that a command is about, with what the command line says over its settings.

    Args:
        target: What TARGET or `--app` says; None is the default app.
        app_dir: The folder that modules are imported from.
        imports: Whether the modules in the setting `imports` are imported, as a worker does.
        alone: Why a broker that lives in this process alone is no use; None where it is.
        **settings: What the command line says; None is what it does not say.

    Raises:
        CommandError: A module can't be imported.
        ImproperlyConfigured: Settings don't fit; or the broker lives in this process alone.
    """
    app = default_app(app_dir) if target is None else load_target(target, app_dir)
    override(app, **settings)
    if alone is not None:
        refuse_memory(app, alone)
    if imports:
        import_tasks(app)
    return app


def find_app(target: str | None, app_dir: str, broker: str | None, result_backend: str | None) -> AioTask:
    """Return the app that a command without TARGET talks through; the default app needs no tasks for that.

    Raises:
        CommandError, ImproperlyConfigured: As `load_app`.
    """
    return load_app(
        target,
        app_dir,
        imports=target is not None,
        alone="what is sent there, nobody would ever get, and there is nothing to look at",
        broker_url=broker,
        result_backend=result_backend,
    )


def override(app: AioTask, **settings: Any) -> None:
    """Set what the command line says, over all else; None is what it does not say.

    Raises:
        ImproperlyConfigured: A value doesn't fit.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given.keys() & {"broker_url", "result_backend"}:
        check_url(name, given[name])
    app.conf.apply({name: (value, COMMAND_LINE) for name, value in given.items()})


def refuse_memory(app: AioTask, why: str) -> None:
    """Refuse a broker that lives in this process alone.

    Raises:
        ImproperlyConfigured: It is one; the message says `why` that is no use.
    """
    if app.broker_url.startswith("memory:"):
        raise ImproperlyConfigured(
            f"the broker {app.broker_url!r} (origin: {app.conf.origin('broker_url')}) lives in this process alone: "
            f"{why}. Use sqlite:///aiotask.db, or another broker that processes share (--broker)."
        )


def in_session(app: AioTask, step: Callable[[], Awaitable[T]]) -> T:
    """Run `step` while `app` is open; return what it returns.

    Raises:
        BrokerConnectionError, BackendConnectionError: It can't be opened; says which URL was tried, and who named it.
    """

    async def run() -> T:
        await connect(app)
        async with app:
            return await step()

    return asyncio.run(run())


async def connect(app: AioTask) -> None:
    """Open `app`'s connections.

    Raises:
        BrokerConnectionError, BackendConnectionError: As `in_session`.
    """
    with _saying_what_was_tried(app):
        await app.connect()


async def check_connections(app: AioTask) -> None:
    """See that the broker and the result backends can be reached; nothing else of the app is opened.

    Raises:
        BrokerConnectionError, BackendConnectionError: As `in_session`.
        BrokerError: It can be reached, and is of no use to a worker.
    """
    with _saying_what_was_tried(app):
        await app.broker.open()
        try:
            if isinstance(app.broker, Examinable):
                await app.broker.examine(app.conf.router.consumed)
            await app.backend.open()
            await app.backend.close()
            for task in app.tasks.values():
                if task.own_backend is not None and not task.backend.connected:
                    await open_own(task.backend, task.own_backend)
                    await task.backend.close()
        finally:
            await app.broker.close()


@contextmanager
def _saying_what_was_tried(app: AioTask) -> Generator[None]:
    try:
        yield
    except BrokerConnectionError as error:
        raise BrokerConnectionError(f"{error}\n{_tried(app, 'broker_url', app.broker_url)}") from error
    except BackendConnectionError as error:
        # One that tasks have for themselves brings a note along that says so.
        told = getattr(error, "__notes__", None) or [_tried(app, "result_backend", app.backend_url)]
        raise BackendConnectionError("\n".join([str(error), *told])) from error


def queue_admin(app: AioTask) -> QueueAdmin:
    """Return the broker's way to look into its queues.

    Raises:
        CommandError: It has none.
    """
    broker = app.broker
    if not isinstance(broker, QueueAdmin):
        raise CommandError(f"The broker {shown_url(app.broker_url)} can't tell what its queues hold.")
    return broker


def shown_url(url: str) -> str:
    """Return a URL as people may see it: whole, so that they know which file is meant, and without its password."""
    return mask_url(whole_url(url))


def _tried(app: AioTask, setting: str, url: str) -> str:
    origin = app.conf.origin(setting)
    if setting == "result_backend" and origin == "default":
        origin = "what the broker implies"
    return f"Tried {setting} {shown_url(url)} (origin: {origin})."
