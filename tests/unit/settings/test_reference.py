"""The list of settings for people, and the page that is made from it."""

import re
from pathlib import Path

import pytest

from aiotask.exceptions import ImproperlyConfigured
from aiotask.settings import NOT_YET, Settings, load_settings
from aiotask.settings.reference import SettingRow, as_markdown, describe

PAGE = Path(__file__).parents[3] / "docs" / "settings.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert found
    return found[1]


def test_describe_has_a_row_for_every_setting() -> None:
    rows = describe()
    assert [row.name for row in rows] == list(Settings.catalogue())
    assert {row.name for row in rows if not row.available} == NOT_YET
    assert (
        SettingRow(
            "worker_lease_renewal",
            "duration, more than 0",
            "5 s",
            "How often a worker renews its leases; less than `worker_lease`.",
            True,
        )
        in rows
    )


@pytest.mark.parametrize("row", describe(), ids=lambda row: row.name)
def test_a_meaning_is_one_sentence_line(row: SettingRow) -> None:
    assert row.meaning.endswith(".")
    assert not {"\n", "|"} & set(row.meaning + row.kind + row.default)


def test_the_page_is_current() -> None:
    assert PAGE.read_text().endswith(f"-->\n\n{as_markdown()}"), "run: python tools/write_settings_page.py"


def test_the_pages_pyproject_example_is_valid(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(block("toml"))
    settings = load_settings(environ={}, start=tmp_path)
    assert settings.task_acks_late
    assert settings.worker_shutdown_timeout == 90.0
    assert settings.broker_transport_options == {"synchronous": "NORMAL"}


def test_the_pages_environment_example_is_valid(tmp_path: Path) -> None:
    environ = dict(line.removeprefix("export ").split("=", 1) for line in block("sh").splitlines())
    settings = load_settings(environ=environ, start=tmp_path)
    assert settings.imports == ["proj.tasks", "proj.mail"]
    assert settings.result_expires is None


def test_the_pages_messages_are_the_real_ones(tmp_path: Path) -> None:
    said = []
    for sources in ({"environ": {"AIOTASK_WORKER_CONCURENCY": "50"}}, {"arguments": {"worker_concurrency": 0}}):
        with pytest.raises(ImproperlyConfigured) as raised:
            load_settings(**{"environ": {}, "start": tmp_path, **sources})
        said.append(str(raised.value))
    assert block("text").splitlines() == said
