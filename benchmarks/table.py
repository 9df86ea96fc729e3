"""A figure, and a plain table of them."""

from dataclasses import dataclass


@dataclass
class Figure:
    """One workload's figure. `against` names what `ratio` compares it with in the same run."""

    workload: str
    value: float
    unit: str
    goal: str = ""
    ratio: float | None = None
    against: str = ""

    def cells(self) -> tuple[str, ...]:
        value = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.2f}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f} x {self.against}"
        return self.workload, f"{value} {self.unit}", self.goal, ratio


def print_table(figures: list[Figure]) -> None:
    """Print the figures as Markdown, so that the output can stand in the docs as it is."""
    rows = [("workload", "measured", "to reach", "in the same run"), *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for number, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def median(values: list[float]) -> float:
    """Return the median; these machines are shared, so the middle of several rounds is what carries over."""
    return sorted(values)[len(values) // 2]
