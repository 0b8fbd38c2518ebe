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
