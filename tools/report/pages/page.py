"""The report's HTML: one file with its style, script, charts and images inside; nothing is loaded from anywhere.

A chart is a `<figure>` with its plotly figure as JSON; the script draws it when it is first visible, in the colours of
the light or dark theme that the reader's system asks for, and draws it anew when that changes.
"""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from drawstream.tools.report.pages.gallery import Picture

STYLE = """
:root { color-scheme: light dark; --text: #1c2128; --soft: #57606a; --page: #ffffff; --panel: #f6f8fa;
  --rule: #d0d7de; --warn: #a84c00; --shade: #0003; }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e6e9ee; --soft: #9aa4b0; --page: #14171b; --panel: #1d2127; --rule: #363c45; --warn: #f0954a;
    --shade: #000c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .5rem; padding-top: .6rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
p { max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
figcaption { margin-top: .3rem; }
:focus-visible { outline: 2px solid #2f7fc1; outline-offset: 2px; }
.verdict { font-size: 1.1rem; padding: .7rem 1rem; background: var(--panel); border-left: 4px solid var(--text);
  max-width: none; }
.caution { padding: .5rem 1rem; background: var(--panel); border-left: 4px solid #d9730d; max-width: none; }
pre { background: var(--panel); padding: .6rem .8rem; overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
.wide { overflow-x: auto; margin: .6rem 0; background:
  linear-gradient(90deg, var(--page) 30%, transparent) 0 0 / 2rem 100% no-repeat local,
  linear-gradient(270deg, var(--page) 30%, transparent) 100% 0 / 2rem 100% no-repeat local,
  linear-gradient(90deg, var(--shade), transparent) 0 0 / .7rem 100% no-repeat scroll,
  linear-gradient(270deg, var(--shade), transparent) 100% 0 / .7rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--rule);
  vertical-align: top; white-space: nowrap; }
thead th { vertical-align: bottom; white-space: normal; overflow-wrap: break-word; }
tbody th { font-weight: inherit; }
th:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 8rem; }
th.text { overflow-wrap: break-word; }
th.text, td.text { text-align: left; white-space: normal; min-width: 6rem; }
td.text { overflow-wrap: anywhere; }
td.text:nth-child(n+3):last-child { min-width: 14rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
figure { margin: .6rem 0; min-width: 0; }
figure .plot { width: 100%; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(4.6rem, 1fr)); gap: .7rem .5rem; }
.gallery div { font-size: .75rem; line-height: 1.3; text-align: center; min-width: 0; }
.gallery span { display: block; height: 5rem; }
.gallery img { width: 100%; height: 100%; object-fit: contain; }
.gallery img.small { image-rendering: pixelated; }
.gallery b { color: var(--warn); font-weight: 600; }
details { border-top: 1px solid var(--rule); padding: .5rem 0; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 30rem) { th, td { padding: .3rem .45rem; } }
@media print { body { max-width: none; } .modebar-container { display: none; } figure, tr { break-inside: avoid; }
  .wide { background: none; } h2, h3 { break-after: avoid; } }
"""

