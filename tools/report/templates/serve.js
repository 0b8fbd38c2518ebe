const $ = id => document.getElementById(id);
function make(tag, text, kind) { const e = document.createElement(tag); if (text !== undefined) e.textContent = text; if (kind) e.className = kind; return e; }
const time = s => s >= 3600 ? `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min` : s >= 60 ? `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s` : `${Math.round(s)} s`;
const names = {lr: 'learning rate', 'accuracy/test': 'test accuracy', 'accuracy/held_out': 'held-out accuracy', 'map/test': 'test mAP', 'map/held_out': 'held-out mAP', 'rmse/test': 'test RMSE', 'rmse/held_out': 'held-out RMSE', best: 'best so far'};
function value(name, number) {
  if (name === 'wait_share') return `waits ${Number((100 * number).toPrecision(2))} % of the time`;
  const unit = /^(accuracy|map)\//.test(name) ? ' %' : '', label = names[name] ?? name.replaceAll('_', ' ').replace('/', ' ');
  return `${label} ${Number(Number(number).toPrecision(name === 'lr' ? 2 : 4))}${unit}`;
}
const shown = ['accuracy/test', 'accuracy/held_out', 'map/test', 'map/held_out', 'rmse/test', 'rmse/held_out', 'best', 'reward', 'loss'];
function chart(points, name) {
  const xy = points.filter(p => name in p[2]).map(p => [p[1], p[2][name]]);
  const NS = 'http://www.w3.org/2000/svg', svg = document.createElementNS(NS, 'svg');
  svg.setAttribute('viewBox', '0 0 600 140'); svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img'); svg.setAttribute('aria-label', name);
  if (xy.length < 2) return svg;
  const x = xy.map(p => p[0]), y = xy.map(p => p[1]);
  const x0 = Math.min(...x), x1 = Math.max(...x), y0 = Math.min(...y), y1 = Math.max(...y);
  const line = document.createElementNS(NS, 'polyline');
  line.setAttribute('points', xy.map(p => `${5 + 590 * (p[0] - x0) / (x1 - x0 || 1)},${132 - 124 * (p[1] - y0) / (y1 - y0 || 1)}`).join(' '));
  line.setAttribute('fill', 'none'); line.setAttribute('stroke', 'var(--line)'); line.setAttribute('stroke-width', '2');
  line.setAttribute('vector-effect', 'non-scaling-stroke');
  svg.append(line); return svg;
}
function running(job) {
  const box = make('article'), last = job.points.at(-1), silent = job.ended || job.silent > 600;
  if (silent) box.className = 'silent';
  const spent = last ? last[0] : 0, rate = job.step / (spent || 1), left = job.step ? (job.total - job.step) / rate : 0;
  box.append(make('strong', `${job.kind}: ${job.title}`), ' ', make('span', job.folder, 'soft'));
  const bar = make('progress'); bar.setAttribute('aria-label', 'progress of ' + job.title); bar.max = job.total || 1; bar.value = job.step; box.append(bar);
  const news = job.ended ? 'its process is gone before the end: run the same command again to resume'
    : silent ? `no news for ${time(job.silent)}: if it was killed, run the same command again to resume` : `${time(spent)} so far, about ${time(left)} left`;
  box.append(make('div', `${job.step} of ${job.total || '?'}; ${news}`, 'soft'));
  if (last) {
    box.append(make('div', Object.entries(last[2]).map(([k, v]) => value(k, v)).join(' · '), 'soft'));
    const name = shown.find(n => job.points.some(p => n in p[2]));
    if (name) {
      const values = job.points.filter(p => name in p[2]).map(p => p[2][name]);
      box.append(chart(job.points, name), make('div', `${names[name] ?? name}: from ${Math.min(...values).toPrecision(4)} to ${Math.max(...values).toPrecision(4)}`, 'soft'));
    }
  }
  return box;
}
let before = '';
async function ask() {
  try {
    const found = await (await fetch('/state.json')).json();
    $('folder').textContent = found.folder.split('/').pop() || found.folder; $('folder').title = found.folder;
    $('running').replaceChildren(...(found.running.length ? found.running.map(running) : [make('p', 'No job is running.', 'soft')]));
    const now = JSON.stringify(found.finished);
    if (now !== before) $('finished').replaceChildren(...found.finished.map(job => {
      const row = make('tr');
      const name = make('th', job.folder); name.scope = 'row';
      row.append(name, make('td', `${job.kind}: ${job.title}`), make('td', job.text), make('td', job.seconds === undefined ? '' : time(job.seconds)));
      return row;
    }));
    before = now;
    const rest = found.jobs > found.finished.length ? ` (the newest ${found.finished.length} are shown)` : '';
    const live = found.running.filter(job => !job.ended).length, gone = found.running.length - live;
    $('state').textContent = `${live} running, ${gone ? gone + ' ended too early, ' : ''}${found.jobs} finished${rest}; ${new Date().toLocaleTimeString()}`;
  } catch (error) { $('state').textContent = 'the server does not answer'; }
}
(async () => { for (;;) { await ask(); await new Promise(next => setTimeout(next, 2000)); } })();
