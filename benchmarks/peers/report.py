"""The measured figures as Markdown: aiotask against what it has to reach, and everybody side by side."""

from collections.abc import Callable, Sequence
from typing import Any

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

    def against(self, figure: str, names: Sequence[str], best: Callable[..., float]) -> tuple[float, str] | None:
        """Return the median of aiotask's figure divided by that of the best of `names` in its round, and that name."""
        medians = {value: name for name in names if (value := self.median(name, figure)) is not None}
        if not medians:
            return None
        winner = medians[best(medians)]
        own = self._values.get("aiotask", {}).get(figure, {})
        ratios = []
        for (number, _), value in self._values[winner][figure].items():
            beside = own.get((number, winner), own.get((number, "")))
            if beside is not None and value > 0:
                ratios.append(beside / value)
        return (median(ratios), winner) if ratios else None

    def within(self, upper: str, lower: str) -> float | None:
        """Return the median of one figure of aiotask divided by that of another."""
        own = self._values.get("aiotask", {})
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


def print_report(measured: Measured, asyncio_peers: Sequence[str]) -> None:
    """Print both tables, the versions, and every setting that is not the default one."""
    print_table(_goals(measured, asyncio_peers))
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


def _goals(measured: Measured, asyncio_peers: Sequence[str]) -> list[Figure]:
    everybody = [name for name in measured.told if name != "aiotask"]
    rows = [
        ("no-op drain, 100 at once, results", "drain_per_s", "/s", "10 x the fastest asyncio peer", asyncio_peers, max),
        ("sends, 100 concurrent callers", "sends_per_s", "/s", "5 x the fastest peer", everybody, max),
        ("sends one after the other", "one_by_one_per_s", "/s", "0.83 x bare XADD", (), max),
        ("round trip, p50", "p50_ms", "ms", "0.4 x the fastest peer", everybody, min),
        ("round trip, p99", "p99_ms", "ms", "0.4 x the fastest peer", everybody, min),
        ("2,000 tasks of 50 ms, 100 at once", "naps_s", "s", "1.08 s", everybody, min),
        ("reads of the server per task drained", "reads_per_task", "", "0.1", everybody, min),
        ("idle worker, CPU", "idle_cpu_percent", "%", "0.8 %", everybody, min),
        ("idle worker, commands that it sends", "idle_reads_per_s", "/s", "4/s", everybody, min),
        ("the same with those that its scripts run", "idle_commands_per_s", "/s", "", everybody, min),
        ("worker's memory over 100,000 tasks", "rss_growth_mib", "MiB", "1 MiB", (), min),
        ("worker's memory over 100,000 delayed tasks", "delayed_growth_mib", "MiB", "20 MiB", (), min),
        ("drain with 4 KB arguments", "large_per_s", "/s", "0.6 x the drain above", (), max),
    ]
    figures = []
    for workload, figure, unit, goal, names, best in rows:
        value = measured.median("aiotask", figure)
        if value is None:
            continue
        ratio, against = measured.against(figure, names, best) or (None, "")
        if figure == "one_by_one_per_s":
            ratio, against = measured.within(figure, "bare_per_s"), "bare XADD by redis-py"
        elif figure == "large_per_s":
            ratio, against = measured.within(figure, "drain_per_s"), "the small drain"
        figures.append(Figure(workload, value, unit, goal, ratio, against))
    return figures


def _cell(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}{unit}" if value >= 100 else f"{value:.2f}{unit}"
