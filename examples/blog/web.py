"""The blog's pages. app.py and embedded.py serve them; they differ in where the tasks run."""

import asyncio

from fastapi import APIRouter, HTTPException, status
from pydantic import BaseModel, Field

from blog import storage
from blog.storage import Status
from blog.tasks import spam_filter

router = APIRouter()


class NewComment(BaseModel):
    """What a reader sends."""

    author: str = Field(min_length=1, max_length=80)
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)
    text: str = Field(min_length=1, max_length=10_000)


class ShownComment(BaseModel):
    """What readers see."""

    id: int
    author: str
    text: str


class CommentStatus(BaseModel):
    """Whether a comment is shown already."""

    id: int
    status: Status


@router.post("/posts/{post_id}/comments", status_code=status.HTTP_202_ACCEPTED)
async def add_comment(post_id: int, new: NewComment) -> CommentStatus:
    # Committed first, sent afterwards: a worker may be faster than this function, and has to find the comment.
    comment = await asyncio.to_thread(storage.add, post_id, new.author, new.email, new.text)
    await spam_filter.delay(comment.id)
    return CommentStatus(id=comment.id, status=comment.status)


@router.get("/posts/{post_id}/comments")
def comments(post_id: int) -> list[ShownComment]:
    return [
        ShownComment(id=comment.id, author=comment.author, text=comment.text) for comment in storage.approved(post_id)
    ]


@router.get("/comments/{comment_id}")
def comment_status(comment_id: int) -> CommentStatus:
    comment = storage.find(comment_id)
    if comment is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"There is no comment {comment_id}.")
    return CommentStatus(id=comment.id, status=comment.status)
