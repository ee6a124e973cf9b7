"""A deprecation is shown without being asked for, once a place, and points at the user's line."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
from gradweight.contract.deprecation import warn_deprecated
def old():
    warn_deprecated("opt.old()", "opt.new()", "0.4")
for _ in range(2):
    old()  # line 6
"""


def test_shown_by_default_and_at_the_callers_line():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    shown = [line for line in done.stderr.splitlines() if "FutureWarning" in line]
    assert shown == ["<string>:6: FutureWarning: opt.old() goes with gradweight 0.4; write opt.new()"]
