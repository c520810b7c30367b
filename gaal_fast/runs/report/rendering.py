"""Pages as HTML. Everything is escaped but the charts, which are made here."""

from __future__ import annotations

from pathlib import Path

from gaal_fast.runs.report.page import Figure, Link, Number, Page, Range, Share

TEMPLATE = "report.html"


def render(page: Page) -> str:
    """The page as one HTML file."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def drawn(figure: Figure) -> Markup:
        return Markup(figure.svg)

    kinds = {"number": Number, "range": Range, "link": Link, "share": Share}
    for name, kind in kinds.items():
        environment.tests[name] = lambda value, kind=kind: isinstance(value, kind)
    environment.filters["drawn"] = drawn
    return environment.get_template(TEMPLATE).render(page=page)
