"""Lists every setting for people: for docs/settings.md and the command line."""

from typing import NamedTuple

from aiotask.settings.catalogue import Settings
from aiotask.settings.checked import Setting


class SettingRow(NamedTuple):
    """What there is to know of one setting."""

    name: str
    kind: str
    """What it takes, and in which unit."""
    default: str
    meaning: str
    available: bool
    """False when this version takes its default only."""


def describe() -> list[SettingRow]:
    """Return a row for every setting, in the order of the catalogue."""
    return [
        SettingRow(name, setting.kind.name, _default(setting), setting.meaning, setting.available)
        for name, setting in Settings.catalogue().items()
    ]


def as_markdown() -> str:
    """Return the tables of docs/settings.md: the settings that can be set, then those that can't be yet."""
    rows = describe()
    lines = ["## Settings", "", "| setting | takes | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{row.name}` | {row.kind} | `{row.default}` | {row.meaning} |" for row in rows if row.available]
    lines += [
        "",
        "## Not available yet",
        "",
        "Their names are fixed, but this version can't do what they say: any value but the default is an error.",
        "",
        "| setting | default | meaning |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{row.name}` | `{row.default}` | {row.meaning} |" for row in rows if not row.available]
    return "\n".join(lines) + "\n"


def _default(setting: Setting[object, object]) -> str:
    if isinstance(setting.default, float):
        return f"{setting.default:g} s"
    return setting.kind.show(setting.default)
