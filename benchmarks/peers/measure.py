"""One workload of one queue, run in that queue's environment; prints its figures as JSON. Started by the driver."""

import asyncio
import importlib
import importlib.metadata
import json
import sys

from benchmarks.peers.suites import SUITES
from benchmarks.peers.workloads import WORKLOADS


async def main(broker: str, name: str, workload: str, count: int, place: str) -> None:
    """Measure, and print the figures with the versions and settings that they were measured with."""
    suite = SUITES[broker]
    peer = importlib.import_module(suite.adapter(name)).Adapter()
    server = suite.connect(place)
    await peer.open()
    try:
        figures = await WORKLOADS[workload](peer, server, count)
    finally:
        await peer.close()
    versions = {distribution: importlib.metadata.version(distribution) for distribution in peer.distributions}
    told = {"figures": figures, "versions": versions, "changed": peer.changed, "command": peer.worker()}
    print(json.dumps(told), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
