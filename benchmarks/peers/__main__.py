"""Measure every task queue on one server, and print Markdown for docs/benchmarks.md.

`python -m benchmarks.peers [ROUNDS] [--broker redis|rabbitmq] [--only NAME,...] [--workload NAME,...]
[--queue-type quorum|classic]`
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.peers import processes
from benchmarks.peers.environments import ROOT, NotInstallableError, python_of
from benchmarks.peers.rabbitmq import QUEUE_TYPE, QUEUE_TYPES
from benchmarks.peers.report import Measured, print_report
from benchmarks.peers.suites import SUITES, Suite

PATIENCE_S = 240


def main() -> int:
    """Return 1 when a measurement of aiotask failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=3)
    parser.add_argument("--broker", choices=list(SUITES), default="redis")
    parser.add_argument("--only", default="", help="names of task queues, with commas between")
    parser.add_argument("--workload", default="", help="names of workloads, with commas between")
    parser.add_argument("--queue-type", choices=QUEUE_TYPES, help="of all queues, instead of each one's default")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through every `finally`: nothing is left running
    suite = SUITES[arguments.broker]
    kind = arguments.queue_type
    if kind and not suite.typed:
        parser.error("--queue-type is of --broker rabbitmq.")
    known = suite.typed if kind else suite.names
    names = arguments.only.split(",") if arguments.only else known
    workloads = arguments.workload.split(",") if arguments.workload else list(suite.counts)
    unknown = [word for word in names if word not in known] + [word for word in workloads if word not in suite.counts]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}. There are {', '.join(known)}; and {', '.join(suite.counts)}.")

    if kind:
        os.environ[QUEUE_TYPE] = kind

    pythons, missing = {}, {}
    for name in names:
        try:
            pythons[name] = str(python_of(suite, name))
        except NotInstallableError as error:
            missing[name] = f"could not be installed: {error}"
    measured = Measured(missing)
    with suite.start() as server:
        bench = Bench(arguments.broker, suite, server, measured, pythons)
        for number in range(arguments.rounds):
            for workload in workloads:
                if not number or workload not in suite.once:
                    bench.round(number, workload, asked=bool(arguments.workload))
        version = server.version()
    queues = f", {kind} queues" if kind else ""
    print(f"Python {platform.python_version()}, {version}{queues}, medians of {arguments.rounds} rounds;")
    lowest, highest = min(measured.loads), max(measured.loads)
    print(
        f"load average {lowest:.1f} to {highest:.1f} on {os.cpu_count()} cores, of which about 1.5 is the measurement\n"
    )
    print_report(measured, suite)
    return int(any(name in suite.own for name, _, _ in measured.failures))


class Bench:
    """Carries out the measurements of one broker, one after the other."""

    def __init__(self, broker: str, suite: Suite, server: Any, measured: Measured, pythons: dict[str, str]) -> None:
        self._broker = broker
        self._suite = suite
        self._server = server
        self._measured = measured
        self._pythons = pythons

    def round(self, number: int, workload: str, *, asked: bool) -> None:
        """Measure one workload of everybody; one that is long of others than aiotask only when it was `asked` for."""
        suite = self._suite
        others = any(name not in suite.own for name in self._pythons)
        for name in _order(list(self._pythons), number):
            own = name in suite.own
            if own and workload in suite.again and others:
                continue
            if not own and (workload == "memory" or (workload in suite.once and not asked)):
                continue
            if name in suite.ceilings and workload != "drain":
                continue
            if workload in suite.again and not own:
                for ours in suite.own:
                    if ours in self._pythons:
                        self._measure((number, name), ours, workload)
            self._measure((number, ""), name, workload)

    def _measure(self, moment: tuple[int, str], name: str, workload: str) -> None:
        suite, server, measured = self._suite, self._server, self._measured
        server.renew()
        few = suite.counts[workload]
        count = suite.own_counts.get(workload, few) if name in suite.own or name in suite.ceilings else few
        print(f"round {moment[0] + 1}: {workload}, {name}", file=sys.stderr, flush=True)
        measured.loads.append(os.getloadavg()[0])
        what = [self._broker, name, workload, str(count), server.place]
        process = subprocess.Popen(
            [self._pythons[name], "-m", "benchmarks.peers.measure", *what],
            cwd=ROOT,
            env={**os.environ, **server.environment, "PEERS_STARTED": os.devnull},
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


def _order(names: Sequence[str], number: int) -> list[str]:
    """Return another order for each round, so that nobody always follows the same one."""
    turned = list(names[number % len(names) :]) + list(names[: number % len(names)])
    return turned[::-1] if number % 2 else turned


sys.exit(main())
