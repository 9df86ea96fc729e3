"""Commands and scripts as bytes."""

import hashlib

import pytest

from aiotask.connections.redis.commands import Script, pack_command


def test_command_is_packed_as_the_protocol_says() -> None:
    assert pack_command(("SET", b"k\xff", 1, 1.5)) == b"*4\r\n$3\r\nSET\r\n$2\r\nk\xff\r\n$1\r\n1\r\n$3\r\n1.5\r\n"


@pytest.mark.parametrize("word", [None, True, [], object()])
def test_command_refuses_what_is_no_word(word: object) -> None:
    with pytest.raises(TypeError, match="str, int, float or bytes"):
        pack_command(("SET", word))  # type: ignore[arg-type]


def test_script_is_called_by_the_hash_that_the_server_would_give_it() -> None:
    script = Script("return ARGV[1]", "echo")
    assert script.sha == hashlib.sha1(b"return ARGV[1]").hexdigest()
    assert repr(script) == "Script(echo)"
    call = script(["key"], ["value", 2])
    assert call.packed(whole=False) == pack_command(("EVALSHA", script.sha, 1, "key", "value", 2))
    assert call.packed(whole=True) == pack_command(("EVAL", "return ARGV[1]", 1, "key", "value", 2))
