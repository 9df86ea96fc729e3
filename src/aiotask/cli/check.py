"""`aiotask check`: whether a worker of an app would find all it needs."""

import asyncio
import sys
from collections.abc import Iterator, Sequence

import click

from aiotask.app import AioTask
from aiotask.cli.config import changed
from aiotask.cli.errors import BAD_ANSWER, DONE, UNREACHABLE
from aiotask.cli.findings import Finding, astray, facts, of_settings, of_tasks
from aiotask.cli.formats import of_formats
from aiotask.cli.options import FOLDER, broker_options, json_option
from aiotask.cli.output import echo_json, printable
from aiotask.cli.session import check_connections, load_app, shown_url
from aiotask.exceptions import BackendError, BrokerError
from aiotask.urls import mask_url


@click.command()
@click.argument("target", required=False)
@json_option
@broker_options
@click.option("--app-dir", default=".", type=FOLDER, help="The folder that TARGET is imported from; the current one.")
def check(target: str | None, as_json: bool, app_dir: str, broker: str | None, result_backend: str | None) -> int:
    """Check the app TARGET, MODULE or MODULE:ATTRIBUTE; without it, the default app.

    Imports it as a worker would, connects to its broker and result backend (which makes a SQLite file that is not there
    yet), and looks at each task. The exit code is 1 when there is an error, 3 when TARGET can't be imported, 69 when a
    server can't be reached, 78 when a setting doesn't fit.
    """
    app = load_app(target, app_dir, imports=True, broker_url=broker, result_backend=result_backend)
    urls = shown_url(app.broker_url), shown_url(app.backend_url)
    connections = _of_connections(app, *urls)
    tasks = [facts(app.tasks[name]) for name in sorted(app.tasks)]
    findings = [
        Finding("ok", f"{target} is imported" if target else "no TARGET is named, so this is the default app"),
        Finding("ok", f"the settings fit; not at their default: {', '.join(changed(app.conf)) or 'none'}"),
        *of_settings(app),
        *connections,
        *of_tasks(app, tasks),
        *of_formats(app),
        *astray(_tasks_of_the_default(app)),
    ]
    if as_json:
        echo_json({"findings": findings, "tasks": tasks, "broker": urls[0], "results": urls[1]})
    else:
        _echo(findings)
    if any(finding.level == "error" for finding in connections):
        return UNREACHABLE
    return BAD_ANSWER if any(finding.level == "error" for finding in findings) else DONE


def _of_connections(app: AioTask, broker_url: str, backend_url: str) -> list[Finding]:
    """See whether both servers can be reached; of two that can't be, the broker is named."""
    origin = app.conf.origin("result_backend")
    implied = "what the broker implies" if origin == "default" else origin
    broker = Finding("ok", f"the broker {broker_url} can be reached (origin: {app.conf.origin('broker_url')})")
    results = Finding("ok", f"the result backend {backend_url} can be reached (origin: {implied})")
    try:
        asyncio.run(check_connections(app))
    except BrokerError as error:
        return [Finding("error", _on_one_line(error))]
    except BackendError as error:
        return [broker, Finding("error", _on_one_line(error))]
    return [broker, results]


def _on_one_line(error: Exception) -> str:
    return " ".join(mask_url(word) if "://" in word else word for word in str(error).split())


def _tasks_of_the_default(app: AioTask) -> Iterator[str]:
    module = sys.modules.get("aiotask.default")  # it is only there when somebody has used it
    if module is not None and module.default_app is not app:
        yield from module.default_app.tasks


def _echo(findings: Sequence[Finding]) -> None:
    for finding in findings:
        click.echo(f"{finding.level}: {printable(finding.what)}")
    levels = [finding.level for finding in findings]
    counts = [(levels.count("error"), "error"), (levels.count("warning"), "warning")]
    said = [f"{count} {level}{'s' * (count != 1)}" for count, level in counts]
    click.echo(f"{', '.join(said)}, {levels.count('ok')} ok")
