"""What `mkdocs build` needs beside `mkdocs.yml`: the pages that lie at the top of the repository.

README.md and the like become pages of the site, and links from one folder into the other follow.
The Markdown of each page lies beside it, for programs that read `llms.txt`.
"""

from __future__ import annotations

import pathlib
import posixpath
import re
from typing import Dict

ROOT = pathlib.Path(__file__).resolve().parent.parent

# File of the repository -> where it is in the site.
OUTSIDE = {
    "README.md": "tour.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "LICENSE": "LICENSE.txt",
    "CITATION.cff": "CITATION.cff",
}

_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def rewrite_links(text: str, page: str) -> str:
    """Links of the repository become links of the site.

    A link to a file that the site does not have, such as a script, becomes its words.

    Args:
      text: Markdown.
      page: where it is in the site, such as `systems/panoptic_fpn.md`.
    """
    sources: Dict[str, str] = {place: name for name, place in OUTSIDE.items()}
    folder = posixpath.dirname(sources.get(page, posixpath.join("docs", page)))

    def rewritten(link: re.Match) -> str:
        mark, words, target, anchor = link.groups(default="")
        path = posixpath.normpath(posixpath.join(folder, target))
        if ":" in target or not (ROOT / path).exists():
            return link.group()
        place = path[len("docs/") :] if path.startswith("docs/") else OUTSIDE.get(path)
        if place is None:
            return words
        return (
            f"{mark}[{words}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"
        )

    return _LINK.sub(rewritten, text)


def on_files(files, config):
    """Adds the files at the top of the repository."""
    from mkdocs.structure.files import File

    for name, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrites the links of a page."""
    del config, files
    return rewrite_links(markdown, page.file.src_uri)


def on_post_page(output, page, config):
    """Writes the Markdown of a page beside it."""
    path = pathlib.Path(config.site_dir, page.file.src_uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page.markdown, encoding="utf-8")
    return output


def on_post_build(config):
    """Rewrites the links of the list of pages for programs."""
    text = (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8")
    path = pathlib.Path(config.site_dir, "llms.txt")
    path.write_text(rewrite_links(text, "llms.txt"), encoding="utf-8")
