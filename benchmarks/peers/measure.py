"""One workload of one queue, run in that queue's environment; prints its figures as JSON. Started by the driver."""

import asyncio
import importlib
import importlib.metadata
import json
import sys

from benchmarks.peers.server import Server
from benchmarks.peers.workloads import WORKLOADS


async def main(name: str, workload: str, count: int, port: int) -> None:
    """Measure, and print the figures with the versions and settings that they were measured with."""
    peer = importlib.import_module(f"benchmarks.peers.adapters.{name}").Adapter()
    server = Server(port)
    await peer.open()
    try:
        figures = await WORKLOADS[workload](peer, server, count)
    finally:
        await peer.close()
    versions = {distribution: importlib.metadata.version(distribution) for distribution in peer.distributions}
    told = {"figures": figures, "versions": versions, "changed": peer.changed, "command": peer.worker()}
    print(json.dumps(told), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
