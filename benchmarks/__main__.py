"""Run every benchmark, interleaved rounds, and print one table. `python -m benchmarks [ROUNDS]`."""

import asyncio
import platform
import sqlite3
import sys
import tempfile
from pathlib import Path

from benchmarks import huey_sqlite
from benchmarks.drain import bare_loop, drain
from benchmarks.sends import concurrent_sends, round_trips
from benchmarks.table import Figure, median, print_table


def main(rounds: int) -> None:
    """Measure `rounds` times each, one after the other so that a slow minute hits all, and print the medians."""
    seen: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        seen.setdefault(name, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):

            def fresh(name: str, number: int = number) -> str:
                return f"sqlite:///{folder}/{name}{number}.db"

            note("bare", asyncio.run(bare_loop()))
            note("memory", asyncio.run(drain("memory://"))[0])
            rate, sent = asyncio.run(drain(fresh("drain")))
            note("sqlite", rate)
            note("sqlite send_many", sent)
            note("huey", max(huey_sqlite.drain(Path(folder, f"huey{number}-{n}.db"), n)[0] for n in (1, 2, 4)))
            note("sends", asyncio.run(concurrent_sends(fresh("sends"))))
            times = asyncio.run(round_trips(fresh("trips")))
            note("p50", times[len(times) // 2])
            note("p99", times[len(times) * 99 // 100])
            note("memory p50", median(asyncio.run(round_trips("memory://"))))

    figure = {name: median(values) for name, values in seen.items()}
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, medians of {rounds} rounds\n")
    print_table(
        [
            Figure(
                "memory, no-op coroutines, 100 at once, results",
                figure["memory"],
                "/s",
                "40,000/s",
                figure["memory"] / figure["bare"],
                "the bare loop",
            ),
            Figure("a bare loop of the same steps", figure["bare"], "/s"),
            Figure(
                "SQLite, same",
                figure["sqlite"],
                "/s",
                "8,000/s and 5 x huey",
                figure["sqlite"] / figure["huey"],
                "huey",
            ),
            Figure("huey, SQLite, its best of 1, 2, 4 threads", figure["huey"], "/s"),
            Figure("SQLite sends, 100 concurrent callers", figure["sends"], "/s", "15,000/s"),
            Figure("SQLite sends, send_many of 2,000", figure["sqlite send_many"], "/s"),
            Figure("SQLite round trip in one process, p50", figure["p50"], "ms", "5 ms"),
            Figure("SQLite round trip in one process, p99", figure["p99"], "ms"),
            Figure("memory round trip, p50", figure["memory p50"], "ms"),
        ]
    )


main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
