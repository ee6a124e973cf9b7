"""Have mypy and pyright read `right.py` and `wrong.py`: nothing in the first, every marked line of the second.

python .ci/typed/check.py [mypy] [pyright]
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
COMMANDS = {
    "mypy": [sys.executable, "-m", "mypy", "--strict"],
    # pyright as a package of the index, with its own Node
    "pyright": [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable],
}
ERROR = re.compile(r"(right|wrong)\.py:(\d+)(?::\d+)?:? (?:- )?error")


def lines_with_errors(checker: str) -> set[tuple[str, int]]:
    """The places where a checker finds an error."""
    with TemporaryDirectory() as folder:  # pyright passes over hidden ones, such as this one
        files = [shutil.copy(HERE / name, folder) for name in ("right.py", "wrong.py")]
        Path(folder, "pyrightconfig.json").write_text('{"typeCheckingMode": "standard"}')
        done = subprocess.run([*COMMANDS[checker], *files], capture_output=True, text=True)
    print(done.stdout, done.stderr)
    return {(name, int(line)) for name, line in ERROR.findall(done.stdout)}


def marked() -> set[tuple[str, int]]:
    """The places where one is to be found."""
    lines = (HERE / "wrong.py").read_text().splitlines()
    return {("wrong", number) for number, line in enumerate(lines, 1) if line.endswith("# wrong")}


if __name__ == "__main__":
    for checker in sys.argv[1:] or COMMANDS:
        found, expected = lines_with_errors(checker), marked()
        if found != expected:
            raise SystemExit(
                f"{checker}: not found {sorted(expected - found)}, found beside {sorted(found - expected)}"
            )
        print(f"{checker}: {len(found)} mistakes found, and nothing else")
