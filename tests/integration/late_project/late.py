"""A task that the other project does not have, of the default app."""

from aiotask import task


@task
async def greet(name: str) -> str:
    return f"Hello {name}"
