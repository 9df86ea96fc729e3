"""Tasks of each kind. A worker executes them, `send.py` and `demo.py` send them; README.md says how to run it all."""

import asyncio
import os
import threading
from dataclasses import dataclass

from aiotask import AioTask, Task

# The broker and the results are in one file, sqlite:///aiotask.db, until AIOTASK_BROKER_URL names another place.
app = AioTask("quickstart")


@app.task
async def add(x: int, y: int) -> int:
    """Add two numbers. A coroutine runs on the worker's event loop, beside a hundred others."""
    return x + y


@dataclass
class Primes:
    """How many there are, and who counted them."""

    count: int
    pid: int
    thread: str


@app.task
def count_primes(below: int) -> Primes:
    """Count primes. A plain function runs in a thread, so that it may block. The caller gets a `Primes`, not a dict."""
    count = sum(all(n % divisor for divisor in range(2, int(n**0.5) + 1)) for n in range(2, below))
    return Primes(count, os.getpid(), threading.current_thread().name)


@app.task(autoretry_for=(ConnectionError,), default_retry_delay=0.3, bind=True)
async def fetch_forecast(self: Task, town: str) -> str:
    """Ask a service that hangs up on the first call. The broker keeps the retry; nobody waits for it in memory."""
    if self.request.retries == 0:
        raise ConnectionError("the service hung up")
    return f"sunny in {town}"


@app.task
async def share(cake: int, guests: int) -> float:
    """Divide a cake. Without guests it fails, and the caller gets the very `ZeroDivisionError`."""
    return cake / guests


@app.task(bind=True)
async def wash_up(self: Task, dishes: int) -> str:
    """Tell how far it is after each dish."""
    for washed in range(1, dishes + 1):
        await asyncio.sleep(0.15)
        self.update_state("PROGRESS", {"washed": washed, "of": dishes})
    return f"{dishes} dishes washed"
