"""One file per task queue: its tasks as its documentation has them written, and how to send, run and wait.

Each is imported in that queue's own environment only, by the client that measures and by the worker that is measured.
"""
