"""Writes the tables of docs/settings.md anew. Run after a change of a setting: python tools/write_settings_page.py."""

from pathlib import Path

from aiotask.settings.reference import as_markdown

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
MARKER = "<!-- The rest is made by tools/write_settings_page.py -->\n"


def main() -> None:
    """Keep what stands above the marker, replace what follows."""
    written_by_hand, marker, _ = PAGE.read_text().partition(MARKER)
    PAGE.write_text(f"{written_by_hand}{marker}\n{as_markdown()}")


main()
