"""What may not be used inside a process that runs bodies of `offload="process"`. Asked by the app when it connects.

In every other process nothing is refused. Set by `worker.child`.
"""

from aiotask.settings import Settings

_is_inside = False
_imports_main = False


def enter() -> None:
    """Note that this process is one that runs bodies for a worker."""
    global _is_inside  # noqa: PLW0603 - a fact about the process
    _is_inside = True


def importing_main(now: bool) -> None:
    """Note that the script of the worker's process is being imported, or that it is imported now."""
    global _imports_main  # noqa: PLW0603 - a fact about the process
    _imports_main = now


def refusal(conf: Settings) -> str | None:
    """Return why an app of these settings can't connect here, None when it can."""
    if _imports_main:
        return (
            "This script uses its app while it is imported, and it is imported once more by the process that a task "
            'with offload="process" runs in. Put what is to run once under: if __name__ == "__main__":'
        )
    urls = [url for url in (conf.broker_url, conf.result_backend) if url is not None]
    if _is_inside and any(url.startswith("memory:") for url in urls):
        return (
            f"{' and '.join(urls)}: what is in memory:// is in the worker's process alone, and a task with "
            'offload="process" runs in another. Use a broker and a result backend that both reach, such as '
            'sqlite:///aiotask.db, or offload="thread".'
        )
    return None
