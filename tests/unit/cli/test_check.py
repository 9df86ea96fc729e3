import pytest
from click.testing import CliRunner

from aiotask import AioTask, BrokerConnectionError
from aiotask.cli import check, session


def test_check_tells_an_error_on_one_line_without_passwords_when_the_broker_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(app: AioTask) -> None:
        raise BrokerConnectionError(
            "redis://me:hidden@host/0 refuses\nTried broker_url redis://me:hidden@host/0 (...)."
        )

    monkeypatch.setattr(session, "default_app", lambda _app_dir: AioTask("x", broker="memory://"))
    monkeypatch.setattr(check, "check_connections", refuse)

    ended = CliRunner().invoke(check.check, standalone_mode=False)

    assert ended.return_value == 69
    assert "\nerror: redis://me:***@host/0 refuses Tried broker_url redis://me:***@host/0 (...).\n" in ended.stdout
