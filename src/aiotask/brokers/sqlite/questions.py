"""Commands to nodes, and their answers, as rows. Steps for the storage thread.

A question is of use for as long as who has asked it waits, who then removes it. What that could not remove, since it
was killed, is removed a minute later with the next question, or by a node that says that it still listens.
"""

from collections.abc import Sequence
from sqlite3 import Connection
from typing import NamedTuple

from aiotask.connections.sqlite.database import NOW
from aiotask.connections.sqlite.rows import to_json

NODE_LEASE_S = 180.0
"""How long a node is believed to listen that does not say so: nearly three chores of the storage thread."""

_ABANDONED_S = 60.0
"""So long after its time a question is nobody's: who has asked it would have taken its answers."""

_NODE = f"""
INSERT INTO aiotask_nodes (listener, node, until) VALUES (?, ?, {NOW} + {NODE_LEASE_S})
ON CONFLICT (listener) DO UPDATE SET until = excluded.until
"""  # noqa: S608 - the time is an expression of ours
_FORGET_NODES = f"DELETE FROM aiotask_nodes WHERE until <= {NOW}"  # noqa: S608
_LEAVE = "DELETE FROM aiotask_nodes WHERE listener = ?"
_LAST = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'aiotask_questions'"
_NEW = f"""
SELECT question, command, arguments FROM aiotask_questions
WHERE question > ?1 AND until > {NOW}
    AND (destination IS NULL OR EXISTS (SELECT 1 FROM json_each(destination) WHERE value = ?2))
ORDER BY question
"""  # noqa: S608
_ASK = f"""
INSERT INTO aiotask_questions (command, arguments, destination, until) VALUES (?, ?, ?, {NOW} + ?)
"""  # noqa: S608
_FORGET_ANSWERS = f"""
DELETE FROM aiotask_answers
WHERE question IN (SELECT question FROM aiotask_questions WHERE until <= {NOW} - {_ABANDONED_S})
"""  # noqa: S608
_FORGET_QUESTIONS = f"DELETE FROM aiotask_questions WHERE until <= {NOW} - {_ABANDONED_S}"  # noqa: S608
_ASKED = f"""
SELECT listener FROM aiotask_nodes
WHERE until > {NOW} AND (?1 IS NULL OR node IN (SELECT value FROM json_each(?1)))
"""  # noqa: S608
_ANSWER = """
INSERT OR IGNORE INTO aiotask_answers (question, listener, node, answer)
SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM aiotask_questions WHERE question = ?1)
"""
_HAVE_ANSWERED = "SELECT listener FROM aiotask_answers WHERE question = ?"
_ANSWERS = "SELECT node, answer FROM aiotask_answers WHERE question = ?"
_END_ANSWERS = "DELETE FROM aiotask_answers WHERE question = ?"
_END_QUESTION = "DELETE FROM aiotask_questions WHERE question = ?"


class Question(NamedTuple):
    """What is asked."""

    number: int
    command: str
    arguments: bytes


class Asked(NamedTuple):
    """A question that was asked, and the listeners that are known to hear it."""

    number: int
    listeners: frozenset[str]


def listen(connection: Connection, listener: str, node: str) -> int:
    """Let `listener` count as `node`; return the number of the last question, which is not for it any more."""
    connection.execute(_NODE, (listener, node))
    _tidy(connection)
    (last,) = connection.execute(_LAST).fetchone()
    return int(last)


def leave(connection: Connection, listener: str) -> None:
    """Let `listener` count no more."""
    connection.execute(_LEAVE, (listener,))


def new(connection: Connection, node: str, after: int) -> list[Question]:
    """Return the questions for `node` after the one of that number. Only reads."""
    return [Question(*row) for row in connection.execute(_NEW, (after, node))]


def ask(
    connection: Connection, command: str, arguments: bytes, destination: Sequence[str] | None, seconds: float
) -> Asked:
    """Ask; remove what nobody waits for any more."""
    _tidy(connection)
    named = None if destination is None else to_json(destination)
    number = connection.execute(_ASK, (command, arguments, named, seconds)).lastrowid or 0
    return Asked(number, frozenset(listener for (listener,) in connection.execute(_ASKED, (named,))))


def _tidy(connection: Connection) -> None:
    for forget in (_FORGET_ANSWERS, _FORGET_QUESTIONS, _FORGET_NODES):
        connection.execute(forget)


def answer(connection: Connection, listener: str, node: str, answers: Sequence[tuple[int, bytes]]) -> None:
    """Answer questions by their numbers, where somebody waits for it still."""
    connection.executemany(_ANSWER, [(number, listener, node, packed) for number, packed in answers])


def is_answered(connection: Connection, asked: Asked) -> bool:
    """Tell whether all that are known to hear a question have answered. Only reads."""
    return asked.listeners <= {listener for (listener,) in connection.execute(_HAVE_ANSWERED, (asked.number,))}


def end(connection: Connection, number: int) -> dict[str, bytes]:
    """Remove a question; return its answers by node name."""
    answers = dict(connection.execute(_ANSWERS, (number,)).fetchall())
    connection.execute(_END_ANSWERS, (number,))
    connection.execute(_END_QUESTION, (number,))
    return answers
