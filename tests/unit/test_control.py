"""What a program asks of the workers, where the broker can't."""

from typing import Any

import pytest

from aiotask.control import Control
from aiotask.exceptions import BrokerError


class App:
    """An app whose broker can do nothing of it."""

    broker = object()

    def __init__(self) -> None:
        self.connected = 0

    async def connect(self) -> None:
        self.connected += 1


async def test_revoke_says_so_when_the_broker_has_not_the_ability() -> None:
    app: Any = App()
    with pytest.raises(BrokerError, match="object can't revoke"):
        await Control(app).revoke("a")
    assert app.connected == 1


async def test_nothing_is_connected_when_there_is_nothing_to_revoke() -> None:
    app: Any = App()
    assert await Control(app).revoke([]) == {}
    assert app.connected == 0
