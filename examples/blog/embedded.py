"""The blog with its worker inside: one process, one event loop.

In the folder above this one:

    uvicorn blog.embedded:app

The worker stops with the web server, when what runs is finished. `aiotask run blog.tasks` may run beside it.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from blog import storage, tasks, web

logging.basicConfig(level=logging.INFO)  # uvicorn sets up the logging of its own lines only


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    storage.prepare()
    async with tasks.app.worker(concurrency=10):
        yield


app = FastAPI(title="A blog", lifespan=lifespan)
app.include_router(web.router)
