"""What the blog does in the background. Run a worker with `aiotask run blog.tasks`, or embed one (embedded.py)."""

import asyncio
import logging
import sqlite3

from aiotask import AioTask
from blog import spam, storage
from blog.storage import Status

logger = logging.getLogger(__name__)

# Messages and results are in sqlite:///aiotask.db, durable and without a server, or where AIOTASK_BROKER_URL says.
app = AioTask("blog")


# acks_late: the message is removed when the verdict is stored, not when the task starts. A worker that is killed in
# between loses no comment: another worker gets the message when the dead one's lease ends (`worker_lease`, 20 s). A
# comment may be judged twice that way, which is why `storage.decide` lets the first verdict stand.
@app.task(acks_late=True, autoretry_for=(sqlite3.OperationalError,), retry_backoff=True)
def spam_filter(comment_id: int) -> Status | None:
    """Judge a comment and store the verdict; None when it was deleted meanwhile.

    It takes the id, not the comment: the database has the comment as it is now, and the message stays small. A plain
    function, since sqlite3 blocks: it runs in a thread.
    """
    comment = storage.find(comment_id)
    if comment is None:
        return None
    verdict = Status.SPAM if spam.is_spam(comment) else Status.APPROVED
    logger.info("Comment %d is to be %s", comment_id, verdict)
    storage.decide(comment_id, verdict)
    return verdict


@app.task
async def recheck_pending() -> int:
    """Send again every comment without a verdict; return how many. `aiotask call blog.tasks.recheck_pending --wait`.

    For the web process that was killed after its commit and before its `delay`. Those that are waiting in the queue as
    well are judged twice, to no effect.
    """
    comments = await asyncio.to_thread(storage.pending)
    await spam_filter.send_many([(comment_id,) for comment_id in comments])
    return len(comments)
