"""`aiotask result`: what is stored of a task."""

import click

from aiotask.cli.answers import await_result, tell
from aiotask.cli.options import app_options, json_option, seconds
from aiotask.cli.session import find_app, in_session
from aiotask.outcome import TaskMeta


@click.command()
@click.argument("task_id", metavar="ID")
@click.option("--wait", is_flag=True, help="Wait for the result.")
@click.option("--timeout", type=seconds, help="Wait no longer than that; without it, for ever.")
@json_option
@app_options
def result(
    task_id: str,
    wait: bool,
    timeout: float | None,
    as_json: bool,
    target: str | None,
    app_dir: str,
    broker: str | None,
    result_backend: str | None,
) -> int:
    """Print the result of the task ID.

    The exit code is 1 when the task failed, and when there is no result (yet).
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait.")
    app = find_app(target, app_dir, broker, result_backend)
    answer = app.result(task_id)

    async def ask() -> TaskMeta:
        return await await_result(answer, timeout) if wait else await answer.meta()

    return tell(in_session(app, ask), as_json=as_json)
