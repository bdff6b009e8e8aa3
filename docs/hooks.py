"""What mkdocs.yml cannot say: the site's address, and pages that do not lie in docs/.

The pages link to each other as on GitHub, by paths in the repository. Here those of the root are
pages as well, and what is none leads to the repository.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
SOURCES = {page: source for source, page in PAGES.items()}


def on_config(config: MkDocsConfig) -> None:
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]
    config.site_url = urls["Documentation"]
    config.repo_url = urls["Repository"]
    config.repo_name = "Source"


def on_files(files: Files, config: MkDocsConfig) -> None:
    for source, page in PAGES.items():
        content = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=content))


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def lead(link: re.Match[str]) -> str:
        path, anchor = re.fullmatch("([^#]*)(.*)", link[1], re.DOTALL).groups()
        there = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if there in PAGES:
            return f"]({PAGES[there]}{anchor})"
        if there.startswith("docs/"):
            return f"]({there.removeprefix('docs/')}{anchor})"
        if (ROOT / there).exists():
            return f"]({config.repo_url}/blob/HEAD/{there}{anchor})"
        return link[0]  # it leads nowhere, as mkdocs will say

    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", lead, markdown)
