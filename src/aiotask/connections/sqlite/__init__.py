"""The link to one SQLite file that a broker and a result backend share."""

from aiotask.connections.sqlite.link import SqliteLink

__all__ = ["SqliteLink"]
