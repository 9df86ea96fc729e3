"""An environment for each task queue, made when it is first needed: their requirements exclude each other."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".venv-peers"

REQUIREMENTS = {
    "taskiq": ["taskiq", "taskiq-redis", "hiredis"],
    "streaq": ["streaq"],
    "saq": ["saq[redis,hiredis]", "typing_extensions"],
    "arq": ["arq"],
    "docket": ["pydocket", "hiredis"],
    "dramatiq": ["dramatiq[redis]", "hiredis"],
    "huey": ["huey[redis]", "hiredis"],
    "celery": ["celery[redis]", "hiredis"],
}
"""As their documentation says, and hiredis for all that use redis-py, since aiotask has it. saq imports
typing_extensions without asking for it."""
ASYNCIO = ("taskiq", "streaq", "saq", "arq", "docket")
NAMES = ("aiotask", *REQUIREMENTS)


class NotInstallableError(Exception):
    """A queue can't be installed here; says why."""


def python_of(name: str) -> Path:
    """Return the interpreter of a queue's environment, made when it is missing; aiotask's is the running one.

    Raises:
        NotInstallableError: The table says so instead of failing.
    """
    if name == "aiotask":
        return Path(sys.executable)
    folder = CACHE / name
    stamp, wanted = folder / "installed", "\n".join(REQUIREMENTS[name])
    python = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[name]])
    stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    print("+", *command, file=sys.stderr, flush=True)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired as error:
        raise NotInstallableError(f"{error}") from error
    if done.returncode:
        raise NotInstallableError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
