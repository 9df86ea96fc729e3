"""What commands print to stdout: values as JSON, and tables that align."""

import re
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]|[\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def to_json(value: Any) -> str:
    """Return `value` as one line of JSON.

    Times are ISO 8601, bytes base64, what JSON has no form for is its repr.
    """
    try:
        encoded = msgspec.json.encode(value, enc_hook=_foreign)
    except (TypeError, ValueError, RecursionError):
        encoded = msgspec.json.encode(ascii(value))
    return msgspec.json.format(encoded, indent=0).decode()


def from_words(text: str) -> Any:
    """Return an argument of the command line: JSON where it parses as JSON, else text."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


def printable(text: str) -> str:
    """Return `text` on one line, escaped where it could move the cursor: a message may come from anybody."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def echo_json(value: Any) -> None:
    """Print a document."""
    click.echo(to_json(value))


def echo_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their headers; columns of numbers are aligned to the right."""
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *texts, strict=True)]
    right = [bool(rows) and all(isinstance(row[index], int) for row in rows) for index in range(len(headers))]
    for line in (headers, *texts):
        cells = (
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(line, widths, right, strict=True)
        )
        click.echo("  ".join(cells).rstrip())


def echo_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print names and values, one pair per line."""
    width = max(len(name) for name, _ in fields)
    for name, value in fields:
        click.echo(f"{name.ljust(width)}  {printable(str(value))}".rstrip())


def _foreign(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # Pydantic, without importing it
    return dump(mode="json") if dump is not None else repr(value)
