"""Measure every task queue on one Redis server, and print Markdown for docs/benchmarks.md.

`python -m benchmarks.peers [ROUNDS] [--only NAME,...] [--workload NAME,...]`
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.peers import processes
from benchmarks.peers.environments import ASYNCIO, NAMES, ROOT, NotInstallableError, python_of
from benchmarks.peers.report import Measured, print_report
from benchmarks.peers.server import Server, redis_server

COUNTS = {"drain": 2_000, "trips": 300, "one-by-one": 500, "naps": 2_000, "large": 1_000, "idle": 10, "memory": 0}
"""How many tasks (for `idle`, seconds); so few that no queue takes long."""
OWN_COUNTS = {"drain": 20_000, "one-by-one": 2_000, "large": 20_000, "idle": 20, "memory": 100_000}
"""aiotask's, where others take longer for a tenth of it, or are not asked."""
ONCE = ("idle", "memory")
"""Long, and hardly touched by what else the machine does: in the first round only, and by default of aiotask only."""
AGAIN = ("drain", "trips")
"""Short for aiotask: measured again right before every other queue, so that a ratio is of one moment."""
PATIENCE_S = 240


def main() -> int:
    """Return 1 when a measurement of aiotask failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--only", default=",".join(NAMES), help="names of task queues, with commas between")
    parser.add_argument("--workload", default="", help=f"of {', '.join(COUNTS)}; all when it is not given")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `finally`: nothing is left running
    names, workloads = arguments.only.split(","), (arguments.workload or ",".join(COUNTS)).split(",")
    if unknown := [word for word in names if word not in NAMES] + [word for word in workloads if word not in COUNTS]:
        parser.error(f"unknown: {', '.join(unknown)}. There are {', '.join(NAMES)}; and {', '.join(COUNTS)}.")

    pythons, missing = {}, {}
    for name in names:
        try:
            pythons[name] = python_of(name)
        except NotInstallableError as error:
            missing[name] = f"could not be installed: {error}"
    measured = Measured(missing)
    with redis_server() as server:
        for number in range(arguments.rounds):
            for workload in workloads:
                if number and workload in ONCE:
                    continue
                for name in _order(list(pythons), number):
                    if name == "aiotask" and workload in AGAIN and len(pythons) > 1:
                        continue
                    if name != "aiotask" and (workload == "memory" or (workload in ONCE and not arguments.workload)):
                        continue
                    if workload in AGAIN and name != "aiotask" and "aiotask" in pythons:
                        _measure(measured, server, (number, name), "aiotask", str(pythons["aiotask"]), workload)
                    _measure(measured, server, (number, ""), name, str(pythons[name]), workload)
        version = server.info("server")["redis_version"]
    print(f"Python {platform.python_version()}, Redis {version}, medians of {arguments.rounds} rounds;")
    lowest, highest = min(measured.loads), max(measured.loads)
    print(
        f"load average {lowest:.1f} to {highest:.1f} on {os.cpu_count()} cores, of which about 1.5 is the measurement\n"
    )
    print_report(measured, ASYNCIO)
    return int(any(name == "aiotask" for name, _, _ in measured.failures))


def _order(names: Sequence[str], number: int) -> list[str]:
    """Return another order for each round, so that nobody always follows the same one."""
    turned = list(names[number % len(names) :]) + list(names[: number % len(names)])
    return turned[::-1] if number % 2 else turned


def _measure(
    measured: Measured, server: Server, moment: tuple[int, str], name: str, python: str, workload: str
) -> None:
    server.call("FLUSHALL")
    count = OWN_COUNTS.get(workload, COUNTS[workload]) if name == "aiotask" else COUNTS[workload]
    print(f"round {moment[0] + 1}: {workload}, {name}", file=sys.stderr, flush=True)
    measured.loads.append(os.getloadavg()[0])
    process = subprocess.Popen(
        [python, "-m", "benchmarks.peers.measure", name, workload, str(count), str(server.port)],
        cwd=ROOT,
        env={**os.environ, "PEERS_URL": server.url, "PEERS_STARTED": os.devnull},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        errors, output = f"not done after {PATIENCE_S} s", ""
    finally:
        processes.kill(processes.belonging(processes.SESSION, process.pid))  # its worker too, were it left
        process.wait()
    if process.returncode or not output:
        reason = (errors.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
        print(errors, file=sys.stderr)
        measured.failures.append((name, workload, reason))
        return
    measured.take(moment, name, json.loads(output.splitlines()[-1]))


sys.exit(main())
