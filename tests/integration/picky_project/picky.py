"""Can't be imported in a child of a supervisor."""

import sys

from aiotask import task

if any("--supervisor-pipe" in argument for argument in sys.argv):
    raise RuntimeError("not in a child")


@task
async def nothing() -> None: ...
