"""aiotask beside other task queues on the same server, each in its own environment. `python -m benchmarks.peers`."""
