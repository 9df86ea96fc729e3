"""Install dependency groups of pyproject.toml into the running interpreter; older pips lack `--group`."""

import subprocess
import sys
import tomllib
from pathlib import Path

groups = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
wanted = [requirement for name in sys.argv[1:] for requirement in groups[name]]
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
subprocess.run([*pip, *wanted], check=True)  # noqa: S603 - the words are this project's own requirements
