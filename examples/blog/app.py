"""The blog with its worker in another process.

In the folder above this one, in two terminals:

    uvicorn blog.app:app
    aiotask run blog.tasks

Comments are accepted while no worker runs, and are checked when one starts.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from blog import storage, tasks, web


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    storage.prepare()
    async with tasks.app:
        yield


app = FastAPI(title="A blog", lifespan=lifespan)
app.include_router(web.router)
