"""Results in Redis, in Celery's own layout: `backend.py` stores and reads, `watching.py` follows."""

from aiotask.results.redis.backend import RedisBackend

__all__ = ["RedisBackend"]