SCRIPT = """
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const OPTIONS = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: '',
  modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d']};
const touch = matchMedia('(pointer: coarse)').matches;
function themed(layout) {
  const all = {...layout, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
    font: {color: colour('--text'), family: 'system-ui, "Segoe UI", "DejaVu Sans", sans-serif', size: 12},
    hoverlabel: {...layout.hoverlabel, bgcolor: colour('--panel'), bordercolor: colour('--rule'),
      font: {color: colour('--text')}},
    modebar: {bgcolor: 'rgba(0,0,0,0)', color: colour('--soft'), activecolor: colour('--text')}};
  if (touch) all.dragmode = false;  // a finger on a chart scrolls the page
  for (const axis of ['xaxis', 'yaxis'])
    all[axis] = {...layout[axis], gridcolor: colour('--rule'), linecolor: colour('--rule')};
  return all;
}
function fit(plot) {  // long titles of narrow charts get further lines
  const {w, h} = plot._fullLayout._size, changes = {};
  for (const [axis, kind, room] of [['xaxis', '.g-xtitle', w], ['yaxis', '.g-ytitle', h]]) {
    const title = plot.querySelector(kind + ' text'), text = plot.layout[axis].title.text;
    const long = title && Math.max(title.getBoundingClientRect().width, title.getBoundingClientRect().height);
    if (!long || long <= room || text.includes('<br>')) continue;
    const most = Math.ceil(text.length / Math.ceil(long / Math.max(room, 60))) + 3, lines = [''];
    for (const word of text.split(' '))
      if (!lines.at(-1) || lines.at(-1).length + word.length < most) lines.push((lines.pop() + ' ' + word).trim());
      else lines.push(word);
    changes[axis + '.title.text'] = lines.join('<br>');
  }
  if (Object.keys(changes).length) Plotly.relayout(plot, changes);
}
function makeRoom(plot, data, layout) {  // for a legend of many lines, below the tools
  const names = data.filter(trace => trace.name && trace.showlegend !== false).map(trace => trace.name.length);
  if (layout.showlegend === false || names.length < 2) return;
  const columns = Math.max(1, Math.floor((plot.clientWidth - 60) / (50 + 7 * Math.max(...names))));
  const rows = Math.ceil(names.length / columns);
  layout.margin.t = Math.max(layout.margin.t, 36 + 19 * rows);
  layout.height += Math.max(0, 36 + 19 * rows - 68);
  plot.style.height = layout.height + 'px';
}
function draw(figure) {
  const {data, layout} = JSON.parse(figure.querySelector('script').textContent), plot = figure.querySelector('.plot');
  figure.dataset.drawn = 'yes';
  makeRoom(plot, data, layout);
  Plotly.react(plot, data, themed(layout), OPTIONS).then(() => fit(plot));
}
const figures = [...document.querySelectorAll('figure.chart')];
const seen = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(entry => {
  seen.unobserve(entry.target);
  if (!entry.target.dataset.drawn) draw(entry.target);
}), {rootMargin: '1000px'});
figures.forEach(figure => seen.observe(figure));
const redraw = () => figures.filter(figure => figure.dataset.drawn).forEach(draw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
matchMedia('print').addEventListener('change', redraw);  // on paper all are drawn, dark on white
addEventListener('beforeprint', () => figures.filter(figure => !figure.closest('details:not([open])')).forEach(draw));
"""

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def escape(text: object, /) -> str:
    """Any text as HTML."""
    return html.escape(str(text).encode("utf-8", "replace").decode())  # names of files may be no text


def paragraph(text: str, /, *, kind: str = "") -> str:
    """A paragraph of plain text, with a class of the style sheet."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def code(lines: Iterable[str], /) -> str:
    """Lines as they are typed."""
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], /, *, text: bool = False, label: str = "") -> str:
    """A table of plain texts; numbers align right, `text` aligns all left; `label` names it for screen readers."""
    kind = ' class="text"' if text else ""
    top = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for cell in head) if any(head) else ""
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td{kind}>{escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row"{kind}>{escape(first)}</th>{cells}</tr>')
    name = escape(label or next(filter(None, head), "Table"))
    opening = f'<div class="wide" role="region" tabindex="0" aria-label="{name}"><table>'
    return f"{opening}{f'<thead><tr>{top}</tr></thead>' if top else ''}<tbody>{''.join(lines)}</tbody></table></div>"


def chart(figure: Mapping[str, Any], caption: str, /) -> str:
    """A chart with its caption."""
    data = json.dumps(figure, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<figure class="chart"><div class="plot" style="height:{figure["layout"]["height"]}px"></div>'
        f'<script type="application/json">{data}</script><figcaption>{escape(caption)}</figcaption></figure>'
    )


def panels(*parts: str) -> str:
    """Parts side by side where there is room, one below the other on a phone."""
    return f'<div class="panels">{"".join(parts)}</div>'


def gallery(pictures: Iterable[Picture], /) -> str:
    """Images in a grid, each with its label, its true label where that differs, and N P."""
    cells = []
    for picture in pictures:
        small = ' class="small"' if max(picture.width, picture.height) < 64 else ""
        true = "" if picture.true is None else f"<br><b>true: {escape(picture.true)}</b>"
        cells.append(
            f'<div title="{escape(picture.key)}"><span><img{small} alt="{escape(picture.key)}" '
            f'src="data:image/png;base64,{picture.png}"></span>{escape(picture.label)}{true}<br>{picture.ratio:.2f}</div>'
        )
    return f'<div class="gallery">{"".join(cells)}</div>'


def section(title: str, /, *parts: str) -> str:
    """A part of the page under its heading."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def folded(title: str, /, *parts: str) -> str:
    """Parts that the reader opens."""
    return f"<details><summary>{escape(title)}</summary>{''.join(parts)}</details>"


def heading(title: str, /) -> str:
    """A heading within a section."""
    return f"<h3>{escape(title)}</h3>"


def document(title: str, /, *parts: str) -> str:
    """The whole page, plotly.js inside."""
    from plotly.offline import get_plotlyjs  # here: 5 MB of text that only a page needs

    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<link rel="icon" href="data:,">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>{''.join(parts)}"
        "<noscript><p>The charts need JavaScript; tables and images do not.</p></noscript>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script></body></html>\n"
    )
