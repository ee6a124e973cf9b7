"""What rules claim, as the tables of the documentation."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ._claim import Claims

__all__ = ["tables", "write_tables"]


def tables(groups: Mapping[str, Sequence[Claims]]) -> str:
    """The claims as Markdown tables, one for each group, as they stand in the documentation."""
    columns: dict[str, Callable[[Claims], str]] = {
        "rule": lambda c: f"`{c.name}`",
        "for": lambda c: c.use,
        "computed from": lambda c: c.kind,
        "no conflict": lambda c: _mark(c.non_conflicting),
        "step is as long as": lambda c: _growth(c.degree),
        "ignores scale of a loss": lambda c: _mark(c.invariant_to_loss_scale),
        "ignores order": lambda c: _mark(c.permutation_equivariant),
        "stops only at Pareto points": lambda c: _mark(c.vanishes_only_where_stationary),
        "linear": lambda c: _mark(c.linear_under_scaling),
        "differentiable": lambda c: _mark(c.differentiable),
        "losses": lambda c: f"{c.losses[0]} to {c.losses[1]}",
    }
    head = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    parts = []
    for group, members in groups.items():
        rows = ["| " + " | ".join(column(claims) for column in columns.values()) + " |" for claims in members]
        parts.append("\n".join([f"### {group}", "", *head, *rows]))
    return "\n\n".join(parts)


def _growth(degree: float | None) -> str:
    if degree is None:
        return ""
    return {0.0: "always", 1.0: "the gradients"}.get(degree, f"the gradients to the {degree:.2g}")


def _mark(claimed: bool) -> str:
    return "yes" if claimed else ""


def write_tables(page: Path, text: str) -> None:
    """Put the tables between the marks of a Markdown page."""
    before, marked = page.read_text().split("<!-- claims:", 1)
    mark, rest = marked.split("-->", 1)
    after = rest.split("<!-- end of claims -->", 1)[1]
    page.write_text(f"{before}<!-- claims:{mark}-->\n{text}\n\n<!-- end of claims -->{after}")
