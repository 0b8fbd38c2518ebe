"""The one page builder: parts of a page, and the page as one file with its style, script, charts and images inside.

The parts are macros of `templates/parts.html`, which escape every text. A chart is a plotly figure as JSON;
`templates/page.js` draws it when it comes into view, in the colours of the reader's light or dark theme.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from drawstream.samplers.files import write_atomically
from drawstream.tools.report.gallery import Picture

__all__ = ["chart", "code", "document", "folded", "gallery", "heading", "panels", "paragraph", "section", "table"]
__all__ += ["template", "write_page"]


def paragraph(text: str, /, *, kind: str = "") -> str:
    """Return a paragraph; `kind` is a class of the style sheet: "soft", "verdict" or "caution"."""
    return _part("paragraph", text, kind)


def code(lines: Iterable[str], /) -> str:
    """Return lines as they are typed."""
    return _part("code", lines)


def heading(title: str, /) -> str:
    """Return a heading within a section."""
    return _part("heading", title)


def section(title: str, /, *parts: str) -> str:
    """Return parts below a heading."""
    return _part("section", title, parts)


def folded(title: str, /, *parts: str) -> str:
    """Return parts that the reader opens."""
    return _part("folded", title, parts)


def panels(*parts: str) -> str:
    """Return parts side by side; on a phone one below the other."""
    return _part("panels", parts)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], /, *, text: bool = False, label: str = "") -> str:
    """Return a table; numbers align right, `text` aligns all left; `label` names it for screen readers."""
    name = label or next(filter(None, head), "Table")
    return _part("table", head, list(rows), Markup(' class="text"') if text else "", name)


def chart(figure: Mapping[str, Any], caption: str, /) -> str:
    """Return a plotly figure with its caption."""
    data = json.dumps(figure, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return _part("chart", figure, Markup(data), caption)  # noqa: S704 - no markup is left in it


def gallery(pictures: Iterable[Picture], /) -> str:
    """Return images in a grid, each with its label, its true label if that differs, and N P."""
    return _part("gallery", pictures)


def document(title: str, /, *parts: str) -> str:
    """Return the whole page, plotly.js inside."""
    from plotly.offline import get_plotlyjs  # here: 5 MB of text that only a page needs

    page = template("page.html").render(title=title, parts=parts, plotly=get_plotlyjs())
    return page.encode("utf-8", "replace").decode()  # names of files need not be text


def write_page(path: Path, title: str, /, *parts: str) -> None:
    """Write the page as an HTML file, which is replaced in one step."""
    with write_atomically(path) as temporary:
        temporary.write_text(document(title, *parts), encoding="utf-8")


@cache
def template(name: str, /) -> Template:
    """Return a template of this folder."""
    loader = PackageLoader("drawstream.tools.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(name)


def _part(name: str, /, *given: object) -> str:
    return str(getattr(template("parts.html").module, name)(*given))
