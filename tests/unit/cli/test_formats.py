import json
import sys

import pytest

from aiotask import AioTask, register_serializer
from aiotask.cli.formats import of_formats


@pytest.fixture
def app() -> AioTask:
    return AioTask("proj", broker="sqlite:////x.db")


def told(app: AioTask) -> list[tuple[str, str]]:
    return [(finding.level, finding.what) for finding in of_formats(app)]


def test_formats_are_silent_when_nothing_is_amiss(app: AioTask) -> None:
    register_serializer("tests.check", json.dumps, json.loads, content_type="application/x-tests-check")
    app.conf.update(
        accept_content=["json", "pickle", "application/x-tests-check"],
        result_accept_content=["msgpack"],
        result_serializer="msgpack",
        task_compression="gzip",
        result_compression="bz2",
    )
    app.task(name="a", serializer="pickle", compression="lzma")(print)
    app.task(name="b", serializer="tests.check")(print)
    app.task(name="c")(print)
    assert told(app) == []


def test_unknown_names_of_settings_are_errors_told_once(app: AioTask) -> None:
    app.conf.update(
        task_serializer="yaml", task_compression="brotli", result_serializer="toml", result_compression="snappy"
    )
    app.task(name="follows")(print)
    findings = told(app)
    assert [level for level, _ in findings] == ["error"] * 4
    for (_, said), start in zip(
        findings,
        (
            "the setting task_serializer: There is no serializer 'yaml'; there are ",
            "the setting result_serializer: There is no serializer 'toml'; there are ",
            "the setting task_compression: There is no compression 'brotli'; there are ",
            "the setting result_compression: There is no compression 'snappy'; there are ",
        ),
        strict=True,
    ):
        assert said.startswith(start)


def test_unknown_names_of_a_task_are_errors(app: AioTask) -> None:
    app.task(name="proj.t", serializer="jsno", compression="gzpi")(print)
    (first, serializer), (second, compression) = told(app)
    assert first == second == "error"
    assert serializer.startswith("proj.t: There is no serializer 'jsno'")
    assert compression.startswith("proj.t: There is no compression 'gzpi'")


def test_what_the_worker_would_refuse_is_an_error(app: AioTask) -> None:
    app.task(name="proj.t", serializer="pickle")(print)
    assert told(app) == [
        (
            "error",
            (
                "proj.t: what is sent as pickle is refused where it arrives, as long as accept_content allows json "
                "there as it does here; add 'pickle' if all who can write to the server are trusted"
            ),
        )
    ]


def test_results_that_nobody_here_would_read_are_an_error(app: AioTask) -> None:
    app.conf.update(result_serializer="msgpack", result_accept_content=["json"])
    [(level, said)] = told(app)
    assert level == "error"
    assert said.startswith("the setting result_serializer: what is sent as msgpack is refused where it arrives")
    assert "result_accept_content allows json" in said


@pytest.mark.parametrize("setting", ["accept_content", "result_accept_content"])
def test_accepted_name_of_nothing_is_a_warning(app: AioTask, setting: str) -> None:
    setattr(app.conf, setting, ["json", "jsno"])
    [(level, said)] = told(app)
    assert level == "warning"
    assert said.startswith(
        f"the setting {setting} accepts 'jsno', of which nothing can be read: There is no serializer"
    )


def test_missing_zstd_is_an_error_with_the_command_that_gets_it(app: AioTask, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    app.task(name="proj.t", compression="zstd")(print)
    [(level, said)] = told(app)
    assert (level, said.rpartition(": ")[2]) == ("error", 'pip install "aiotask[zstd]"')


def test_own_backend_in_memory_is_a_warning(app: AioTask) -> None:
    app.task(name="proj.t", backend="memory://")(print)
    assert told(app) == [
        (
            "warning",
            "proj.t: its result backend memory:// lives in one process alone: no caller sees a worker's results",
        )
    ]
