"""Says why a RabbitMQ can't be used, and what to do. No I/O."""

import re
import ssl
from collections.abc import Mapping
from typing import Any, Final

from aiotask.connections.amqp.address import Address
from aiotask.connections.amqp.errors import ServerRefused

OLDEST: Final = (3, 10)
"""Delays that outlive a crash need quorum queues that hand their dead letters on safely: since 3.10."""

_BEGINNINGS: Final = (b"\x01\x00\x00", b"AMQP", b"\x15\x03")
"""Of what a server says by AMQP: a method on channel 0, or which version it wants. Or that it wants TLS: an alert."""
_SHOWN_BYTES: Final = 60
_WORDS: Final = re.compile(rb"[ -~]{4,}")
_LIMIT: Final = re.compile(rb"NOT_ALLOWED - ([ -~]*connection limit[ -~]*)")


def check_server(place: str, properties: Mapping[str, Any]) -> None:
    """See that a server can do what is needed of it.

    Raises:
        ServerRefused: It can't.
    """
    product, version = str(properties.get("product", "")), str(properties.get("version", ""))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if product == "RabbitMQ" and numbers < OLDEST:
        raise ServerRefused(
            f"RabbitMQ {place} is version {version}; it takes 3.10 or later, whose quorum queues lose no delayed "
            "message. Upgrade it."
        )


def refused(address: Address, error: BaseException, timeout_s: float, heard: bytes = b"") -> ServerRefused:
    """Return what the driver's error means.

    Args:
        address: Where to.
        error: The driver's.
        timeout_s: How long it has tried at most.
        heard: What the server has said until then.
    """
    place, name = address.masked, type(error).__name__
    said = str(error).rstrip(".")
    if heard and not heard.startswith(_BEGINNINGS):
        words = _WORDS.search(heard[:_SHOWN_BYTES])
        quoted = f" (it says {words[0].decode()!r})" if words else ""
        return ServerRefused(f"{place} answers, but not as a RabbitMQ does{quoted}. Are host and port right?")
    if isinstance(error, TimeoutError):
        return ServerRefused(
            f"RabbitMQ {place} did not answer within {timeout_s:g} s. Are host and port right, and does nothing on the "
            "way block it?"
        )
    if isinstance(error.__cause__, ssl.SSLError):
        return _no_tls(place, error.__cause__)
    if name == "AuthenticationError":
        way = address.url.query.get("auth", "plain")
        return ServerRefused(
            f"RabbitMQ {place} does not let anybody in by auth={way}. For external it takes the plugin "
            "rabbitmq_auth_mechanism_ssl and EXTERNAL among its auth_mechanisms; without auth= it is the password."
        )
    if name == "ProbableAuthenticationError" or "ACCESS_REFUSED" in said:
        return ServerRefused(
            f"RabbitMQ {place} does not accept the user or password. Check them in the URL, "
            "amqp://user:password@host/; special characters are percent-encoded. The user guest may only come from the "
            "server's own machine."
        )
    full = _LIMIT.search(heard)
    if full is not None:
        return ServerRefused(
            f"RabbitMQ {place} takes no more connections: {full[1].decode()}. End some, or raise the limit "
            "max-connections: rabbitmqctl set_vhost_limits or set_user_limits."
        )
    if name == "ConnectionNotAllowed" or ("OpenOk" in said and "Connection.Close" in said):
        return ServerRefused(
            f"RabbitMQ {place} has no virtual host {address.vhost!r}, or this user may not use it. Check the path "
            "of the URL (the virtual host / is written %2F), or make it: rabbitmqctl add_vhost and set_permissions."
        )
    if name in {"InvalidFrameError", "ProtocolSyntaxError", "IncompatibleProtocolError"}:
        return ServerRefused(f"{place} answers, but not as a RabbitMQ does. Are host and port right?")
    if "unexpectedly closed" in said or "reset" in said:
        # By TLS 1.3 a server may say only after the client's handshake that it wants a certificate, and hang up.
        by_tls = address.url.scheme == "amqps"
        wants = "ask for a certificate (?certfile= and ?keyfile=)" if by_tls else "want TLS (amqps://)"
        return ServerRefused(
            f"{place} closed the connection during the handshake. Is it a RabbitMQ, does its port {wants}, or is it "
            "just starting?"
        )
    return ServerRefused(
        f"RabbitMQ {place} can't be reached: {said or name}. Is it running, and are host and port right?"
    )


def _no_tls(place: str, error: ssl.SSLError) -> ServerRefused:
    """Return what an error of TLS means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ServerRefused(
            f"RabbitMQ {place} has a certificate that is not trusted here ({error.verify_message}). Name the authority "
            "that has signed it by ?cafile=, connect by a host that the certificate names, or give up on knowing who "
            "answers by ?no_verify_ssl=1."
        )
    if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"}:
        return ServerRefused(
            f"{place} answers, but not by TLS. Are host and port right? Without TLS it is amqp://, on another port."
        )
    return ServerRefused(
        f"RabbitMQ {place} and this machine don't agree on TLS ({error.reason}). Does the server ask for a "
        "certificate (?certfile= and ?keyfile=), or for other versions of TLS?"
    )
