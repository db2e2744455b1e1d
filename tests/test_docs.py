"""No reference to a document, to one of its sections, or from a document to a module, leads nowhere."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

_DOCUMENT: Final = re.compile(r'\b(docs/[\w/-]+\.md)(?:, "([^"]+)")?')
"""In code: docs/status.md, or a section of one in quotes behind it."""

_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_MODULE: Final = re.compile(r"`((?:blockstore|cli|vm|daemon|store|tests|scripts)/[\w/.-]+)`")
_PUBLISHED: Final = ROOT / "docs" / "bench"
"""Results of the day on which they were measured: they speak of the tree as it was."""


def test_documents_and_sections_that_code_names_are_there() -> None:
    found = 0
    for path in _texts():
        # A reference may be broken over two lines, of which the second may be a comment's.
        text = re.sub(r"\s*\n\s*(?:# )?", " ", path.read_text())
        for name, section in _DOCUMENT.findall(text):
            found += 1
            assert (ROOT / name).is_file(), f"{path.relative_to(ROOT)} names {name}, which is not there"
            assert not section or section in _headings(ROOT / name), (
                f'{path.relative_to(ROOT)} names the section "{section}" of {name}, which has none of that name'
            )
    assert found > 20


def test_links_between_documents_lead_somewhere() -> None:
    for path in _documents():
        for target in _LINK.findall(path.read_text()):
            if "://" not in target and not target.startswith("#"):
                file = target.partition("#")[0]
                assert (path.parent / file).exists(), f"{path.relative_to(ROOT)} links to {target}, which is not there"


def test_modules_that_documents_name_are_there() -> None:
    for path in _documents():
        for name in _MODULE.findall(path.read_text()):
            is_there = any((place / name).exists() for place in (ROOT, ROOT / "blockstore"))
            assert is_there, f"{path.relative_to(ROOT)} names {name}, which is not there"


def _documents() -> list[Path]:
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return [path for path in files if not path.is_relative_to(_PUBLISHED)]


def _texts() -> Iterator[Path]:
    """The text files that are tracked, or will be."""
    listing = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listing.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".service", "") and path.is_file():
            yield path


def _headings(document: Path) -> set[str]:
    return {line.lstrip("# ") for line in document.read_text().splitlines() if line.startswith("#")}
