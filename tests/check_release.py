"""Check that a tag may be published, and write what is new to build/notes.md.

    python tests/check_release.py v1.2.3 https://github.com/OWNER/NAME

The version is that of tfreader/__init__.py, CHANGELOG.md dates it, and pyproject.toml's links lead
to the repository that publishes it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version() -> str:
    text = (ROOT / "tfreader" / "__init__.py").read_text("utf-8")
    (found,) = re.findall(r'^__version__ = "(.+)"', text, re.MULTILINE)
    return str(found)


def sections() -> dict[str, str]:
    """What CHANGELOG.md says of each version, by its heading."""
    _, *parts = re.split(r"^## (.*)\n", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.M)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def main(tag: str, repository: str) -> str:
    """What is new in the version. Exits with a message where it may not be published."""
    if tag != f"v{version()}":
        sys.exit(f"tag {tag}: tfreader/__init__.py has version {version()}")
    heading, news = next(iter(sections().items()))
    if not re.fullmatch(re.escape(version()) + r" \(\d{4}-\d\d-\d\d\)", heading):
        sys.exit(f"CHANGELOG.md: begins with {heading!r}, not with '{version()} (YEAR-MM-DD)'")
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    if urls["Repository"] != repository:
        sys.exit(f"pyproject.toml: [project.urls] say {urls['Repository']}, this is {repository}")
    return news.strip() + "\n"


if __name__ == "__main__":
    notes = ROOT / "build" / "notes.md"
    text = main(*sys.argv[1:])
    notes.parent.mkdir(exist_ok=True)
    notes.write_text(text, "utf-8")
