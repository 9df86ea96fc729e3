"""The broker in a SQLite file: durable, no server, many processes on one machine."""

from aiotask.brokers.sqlite.broker import SqliteBroker

__all__ = ["SqliteBroker"]
