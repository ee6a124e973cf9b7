"""What the site is made of, without building it: each page is listed, and each public name is documented."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

import gradweight

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PUBLIC = ("func", "gan", "pinn", "capture", "plot", "optax", "optax.gan", "rule", "testing", "rules")


def listed(page: Path) -> list[str]:
    """The pages in the toctrees of a page."""
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = (line.strip() for tree in trees for line in tree.splitlines())
    pages = (line.partition("<")[2].rstrip(">") or line for line in lines if not line.startswith(":"))
    return [page for page in pages if page]


def test_each_page_is_listed_once_and_each_listed_page_is_there() -> None:
    """A page of its own goes into a toctree of docs/index.md, by what a user would look for."""
    pages = {page: str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*.md")}
    entries = [str((page.parent / name).relative_to(DOCS)) for page in pages for name in listed(page)]
    assert sorted([*entries, "index"]) == sorted(pages.values())


def test_each_public_name_is_in_the_reference() -> None:
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    documented = set(re.findall(r"^\.\. auto\w+:: (\S+)", text, flags=re.MULTILINE))
    whole = {name.removeprefix("gradweight.") for name in documented}
    classes = {name for name in gradweight.__all__ if name[0].isupper() and name not in ("Rule", "StatefulRule")}
    assert classes - {"CoordinateRule"} <= whole  # the three kinds of rules are in `gradweight.rule`
    assert set(PUBLIC) - {"rules"} <= whole
    assert "<!-- site: reference of the rules -->" in (DOCS / "api" / "rules.md").read_text()


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("_site.sources")
    sys.modules.pop("_site.sources", None)


def test_the_reference_of_the_rules_has_each_of_them(sources) -> None:
    written = re.findall(r"^\.\. auto(?:class|function):: (\w+)$", sources.reference(), flags=re.MULTILINE)
    assert sorted(written) == sorted(gradweight.rules.__all__)
    papers = sources.papers()
    assert "[arXiv:2202.01017](https://arxiv.org/abs/2202.01017), Algorithm 1." in papers
    assert set(re.findall(r"<gradweight\.rules\.(\w+)>", papers)) == set(written) - {"from_torchjd"}


def test_links_out_of_the_docs_lead_to_pages_or_are_text(sources) -> None:
    def turned(text: str, folder: str = "") -> str:
        return sources.LINK.sub(lambda found: sources.link(found, folder), text)

    assert turned("[add](../CONTRIBUTING.md#add-a-rule)") == "[add](contributing.md#add-a-rule)"
    assert turned("[add](../../CONTRIBUTING.md)", "api") == "[add](../contributing.md)"
    assert turned("[code](../benchmarks/x.py), [guide](guide.md)") == "code, [guide](guide.md)"
    assert turned("![picture](../benchmarks/results/x.png)") == "![picture](../benchmarks/results/x.png)"


def test_pages_beside_the_readme_are_pages_of_the_site(sources) -> None:
    text = sources.beside_readme("CONTRIBUTING.md")
    assert text.startswith("# Contributing")
    assert "](docs/" not in text
    assert "](rules.md#write-your-own)" in text


def test_names_of_rules_are_links_in_running_text_only(sources) -> None:
    text = "# `Sum`\n`Sum` or `UPGrad()`, [`Sum`](x), `Sums`\n```python\n`Sum`\n```\n"
    link = "{py:obj}`Sum <gradweight.rules.Sum>` or {py:obj}`UPGrad() <gradweight.rules.UPGrad>`"
    assert sources.linked(text) == text.replace("\n`Sum` or `UPGrad()`", f"\n{link}")


def test_what_docutils_would_misread_is_escaped_outside_of_examples(sources) -> None:
    lines = [
        "|g| of ``|h|``, **options: more (m, *shape)",
        "",
        ">>> a | b",
        "|out|",
        "",
        "`x | y`, *this* and **per loss** (*a, **b, **c)",
    ]
    sources.markup(None, "", "", None, None, lines)
    assert lines == [
        r"\|g\| of ``|h|``, \**options: more (m, \*shape)",
        "",
        ">>> a | b",
        "|out|",
        "",
        r"`x | y`, *this* and **per loss** (\*a, \**b, \**c)",
    ]
