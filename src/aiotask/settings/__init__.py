"""The settings of an app: what there are, what fits, and where each value came from.

`catalogue.py` is the table of all of them. `kinds.py` (with `amounts.py` and `fixed.py`) says what a value may be,
`checked.py` holds values and refuses what does not fit, `sources.py` gathers them, `reference.py` lists them.
"""

from aiotask.settings.catalogue import DEFAULT_BROKER_URL, NOT_YET, Settings
from aiotask.settings.sources import load_settings

__all__ = ["DEFAULT_BROKER_URL", "NOT_YET", "Settings", "load_settings"]
