"""`aiotask run`: a worker process, or a supervisor of several."""

import asyncio
import logging
import os
from dataclasses import dataclass
from typing import Any, Final

import click

from aiotask import __version__
from aiotask.app import AioTask
from aiotask.cli.errors import USAGE, CommandError, report, say
from aiotask.cli.logs import LEVELS, set_up_logging
from aiotask.cli.options import FOLDER, broker_options, queues_option, seconds
from aiotask.cli.output import printable
from aiotask.cli.process import LOOPS, leave, run_worker
from aiotask.cli.session import check_connections, load_app, shown_url
from aiotask.cli.stopping import Stopping
from aiotask.cli.supervisor import Supervisor
from aiotask.options import checked_text

logger = logging.getLogger("aiotask.worker")

_NOT_YET: Final = ("--beat", "--reload")
_SHOWN_TASKS: Final = 20


@dataclass(frozen=True)
class Flags:
    """What the command line says; None where it says nothing. Durations are seconds."""

    target: str
    app_dir: str
    broker: str | None
    result_backend: str | None
    concurrency: int | None
    processes: int | None
    threads: int | None
    queues: tuple[str, ...]
    name: str | None
    log_level: str
    logfile: str | None
    log_format: str | None
    burst: bool
    max_tasks: int | None
    shutdown_timeout: float | None
    loop: str

    def of_child(self, name: str, pipe: int) -> list[str]:
        """Return the arguments of a supervisor's child."""
        given = {
            "--app-dir": self.app_dir,
            "--broker": self.broker,
            "--result-backend": self.result_backend,
            "--concurrency": self.concurrency,
            "--processes": 1,
            "--threads": self.threads,
            "--queues": ",".join(self.queues) or None,
            "--name": name,
            "--log-level": self.log_level,
            "--logfile": self.logfile,
            "--log-format": self.log_format,
            "--max-tasks": self.max_tasks,
            "--shutdown-timeout": self.shutdown_timeout,
            "--loop": self.loop,
            "--supervisor-pipe": pipe,
        }
        options = [f"{option}={value}" for option, value in given.items() if value is not None]
        return ["run", *options, *["--burst"][: self.burst], "--", self.target]


def _not_yet(_ctx: click.Context, param: click.Parameter, given: bool) -> None:
    if given:
        raise CommandError(f"{param.opts[0]} is not available in this version of aiotask yet.", USAGE)


def _unavailable(command: Any) -> Any:
    for option in _NOT_YET:
        command = click.option(option, is_flag=True, hidden=True, is_eager=True, expose_value=False, callback=_not_yet)(
            command
        )
    return command


