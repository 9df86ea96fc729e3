"""The memory drain of this tree beside that of an earlier commit. `python -m benchmarks.against COMMIT [ROUNDS]`.

Both run the same program, in processes of their own, one after the other in each round, in alternating order.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.table import median

HERE = Path(__file__).parents[1]
ONE_DRAIN = "import asyncio; from benchmarks.drain import drain; print(asyncio.run(drain('memory://', 40_000))[0])"


def main(commit: str, rounds: int) -> None:
    """Print both medians and the median of the rounds' ratios."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder, "before")
        _git("worktree", "add", "--quiet", "--detach", str(before), commit)
        try:
            rates: dict[Path, list[float]] = {before: [], HERE: []}
            for number in range(rounds):
                for tree in (before, HERE) if number % 2 else (HERE, before):
                    rates[tree].append(_drain(tree))
        finally:
            _git("worktree", "remove", "--force", str(before))
    ratios = [after / earlier for after, earlier in zip(rates[HERE], rates[before], strict=True)]
    then, now = median(rates[before]), median(rates[HERE])
    print(f"memory drain, {rounds} rounds: {commit} {then:,.0f}/s, this tree {now:,.0f}/s")
    print(f"ratio {median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})")


def _drain(tree: Path) -> float:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tree / "src"), str(HERE)))}
    done = subprocess.run(
        [sys.executable, "-c", ONE_DRAIN], cwd="/", env=environment, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=HERE, check=True)


main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 7)
