"""The measured figures as Markdown: aiotask against what it has to reach, and everybody side by side."""

from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.peers.suites import ASYNCIO, EVERYBODY, NOBODY, Suite
from benchmarks.table import Figure, median, print_table

Moment = tuple[int, str]
"""A round, and before which other queue aiotask was measured in it; an empty name elsewhere."""


class Measured:
    """What all rounds gave, by queue and figure."""

    def __init__(self, missing: dict[str, str]) -> None:
        self.missing = missing
        """Queue -> why it was not measured."""
        self.failures: list[tuple[str, str, str]] = []
        """Queue, workload, reason."""
        self.loads: list[float] = []
        """The machine's load average before each measurement: what else ran."""
        self.told: dict[str, Any] = {}
        """Queue -> versions, changed settings, command."""
        self._values: dict[str, dict[str, dict[Moment, float]]] = {}

    def take(self, moment: Moment, name: str, told: dict[str, Any]) -> None:
        """Note what one measurement printed."""
        self.told[name] = told
        for figure, value in told["figures"].items():
            self._values.setdefault(name, {}).setdefault(figure, {})[moment] = value

    def median(self, name: str, figure: str) -> float | None:
        """Return the median of all measurements; None when there is none."""
        values = self._values.get(name, {}).get(figure)
        return median(list(values.values())) if values else None

    def against(
        self, own_name: str, figure: str, names: Sequence[str], best: Callable[..., float]
    ) -> tuple[float, str] | None:
        """Return the median of our figure divided by that of the best of `names` in its round, and that name."""
        medians = {value: name for name in names if (value := self.median(name, figure)) is not None}
        if not medians:
            return None
        winner = medians[best(medians)]
        own = self._values.get(own_name, {}).get(figure, {})
        ratios = []
        for (number, _), value in self._values[winner][figure].items():
            beside = own.get((number, winner), own.get((number, "")))
            if beside is not None and value > 0:
                ratios.append(beside / value)
        return (median(ratios), winner) if ratios else None

    def within(self, own_name: str, upper: str, lower: str) -> float | None:
        """Return the median of one figure of ours divided by that of another."""
        own = self._values.get(own_name, {})
        if upper not in own or lower not in own:
            return None
        ratios = []
        for moment, value in own[upper].items():
            of_round = [below for at, below in own[lower].items() if at[0] == moment[0]]
            if of_round:
                ratios.append(value / median(of_round))
        return median(ratios) if ratios else None


COLUMNS = (
    ("drain", "drain_per_s", "/s"),
    ("sends by 100", "sends_per_s", "/s"),
    ("sends in turn", "one_by_one_per_s", "/s"),
    ("trip p50", "p50_ms", " ms"),
    ("trip p99", "p99_ms", " ms"),
    ("2,000 naps", "naps_s", " s"),
    ("4 KB drain", "large_per_s", "/s"),
    ("reads/task", "reads_per_task", ""),
    ("idle CPU", "idle_cpu_percent", " %"),
    ("idle commands", "idle_reads_per_s", "/s"),
)


def print_report(measured: Measured, suite: Suite) -> None:
    """Print both tables, the versions, and every setting that is not the default one."""
    print_table(_goals(measured, suite))
    print()
    columns = [column for column in COLUMNS if any(measured.median(name, column[1]) for name in measured.told)]
    print("|  | " + " | ".join(title for title, _, _ in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in measured.told:
        cells = [_cell(measured.median(name, figure), unit) for _, figure, unit in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")
    for name, reason in measured.missing.items():
        print(f"| {name} | {reason} |" + " |" * (len(columns) - 1))
    print()
    for name, told in measured.told.items():
        versions = ", ".join(f"{which} {version}" for which, version in told["versions"].items())
        print(f"- {name}: {versions}; changed from the default: {', '.join(told['changed'])}")
    for name, workload, reason in measured.failures:
        print(f"- failed: {workload} of {name}: {reason}")


def _goals(measured: Measured, suite: Suite) -> list[Figure]:
    others = [name for name in measured.told if name in suite.requirements]
    sets = {ASYNCIO: suite.asyncio, EVERYBODY: others, NOBODY: ()}
    figures = []
    for goal in suite.goals:
        for own in suite.own:
            value = measured.median(own, goal.figure)
            if value is None:
                continue
            if goal.called:
                ratio, against = measured.within(own, goal.figure, goal.against), goal.called
            else:
                names = sets.get(goal.against, (goal.against,))
                best = min if goal.least else max
                ratio, against = measured.against(own, goal.figure, names, best) or (None, "")
            workload = goal.workload if len(suite.own) == 1 else f"{own}: {goal.workload}"
            figures.append(Figure(workload, value, goal.unit, goal.goal, ratio, against))
    return figures


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.2f}{unit}"