def _node_name(_ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    try:
        return None if value is None else checked_text("the name", value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from None


@click.command()
@click.argument("target")
@click.option("-c", "--concurrency", type=click.IntRange(1), metavar="N", help="Most executions at once; 100.")
@click.option("--processes", type=click.IntRange(1), metavar="N", help="Supervise N such processes.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Most plain functions at once; as --concurrency.")
@queues_option
@click.option(
    "-n", "--name", callback=_node_name, help="The node name: `web` is web@host, its processes web-1@host and so on."
)
@click.option("-l", "--log-level", default="info", show_default=True, type=click.Choice(LEVELS, case_sensitive=False))
@click.option("--logfile", metavar="FILE", help="Append the log to FILE; else it goes to stderr.")
@click.option("--log-format", type=click.Choice(("text", "json"), case_sensitive=False))
@click.option("--burst", is_flag=True, help="Stop as soon as there is nothing to do.")
@click.option(
    "--max-tasks",
    type=click.IntRange(1),
    metavar="N",
    help="End after N executions; one of several --processes is replaced.",
)
@click.option("--shutdown-timeout", type=seconds, help="What running tasks get to finish after the first signal; 30.")
@click.option("--loop", default="auto", show_default=True, type=click.Choice(LOOPS), help="auto: uvloop if installed.")
@broker_options
@click.option("--app-dir", default=".", type=FOLDER, help="The folder that TARGET is imported from; the current one.")
@click.option("--supervisor-pipe", type=int, hidden=True)
@_unavailable
def run(supervisor_pipe: int | None, **values: Any) -> int:
    """Run a worker of the app TARGET: MODULE or MODULE:ATTRIBUTE.

    MODULE alone means its `app`, else its only AioTask, else the default app. SIGTERM or Ctrl-C lets running tasks
    finish, a second one ends the worker at once.
    """
    flags = Flags(**values)
    stopping = Stopping()
    if supervisor_pipe is not None:
        stopping.follow(supervisor_pipe)
    app = _prepare(flags)
    worker = app.worker(queues=flags.queues or None, burst=flags.burst)
    count = app.conf.worker_processes
    who = worker.hostname if count == 1 else f"{worker.hostname} in {count} processes"
    if supervisor_pipe is None:
        _introduce(app, flags, who)
    try:
        code = run_worker(app, worker, stopping, flags.loop) if count == 1 else _supervise(app, flags, count)
    except Exception as error:  # noqa: BLE001 - `main` would report it as well, but return to an interpreter that waits
        code = report(error)
    return leave(code)


def _prepare(flags: Flags) -> AioTask:
    """Import the app, lay the flags over its settings, and set up the log."""
    app = load_app(
        flags.target,
        flags.app_dir,
        imports=True,
        alone="a worker in a process of its own would wait for ever, since nobody else could send to it",
        broker_url=flags.broker,
        result_backend=flags.result_backend,
        worker_concurrency=flags.concurrency,
        worker_processes=flags.processes,
        worker_threads=flags.threads,
        worker_name=flags.name,
        worker_log_format=flags.log_format,
        worker_max_tasks=flags.max_tasks,
        worker_shutdown_timeout=flags.shutdown_timeout,
    )
    if app.conf.worker_setup_logging:
        set_up_logging(flags.log_level, as_json=app.conf.worker_log_format == "json", logfile=flags.logfile)
    return app


def _supervise(app: AioTask, flags: Flags, count: int) -> int:
    """Keep `count` worker processes; return the worst exit code of theirs.

    Raises:
        BrokerConnectionError, BackendConnectionError: A server can't be reached; nothing is started.
    """
    name, at, host = (app.conf.worker_name or "aiotask").partition("@")

    def arguments(number: int, pipe: int) -> list[str]:
        return flags.of_child(f"{name}-{number}{at}{host}", pipe)

    async def run() -> int:
        # Now, and once: children that can't reach a server would each say so, over and over.
        await check_connections(app)
        return await Supervisor(arguments, count, burst=flags.burst).run()

    return asyncio.run(run())


def _introduce(app: AioTask, flags: Flags, who: str) -> None:
    """Say which worker this is and where it gets its tasks: on stderr, or as a record where the log is JSON there."""
    names = sorted(app.tasks)
    conf = app.conf
    facts = {
        "broker": shown_url(app.broker_url),
        "results": shown_url(app.backend_url),
        "queues": ", ".join(flags.queues or conf.router.consumed),
        "tasks": ", ".join(names[:_SHOWN_TASKS])
        + (f" and {len(names) - _SHOWN_TASKS} more" * (len(names) > _SHOWN_TASKS)),
    }
    title = f"aiotask {__version__}: {who}, pid {os.getpid()}"
    if conf.worker_setup_logging and conf.worker_log_format == "json" and flags.logfile is None:
        logger.info("%s", title, extra=facts)
    else:
        say("\n".join([title, *(f"  {name:<8} {printable(text or 'none')}" for name, text in facts.items())]))
    if not names:
        logger.warning("%s has no tasks: every message would become a dead letter", flags.target)
    if app.backend_url.startswith("memory:"):
        logger.warning("Results are kept in this process alone (%s): no caller will see them", app.backend_url)
