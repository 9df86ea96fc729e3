"""`aiotask dead`: the messages that nobody will run, and what becomes of them."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from aiotask.app import AioTask
from aiotask.cli.errors import BAD_ANSWER, DONE, CommandError, say
from aiotask.cli.options import app_options, json_option, queues_option, yes_option
from aiotask.cli.output import echo_fields, echo_json, echo_table, printable, to_json
from aiotask.cli.queues import confirm, which_queues
from aiotask.cli.session import find_app, in_session, queue_admin, shown_url
from aiotask.exceptions import SerializationError
from aiotask.message import DeadLetter, TaskMessage
from aiotask.protocols import QueueAdmin, ResultBackend
from aiotask.wire.celery import read_message
from aiotask.wire.payload import read_call

_NEWEST: Final = 100
_BATCH: Final = 1000
_DETAIL_CHARACTERS: Final = 60


@click.group()
def dead() -> None:
    """List, show, replay or drop dead letters: messages that nobody will run, kept with the reason."""


@dead.command("list")
@queues_option
@click.option("--all", "every", is_flag=True, help=f"All of them, not only the newest {_NEWEST}.")
@json_option
@app_options
def list_letters(queues: tuple[str, ...], every: bool, as_json: bool, **where: Any) -> int:
    """List dead letters, the newest first."""
    app = find_app(**where)

    async def ask() -> list[DeadLetter]:
        return await queue_admin(app).dead_letters(queues or None, limit=2**31 if every else _NEWEST)

    letters = in_session(app, ask)
    if as_json:
        echo_json([_summary(app, letter) for letter in letters])
        return DONE
    echo_table(
        ["ID", "QUEUE", "TASK", "REASON", "DIED", "DETAIL"],
        [
            (letter.id, letter.queue, _task_name(app, letter) or "?", letter.reason, _when(letter), _shortened(letter))
            for letter in letters
        ],
    )
    if not letters:
        say("There are no dead letters.")
    elif len(letters) == _NEWEST and not every:
        say(f"These are the newest {_NEWEST}; --all lists every one.")
    return DONE


@dead.command()
@click.argument("task_id", metavar="ID")
@queues_option
@json_option
@app_options
def show(task_id: str, queues: tuple[str, ...], as_json: bool, **where: Any) -> int:
    """Show the dead letters of the task ID: reason, time, and the arguments where they can be read."""
    app = find_app(**where)

    async def ask() -> list[DeadLetter]:
        letters = await queue_admin(app).find_dead([task_id])
        return [letter for letter in letters if not queues or letter.queue in queues]

    letters = in_session(app, ask)
    if not letters:
        raise _unknown(app, [task_id])
    documents = [_document(app, letter) for letter in letters]
    if as_json:
        echo_json(documents[0] if len(documents) == 1 else documents)
        return DONE
    for number, document in enumerate(documents):
        if number:
            click.echo()
        echo_fields([(name, value if isinstance(value, str) else to_json(value)) for name, value in document.items()])
    return DONE


@dead.command()
@click.argument("task_ids", nargs=-1, metavar="[ID]...")
@queues_option
@click.option("--all", "every", is_flag=True, help="Every dead letter of the broker.")
@click.option("--yes", is_flag=True, help="Taken for the sake of scripts; replaying never asks.")
@app_options
def replay(task_ids: tuple[str, ...], queues: tuple[str, ...], every: bool, yes: bool, **where: Any) -> int:
    """Put dead letters back into their queues, to be run anew, and print their ids.

    The stored state becomes PENDING first. The exit code is 1 when one is not there, or was cut and can't be replayed.
    """
    if bool(task_ids) + bool(queues) + every != 1:
        raise click.UsageError("Say which dead letters: their IDs, or -Q NAMES, or --all.")
    app = find_app(**where)

    async def put_back() -> tuple[list[str], list[DeadLetter]]:
        admin = queue_admin(app)
        if task_ids:
            return await _replay(app, admin, await admin.find_dead(task_ids))
        return await _replay_all(app, admin, queues or None)

    replayed, cut = in_session(app, put_back)
    for task_id in replayed:
        click.echo(printable(task_id))
    for letter in cut:
        say(
            f"{printable(letter.id)} can't be replayed: of its {letter.body_bytes:,} bytes only the first "
            f"{len(letter.body):,} were kept."
        )
    missing = set(task_ids) - set(replayed) - {letter.id for letter in cut}
    if missing:
        raise _unknown(app, [task_id for task_id in task_ids if task_id in missing])
    return BAD_ANSWER if cut else DONE


@dead.command("purge")
@queues_option
@click.option("--all", "every", is_flag=True, help="Every dead letter of the broker.")
@yes_option
@app_options
def purge_letters(queues: tuple[str, ...], every: bool, yes: bool, **where: Any) -> int:
    """Drop dead letters for good."""
    chosen = which_queues(queues, every)
    app = find_app(**where)
    confirm(f"Drop the dead letters of {chosen} of {shown_url(app.broker_url)}?", yes)

    async def drop() -> int:
        return await queue_admin(app).purge_dead(queues or None)

    click.echo(f"{in_session(app, drop)} dead letters dropped from {chosen}.")
    return DONE


# Replaying


async def _replay(app: AioTask, admin: QueueAdmin, letters: Iterable[DeadLetter]) -> tuple[list[str], list[DeadLetter]]:
    """Return the ids that were put back, and the letters that were cut."""
    whole: dict[str, str | None] = {}
    cut = []
    for letter in letters:
        if len(letter.body) < letter.body_bytes:
            cut.append(letter)
        else:
            whole[letter.id] = _task_name(app, letter)
    if not whole:
        return [], cut
    # First: a worker may be done with it before a later reset, which would then take the new result away.
    for backend, ids in _by_backend(app, whole):
        await backend.forget(ids)
    return await admin.replay_dead(list(whole)), cut


def _by_backend(app: AioTask, tasks: Mapping[str, str | None]) -> Iterable[tuple[ResultBackend, list[str]]]:
    """Return where the results of these ids are; a task may have a result backend of its own."""
    found: dict[int, tuple[ResultBackend, list[str]]] = {}
    for task_id, name in tasks.items():
        backend = app.backend_for(name)
        found.setdefault(id(backend), (backend, []))[1].append(task_id)
    return found.values()


async def _replay_all(
    app: AioTask, admin: QueueAdmin, queues: Sequence[str] | None
) -> tuple[list[str], list[DeadLetter]]:
    """Replay what is dead now, in batches; what dies again meanwhile is not replayed once more."""
    replayed: dict[str, None] = {}
    cut: dict[str, DeadLetter] = {}
    limit, until = _BATCH, None
    while True:
        letters = await admin.dead_letters(queues, limit)
        until = letters[0].died_at if until is None and letters else until
        fresh = [
            letter
            for letter in letters
            if letter.id not in replayed and letter.id not in cut and (until is None or letter.died_at <= until)
        ]
        back, damaged = await _replay(app, admin, fresh)
        replayed.update(dict.fromkeys(back))
        cut.update((letter.id, letter) for letter in damaged)
        if len(letters) < limit:
            return list(replayed), list(cut.values())
        if not back:
            limit *= 2  # the newest ones stay where they are: look past them


def _unknown(app: AioTask, task_ids: Sequence[str]) -> CommandError:
    ids = ", ".join(map(printable, task_ids))
    return CommandError(
        f"There is no dead letter of {ids} on {shown_url(app.broker_url)}; `aiotask dead list` lists them."
    )


# Showing


def _summary(app: AioTask, letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "task": _task_name(app, letter),
        "queue": letter.queue,
        "reason": letter.reason,
        "detail": letter.detail,
        "died_at": _when(letter),
        "bytes": letter.body_bytes,
        "content_type": letter.content_type,
        "priority": letter.priority,
        "replayable": len(letter.body) == letter.body_bytes,
    }


def _document(app: AioTask, letter: DeadLetter) -> dict[str, Any]:
    document = _summary(app, letter)
    try:
        message = _decoded(app, letter)
        args, kwargs = _arguments(app, message)
    except SerializationError as error:
        return document | {"unreadable": str(error), "body": ascii(letter.body[:200])}
    return document | {"retries": message.retries, "origin": message.origin, "args": args, "kwargs": kwargs}


def _arguments(app: AioTask, message: TaskMessage) -> tuple[Any, Any]:
    """Return what is to be shown as arguments: what the caller has given for that, else themselves."""
    args, kwargs = message.argsrepr, message.kwargsrepr
    if args is not None and kwargs is not None:
        return args, kwargs
    carried = read_call(message, app.conf.accept_content, app.conf.message_max_bytes)
    return carried[0] if args is None else args, carried[1] if kwargs is None else kwargs


def _task_name(app: AioTask, letter: DeadLetter) -> str | None:
    try:
        return _decoded(app, letter).task
    except SerializationError:
        return None


def _decoded(app: AioTask, letter: DeadLetter) -> TaskMessage:
    return app.codec.decode(letter.body) if letter.content_type == app.codec.content_type else read_message(letter)


def _when(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="seconds")


def _shortened(letter: DeadLetter) -> str:
    text = " ".join(letter.detail.split())
    return text if len(text) <= _DETAIL_CHARACTERS else f"{text[: _DETAIL_CHARACTERS - 3]}..."
