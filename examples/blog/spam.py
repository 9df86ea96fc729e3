"""Judges a comment by what it says. Local and simple: it adds up the signs of spam, no network asked."""

import re
from typing import Final

from blog.storage import Comment

_SIGNS: Final = (
    (1, re.compile(r"https?://|www\.", re.IGNORECASE)),
    (2, re.compile(r"<a\s|\[url", re.IGNORECASE)),
    (2, re.compile(r"\b(casino|viagra|crypto|jackpot|payday loan|weight loss|seo services?)\b", re.IGNORECASE)),
    (2, re.compile(r"\b(click here|buy now|act now|limited offer|100% free|earn \$?\d+)", re.IGNORECASE)),
    (1, re.compile(r"\b[A-Z]{5,}(\W+[A-Z]{3,})+")),
    (1, re.compile(r"[!?$€]{3,}")),
)
_THROWAWAY_MAIL: Final = re.compile(r"@(mailinator|guerrillamail|10minutemail)\.\w+$", re.IGNORECASE)
_LIMIT: Final = 3


def is_spam(comment: Comment) -> bool:
    """Tell whether the signs of spam weigh too much. Each place where one shows counts, so that one link is allowed."""
    said = f"{comment.author}\n{comment.text}"
    score = sum(weight * len(pattern.findall(said)) for weight, pattern in _SIGNS)
    return score + bool(_THROWAWAY_MAIL.search(comment.email)) >= _LIMIT
