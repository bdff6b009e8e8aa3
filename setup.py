"""The README as PyPI shows it: its links lead to the repository, at the tag of this version.

All else is in pyproject.toml. This runs with any Python, so that pip can tell which one is needed.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent


def stated(pattern: str, file: str) -> str:
    (found,) = re.findall(pattern, (ROOT / file).read_text("utf-8"), re.MULTILINE)
    return str(found)


repository = stated(r'^Repository = "(.+)"', "pyproject.toml")
version = stated(r'^__version__ = "(.+)"', "tfreader/__init__.py")
readme = (ROOT / "README.md").read_text("utf-8")
setup(
    long_description=re.sub(r"\]\((?!https?:|#)", f"]({repository}/blob/v{version}/", readme),
    long_description_content_type="text/markdown",
)
