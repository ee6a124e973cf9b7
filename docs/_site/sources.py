"""Before Sphinx reads a page: the lists of rules are written, and links out of `docs` are turned round.

The pages are Markdown that reads as well in the repository, where they link to ``../CONTRIBUTING.md`` and to files of
results and code. On the site the first is a page, and of a file that is none the name remains.
"""

import functools
import inspect
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gradweight import rules
from gradweight.rules.claims import GROUPS

ROOT = Path(__file__).parents[2]

PAGES = {
    "../CHANGELOG.md": "changelog.md",
    "../CONTRIBUTING.md": "contributing.md",
    "../README.md": "index.md",
    "../benchmarks/results/rules/fuzz.md": "rules-tables.md#degenerate-gradients",
    "../benchmarks/results/rules/many.md": "rules-tables.md#by-the-number-of-losses",
    "../benchmarks/results/rules/time.md": "rules-tables.md#eager-compiled-and-on-numpy",
}
"""Files outside of `docs` that the site has as a page, or as a part of one."""

LINK = re.compile(r"(?<!!)\[([^\]\[]+)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def link(found: re.Match[str], folder: str = "") -> str:
    """A link to a page of the site, or the text alone."""
    text, target, anchor = found[1], found[2], found[3] or ""
    outside = posixpath.normpath(posixpath.join(folder, target))
    if outside not in PAGES:
        return text
    page = PAGES[outside] + ("" if "#" in PAGES[outside] else anchor)
    return f"[{text}]({posixpath.relpath(page, folder or '.')})"


def names(group: str) -> list[str]:
    """The classes of a group of the claims, each once."""
    return list(dict.fromkeys(type(claims.rule).__name__ for claims in GROUPS[group]))


def reference() -> str:
    """Every rule's docstring, by what one would want it for."""
    listed = {name for group in GROUPS for name in names(group)}
    groups = {group: names(group) for group in GROUPS}
    groups["From another library"] = [name for name in rules.__all__ if name not in listed]
    parts = []
    for group, members in groups.items():
        parts += [f"## {group}", "```{eval-rst}", ".. currentmodule:: gradweight.rules", ""]
        for name in members:
            parts += [f".. auto{'class' if inspect.isclass(getattr(rules, name)) else 'function'}:: {name}", ""]
        parts += ["```", ""]
    return "\n".join(parts)


def papers() -> str:
    """Each rule with the source that its docstring gives."""
    parts = []
    for group in GROUPS:
        parts += [f"## {group}", "", "| rule | in one sentence | source |", "| --- | --- | --- |"]
        for name in names(group):
            text = inspect.getdoc(getattr(rules, name)) or ""
            first = " ".join(text.split("\n\n")[0].split())
            source = re.search(r"^Reference:\n((?:    .*\n|\n)*)", text + "\n", flags=re.MULTILINE)
            cells = [
                f"{{py:obj}}`{name} <gradweight.rules.{name}>`",
                first,
                " ".join(source[1].split()) if source else "",
            ]
            parts.append("| " + " | ".join(marked(cell) for cell in cells) + " |")
        parts.append("")
    return "\n".join(parts)


def marked(text: str) -> str:
    """A docstring's markup as Markdown's, in a cell of a table."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text.replace("|", "\\|"))
    return text.replace("``", "`")


def beside_readme(name: str) -> str:
    """A page that lies at the root of the repository, with its links as a page of `docs` would have them."""
    text = (ROOT / name).read_text()
    return re.sub(r"(?<=\]\()(?!https?:|#)(?:docs/)?", lambda found: "" if found[0] else "../", text)


WRITTEN: dict[str, Callable[[], str]] = {
    "<!-- site: CHANGELOG.md -->": functools.partial(beside_readme, "CHANGELOG.md"),
    "<!-- site: CONTRIBUTING.md -->": functools.partial(beside_readme, "CONTRIBUTING.md"),
    "<!-- site: papers of the rules -->": papers,
    "<!-- site: reference of the rules -->": reference,
}
"""What pages are made of when the site is built."""


EXAMPLE = re.compile(r"(^[ ]*>>>(?:.*\S.*\n?)+)", flags=re.MULTILINE)
SIGN = re.compile(r"\||(?<![\w*])(?:\*\*(?=\w)(?![\w\s'-]+\*\*(?!\w))|\*(?=\w+[,:)]))")
LITERAL = re.compile(r"(``.+?``|`[^`]+`)", flags=re.DOTALL)


def markup(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Escape bars and asterisks of formulas, outside of examples and literals: docutils has a meaning for them."""
    parts = EXAMPLE.split("\n".join(lines))
    parts[::2] = [escaped(part) for part in parts[::2]]
    lines[:] = "".join(parts).split("\n")


def escaped(text: str) -> str:
    """Bars, and the asterisks in front of ``*args`` and ``**kwargs``, for what they are."""
    parts = LITERAL.split(text)
    parts[::2] = [SIGN.sub(r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


CODE_OR_HEADING = re.compile(r"(^```.*?^```[ \t]*$|^#[^\n]*$)", flags=re.MULTILINE | re.DOTALL)
RULE = re.compile(r"(?<![\[`\w}])`(" + "|".join(rules.__all__) + r")(\(\))?`(?!`)")


def linked(text: str) -> str:
    """Names of rules in running text as links to what their docstrings say."""
    parts = CODE_OR_HEADING.split(text)
    parts[::2] = [RULE.sub(r"{py:obj}`\1\2 <gradweight.rules.\1>`", part) for part in parts[::2]]
    return "".join(parts)


def read(_app: Any, docname: str, source: list[str]) -> None:
    """What Sphinx calls with the text of each page."""
    folder = posixpath.dirname(docname)
    text = linked(source[0])
    for mark, write in WRITTEN.items():
        if mark in text:
            text = text.replace(mark, write())
    source[0] = LINK.sub(lambda found: link(found, folder), text)


def setup(app: Any) -> dict[str, bool]:
    """What Sphinx calls when it loads this."""
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", markup, priority=400)  # before napoleon
    return {"parallel_read_safe": True}
