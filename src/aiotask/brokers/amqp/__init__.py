"""The broker on a RabbitMQ server."""

from aiotask.brokers.amqp.broker import AmqpBroker

__all__ = ["AmqpBroker"]
