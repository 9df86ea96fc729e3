"""An environment for each task queue, made when it is first needed: their requirements exclude each other."""

import subprocess
import sys
from pathlib import Path

from benchmarks.peers.suites import Suite

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".venv-peers"


class NotInstallableError(Exception):
    """A queue can't be installed here; says why."""


def python_of(suite: Suite, name: str) -> Path:
    """Return the interpreter of a queue's environment, made when it is missing; aiotask's is the running one.

    Raises:
        NotInstallableError: The table says so instead of failing.
    """
    environment = suite.environment(name)
    if environment is None:
        return Path(sys.executable)
    requirements = suite.requirements[name]
    folder = CACHE / environment
    stamp, wanted = folder / "installed", "\n".join(requirements)
    python = folder / "bin" / "python"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements])
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
