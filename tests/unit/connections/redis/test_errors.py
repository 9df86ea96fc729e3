"""Which errors there are on a link, and what an adapter makes of them."""

import pytest

from aiotask.connections.redis.errors import LinkClosed, LinkDown, ReplyError, ServerRefused, translated
from aiotask.connections.translating import Translating, Translation
from aiotask.exceptions import BrokerConnectionError, BrokerError, BrokerFull

ERRORS = Translation(BrokerConnectionError, BrokerError, BrokerFull)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT"),
        ("ERR unknown command 'X'", "ERR"),
        ("READONLY You can't write against a read only replica. script: 55b2, on @user_script:1.", "READONLY"),
        ("ERR Error running script (call to f_55b2): @user_script:1: @user_script: 1: -READONLY You can't", "READONLY"),
        ("ERR Error running script (call to f_55b2): @user_script:1: @user_script: 1: -OOM command not", "OOM"),
        ("ERR Error running script (call to f_55b2): @user_script:14: WRONGTYPE Operation against", "WRONGTYPE"),
        ("ERR Error running script (call to f_55b2): @user_script:14: attempt to index a nil value", "ERR"),
        ("no code at all", ""),
        ("", ""),
    ],
)
def test_code_of_a_reply_is_the_innermost(text: str, code: str) -> None:
    assert ReplyError(text).code == code


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (LinkClosed("not open"), BrokerConnectionError, "not open"),
        (LinkDown("lost", sent=True), BrokerConnectionError, "lost"),
        (ServerRefused("refused"), BrokerConnectionError, "refused"),
        (ReplyError("OOM command not allowed when used memory > 'maxmemory'."), BrokerFull, "no room.*maxmemory"),
        (ReplyError("MISCONF Errors writing to the AOF file: No space left on device"), BrokerFull, "No space left"),
        (ReplyError("READONLY You can't write against a read only replica."), BrokerConnectionError, "READONLY"),
        (ReplyError("LOADING Redis is loading the dataset in memory"), BrokerConnectionError, "LOADING"),
        (ReplyError("NOPERM this user has no permissions"), BrokerError, "ACL"),
        (ReplyError("WRONGTYPE Operation against a key"), BrokerError, "WRONGTYPE"),
    ],
)
def test_error_is_translated_and_kept_as_the_cause(error: Exception, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says) as raised, Translating("redis://:***@h/0", ERRORS, translated):
        raise error
    assert type(raised.value) is kind
    assert raised.value.__cause__ is error
    if isinstance(error, ReplyError):
        assert "redis://:***@h/0" in str(raised.value)


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), Translating("redis://h", ERRORS, translated):
        _ = 1 / 0
