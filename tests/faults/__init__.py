"""The fault matrix: what can go wrong with storage and with models, each with the control that shows that the test can fail.

`docs/faults.md` says which test stands for which fault. With CHATAPP_LONG=1 the same tests try far more cases.
"""

from __future__ import annotations

import os

LONG = bool(os.environ.get("CHATAPP_LONG"))
