"""The tasks that the tests of the command line run; the broker comes from the environment."""

import asyncio
import atexit
import logging
import os
import sys
import threading
import time

from aiotask import AioTask, get_task_logger

app = AioTask("project")

atexit.register(lambda: print("atexit has run"))


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task
async def divide(x: int, y: int) -> float:
    return x / y


@app.task
async def echo(*args: object, **kwargs: object) -> list[object]:
    return [list(args), kwargs]


@app.task
async def pid() -> int:
    return os.getpid()


@app.task(ignore_result=True)
async def forget() -> None: ...


@app.task
async def log(text: str) -> None:
    logging.getLogger("project.own").info(text)


@app.task
async def log_as_a_task(text: str) -> None:
    get_task_logger("own").info(text)


@app.task
def log_in_thread(text: str) -> None:
    logging.getLogger("project.own").info(text)


@app.task(acks_late=True)
async def sleep(seconds: float) -> str:
    print("sleeping")
    await asyncio.sleep(seconds)
    return "slept"


@app.task
def never_end() -> None:
    print("never ending")
    threading.Event().wait()


@app.task
async def never_end_in_executor() -> None:
    print("never ending")
    await asyncio.to_thread(threading.Event().wait)


@app.task
async def block(seconds: float) -> None:
    print("blocking")
    time.sleep(seconds)


@app.task
async def exit_in_a_child(code: int) -> str:
    async def leave() -> None:
        sys.exit(code)

    child = asyncio.create_task(leave())
    await asyncio.sleep(0.05)
    return f"child done: {child.done()}"
