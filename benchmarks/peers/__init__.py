"""aiotask on Redis beside other task queues, each in an environment of its own. `python -m benchmarks.peers`."""
