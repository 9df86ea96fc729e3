from typing import Any

import pytest
from pamqp.frame import unmarshal

from aiotask.connections.amqp import Message
from aiotask.connections.amqp.frames import ack_frames, flow_frame, publish_frames


def read(data: bytes) -> list[Any]:
    """Return the frames, as the driver reads them."""
    frames = []
    while data:
        consumed, channel, frame = unmarshal(data)
        assert channel == 3
        frames.append(frame)
        data = data[consumed:]
    return frames


def test_message_is_read_by_the_driver_as_it_was_meant() -> None:
    message = Message(
        "key",
        b"body",
        "mid",
        "x/y",
        "exchange",
        correlation_id="täsk",
        app_id="aiotask",
        headers={"a": "b"},
        priority=4,
    )
    publish, header, body = read(publish_frames(3, message, 131072))
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("exchange", "key", True)
    properties = header.properties
    assert (properties.content_type, properties.correlation_id, properties.message_id) == ("x/y", "täsk", "mid")
    assert (properties.headers, properties.priority, properties.app_id) == ({"a": "b"}, 4, "aiotask")
    assert (properties.delivery_mode, header.body_size, body.value) == (2, 4, b"body")


def test_properties_of_another_program_win() -> None:
    message = Message("key", b"", "mid", "x/y", properties={"reply_to": "r", "correlation_id": "c", "delivery_mode": 1})
    _, header = read(publish_frames(3, message, 131072))
    properties = header.properties
    assert (properties.reply_to, properties.correlation_id, properties.delivery_mode) == ("r", "c", 1)
    assert (properties.message_id, properties.content_type) == ("mid", "x/y")


def test_long_body_is_cut_into_frames_that_the_server_takes() -> None:
    body = bytes(range(256)) * 40
    _, header, *parts = read(publish_frames(3, Message("key", body, "mid"), 4096))
    assert header.body_size == len(body)
    assert b"".join(part.value for part in parts) == body
    assert max(len(part.value) for part in parts) == 4096 - 8


def test_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 255"):
        publish_frames(3, Message("key", b"", "mid", correlation_id="x" * 256), 131072)


def test_acknowledgements_are_read_by_the_driver() -> None:
    frames = read(ack_frames(3, [(7, True), (9, False)]))
    assert [(frame.delivery_tag, frame.multiple) for frame in frames] == [(7, True), (9, False)]


def test_question_is_read_by_the_driver() -> None:
    [frame] = read(flow_frame(3))
    assert (frame.name, frame.active) == ("Channel.Flow", True)


def test_headers_that_no_frame_takes_are_refused() -> None:
    publish_frames(3, Message("key", b"", "mid", headers={"h": "x" * 3900}), 4096)
    with pytest.raises(ValueError, match="more than a frame takes"):
        publish_frames(3, Message("key", b"", "mid", headers={"h": "x" * 4096}), 4096)
