"""A page's commands as the shell session that they are: `python tests/literal.py README.md`.

Blocks of `sh` are run as they stand, blocks of `python` as scripts, one after the other in a shell
that knows nothing of the one that started it, until one fails. What needs more than a clone, such
as Docker or a bucket, stands in blocks of `console`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Of the caller's environment: nothing of its Python, its make or what it has activated.
NOT_FRESH = re.compile(r"VIRTUAL_ENV.*|PYTHON.*|PYTEST.*|MAKE.*|MFLAGS|TFREADER.*|_TFREADER.*")


def session(text: str) -> str:
    """The script that a page is."""
    script = ["set -e\n"]
    for language, block in BLOCK.findall(text):
        if language == "sh":
            script.append(block)
        elif language == "python":
            script.append(f"python - <<'END OF SCRIPT'\n{block}END OF SCRIPT\n")
    return "".join(script)


def fresh_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not NOT_FRESH.fullmatch(key)}


def main(page: str) -> int:
    """Print each command with the seconds until then, and run it."""
    shown = f"PS4='+ {page}, ${{SECONDS}} s: '; set -x\n"  # root's shell takes no PS4 from outside
    script = shown + session(Path(page).read_text("utf-8"))
    command = ["bash", "--noprofile", "--norc", "-c", script]
    return subprocess.run(command, env=fresh_environment(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
