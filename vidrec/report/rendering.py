"""Render a page as HTML from its data, with the templates of this package."""

import functools
from typing import Any

import jinja2

from vidrec.io import escape
from vidrec.report.blocks import Page


def _visible(value: Any) -> Any:
    """Return the value for a template: markup unchanged, text without control characters."""
    if hasattr(value, "__html__"):
        return value
    return "" if value is None else escape.visible(value, keep="\n\t")


@functools.cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("vidrec.report"),
        autoescape=True,
        finalize=_visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(page: Page) -> str:
    """Return the page as one HTML file that loads nothing from other hosts."""
    sections = [section for section in page.sections if section.blocks]
    return _templates().get_template("page.html").render(page=page, sections=sections)
