"""RabbitMQ by TLS, with a certificate authority of the tests' own."""

import asyncio
import base64
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from urllib.parse import quote

import pytest
from tests.servers.rabbitmq import RabbitServer, need_rabbitmq

from aiotask import AioTask
from aiotask.exceptions import BrokerConnectionError

Run = Callable[..., "CompletedProcess[str]"]

PATIENCE_S = 20.0


def openssl(*words: str, cwd: Path) -> None:
    subprocess.run(["openssl", *words], cwd=cwd, check=True, capture_output=True)


def sign(folder: Path, name: str, extension: str) -> None:
    """Make a key, and a certificate for it that the authority has signed."""
    openssl(*f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr".split(), cwd=folder)
    (folder / "extension").write_text(extension)
    signing = f"x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extension"
    openssl(*signing.split(), "-out", f"{name}.crt", cwd=folder)


def certified(folder: Path) -> Path:
    """Make an authority, a server's certificate for 127.0.0.1 alone, and a client's."""
    folder.mkdir()
    signing_itself = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.crt"
    openssl(*signing_itself.split(), cwd=folder)
    sign(folder, "server", "subjectAltName=IP:127.0.0.1")
    sign(folder, "client", "extendedKeyUsage=clientAuth")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    need_rabbitmq()
    with RabbitServer(certified(tmp_path_factory.mktemp("tls") / "rabbit"), tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """One that asks each client for a certificate."""
    need_rabbitmq()
    strict = "ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true"
    with RabbitServer(certified(tmp_path_factory.mktemp("tls") / "rabbit"), *strict, tls=True) as server:
        yield server


def url_of(server: RabbitServer, *, host: str = "127.0.0.1", **parameters: object) -> str:
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in parameters.items())
    return f"amqps://guest:guest@{host}:{server.tls_port}/" + (f"?{query}" if query else "")


async def works(url: str) -> None:
    """Send a task and get its result, over a connection that is lost in between."""
    app = AioTask("shop", broker=url)

    @app.task(name="shop.echo")
    async def echo(value: str) -> str:
        return value

    async with app.worker():
        broker: Any = app.broker
        for value in ("x", "y" * 500_000):
            assert await (await echo.delay(value)).get(timeout=PATIENCE_S) == value
            broker.link.cut()


async def why_refused(url: str) -> str:
    with pytest.raises(BrokerConnectionError) as raised:
        await AioTask("shop", broker=url, broker_connection_timeout=3.0).connect()
    assert "guest:guest" not in str(raised.value)
    assert "guest:***@" in str(raised.value)
    return str(raised.value)


async def test_tasks_and_results_go_by_tls(server: RabbitServer) -> None:
    await works(url_of(server, cafile=server.folder / "ca.crt"))


async def test_authority_can_be_given_in_the_url_itself(server: RabbitServer) -> None:
    der = ssl.PEM_cert_to_DER_cert((server.folder / "ca.crt").read_text())
    await works(url_of(server, cadata=base64.b64encode(der).decode()))


async def test_authority_can_be_one_of_a_folder(server: RabbitServer, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes((server.folder / "ca.crt").read_bytes())
    openssl("rehash", ".", cwd=tmp_path)
    await works(url_of(server, capath=tmp_path))


async def test_certificate_is_not_looked_at_when_that_is_given_up_in_writing(server: RabbitServer) -> None:
    await works(url_of(server, no_verify_ssl=1))


async def test_certificate_of_an_authority_that_is_not_named_is_refused(server: RabbitServer) -> None:
    for url in (url_of(server), url_of(server, no_verify_ssl=0)):
        told = await why_refused(url)
        assert "certificate that is not trusted here" in told
        assert "?cafile=" in told


async def test_certificate_for_another_host_is_refused(server: RabbitServer) -> None:
    told = await why_refused(url_of(server, host="localhost", cafile=server.folder / "ca.crt"))
    assert "Hostname mismatch" in told
    assert "connect by a host that the certificate names" in told


async def test_client_shows_its_certificate_to_a_server_that_asks_for_one(strict_server: RabbitServer) -> None:
    folder = strict_server.folder
    files = {"cafile": folder / "ca.crt", "certfile": folder / "client.crt", "keyfile": folder / "client.key"}
    await works(url_of(strict_server, **files))


async def test_client_without_a_certificate_is_told_that_the_server_asks_for_one(strict_server: RabbitServer) -> None:
    told = await why_refused(url_of(strict_server, cafile=strict_server.folder / "ca.crt"))
    assert "?certfile=" in told


async def test_client_is_known_by_its_certificate_where_the_server_does_so(strict_server: RabbitServer) -> None:
    """What `rabbitmq-plugins enable rabbitmq_auth_mechanism_ssl` and two settings do."""
    strict_server.evaluate(
        'code:add_pathsz(filelib:wildcard(code:lib_dir(rabbit) ++ "/../rabbitmq_auth_mechanism_ssl*/ebin")), '
        'rabbit_registry:register(auth_mechanism, <<"EXTERNAL">>, rabbit_auth_mechanism_ssl), '
        "application:set_env(rabbit, auth_mechanisms, ['PLAIN', 'EXTERNAL']), "
        "application:set_env(rabbit, ssl_cert_login_from, common_name), "
        'rabbit_auth_backend_internal:add_user(<<"client">>, <<"of no use">>, <<"test">>).'
    )
    strict_server.allow("/", user="client")
    folder = strict_server.folder
    files = {"cafile": folder / "ca.crt", "certfile": folder / "client.crt", "keyfile": folder / "client.key"}
    await works(url_of(strict_server, **files, auth="external").replace("guest:guest@", ""))


async def test_server_that_does_not_know_clients_by_their_certificates_is_told(server: RabbitServer) -> None:
    told = await why_refused(url_of(server, cafile=server.folder / "ca.crt", auth="external"))
    assert "does not let anybody in by auth=external" in told
    assert "rabbitmq_auth_mechanism_ssl" in told


async def test_connection_without_tls_to_a_port_with_it_is_told(server: RabbitServer) -> None:
    told = await why_refused(server.url(port=server.tls_port))
    assert "does its port want TLS (amqps://)" in told


async def test_worker_takes_tasks_by_tls_from_the_command_line(
    aiotask: Run, start: Callable[..., Any], server: RabbitServer
) -> None:
    env = {"AIOTASK_BROKER_URL": url_of(server, cafile=server.folder / "ca.crt")}
    finished = await asyncio.to_thread(aiotask, "check", "tasks", **env)
    assert (finished.returncode, "can be reached" in finished.stdout) == (0, True)
    await asyncio.to_thread(start, **env)
    finished = await asyncio.to_thread(aiotask, "call", "tasks.add", "2", "3", "--wait", "--timeout", "20", **env)
    assert (finished.returncode, finished.stdout) == (0, "5\n")
    finished = await asyncio.to_thread(aiotask, "check", "tasks", AIOTASK_BROKER_URL=url_of(server))
    assert finished.returncode == 69
    assert "not trusted here" in finished.stdout
