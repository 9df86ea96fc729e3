"""The blog's database: comments in a SQLite file. Every function blocks, and has committed when it returns."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DATABASE = Path(os.environ.get("BLOG_DATABASE") or Path(__file__).with_name("blog.db"))

_SCHEMA = """
CREATE TABLE IF NOT EXISTS comments (
    id     INTEGER PRIMARY KEY,
    post   INTEGER NOT NULL,
    author TEXT NOT NULL,
    email  TEXT NOT NULL,
    text   TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending'
);
CREATE INDEX IF NOT EXISTS comments_by_post ON comments (post, status);
"""


class Status(StrEnum):
    """Where a comment stands. Readers see only what is approved."""

    PENDING = "pending"
    APPROVED = "approved"
    SPAM = "spam"


@dataclass(frozen=True)
class Comment:
    """One row of the table."""

    id: int
    post: int
    author: str
    email: str
    text: str
    status: Status


def prepare() -> None:
    """Make the table, when it is not there yet."""
    with _transaction() as database:
        database.executescript(_SCHEMA)


def add(post: int, author: str, email: str, text: str) -> Comment:
    """Save a new comment, which is pending."""
    with _transaction() as database:
        row = database.execute(
            "INSERT INTO comments (post, author, email, text) VALUES (?, ?, ?, ?) RETURNING *",
            (post, author, email, text),
        ).fetchone()
    return _comment(row)


def find(comment_id: int) -> Comment | None:
    """Return a comment, or None when there is none of this id."""
    with _transaction() as database:
        row = database.execute("SELECT * FROM comments WHERE id = ?", (comment_id,)).fetchone()
    return None if row is None else _comment(row)


def approved(post: int) -> list[Comment]:
    """Return a post's approved comments, oldest first."""
    with _transaction() as database:
        rows = database.execute(
            "SELECT * FROM comments WHERE post = ? AND status = ? ORDER BY id",
            (post, Status.APPROVED),
        ).fetchall()
    return [_comment(row) for row in rows]


def pending() -> list[int]:
    """Return the ids of the comments that wait for a verdict, oldest first."""
    with _transaction() as database:
        rows = database.execute("SELECT id FROM comments WHERE status = ? ORDER BY id", (Status.PENDING,)).fetchall()
    return [comment_id for (comment_id,) in rows]


def decide(comment_id: int, verdict: Status) -> None:
    """Store a verdict. The first one stands: a second run of the same task changes nothing."""
    with _transaction() as database:
        database.execute(
            "UPDATE comments SET status = ? WHERE id = ? AND status = ?", (verdict, comment_id, Status.PENDING)
        )


@contextmanager
def _transaction() -> Iterator[sqlite3.Connection]:
    # A connection per call: they are cheap, and those of sqlite3 belong to one thread.
    database = sqlite3.connect(DATABASE, timeout=10)
    try:
        with database:
            yield database
    finally:
        database.close()


def _comment(row: tuple[int, int, str, str, str, str]) -> Comment:
    return Comment(*row[:5], Status(row[5]))
