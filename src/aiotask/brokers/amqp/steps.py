"""Steps on a channel of their own, each: the server answers what it does not like by closing the channel."""

from collections.abc import Awaitable, Callable

from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError

ABSENT = 404
LOCKED = 405
OTHERWISE = 406


async def on_a_channel(link: AmqpLink, step: Callable[[AmqpChannel], Awaitable[object]]) -> None:
    """Take one step, over a connection that is waited for.

    Raises:
        ChannelError, LinkDown: It can't be.
    """
    channel = await link.channel(wait=link.command_timeout_s)
    try:
        await step(channel)
    finally:
        await channel.close()


async def is_there(link: AmqpLink, *, queue: str = "", exchange: str = "") -> bool:
    """Tell whether there is such a queue, or such an exchange, of whatever type."""
    try:
        if queue:
            await on_a_channel(link, lambda channel: channel.declare_queue(queue, passive=True))
        else:
            await on_a_channel(link, lambda channel: channel.declare_exchange(exchange, "topic", passive=True))
    except ChannelError as error:
        if error.code != ABSENT:
            raise
        return False
    return True
