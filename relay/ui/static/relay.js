// What a page does beyond its forms and links: live values, the chart, times in the viewer's zone,
// keys. Text goes into the page by textContent only; without this script every action still works.
'use strict';
(() => {
  const body = document.body, root = body.dataset.root, $ = (id) => document.getElementById(id);
  const live = body.dataset.liveUrl, connection = $('connection'), announcer = $('announce');
  const store = { get: (k) => { try { return sessionStorage.getItem(k); } catch { return null; } },
    set: (k, v) => { try { sessionStorage.setItem(k, v); } catch { /* forbidden by the browser */ } } };

  // -- times in the viewer's zone
  const clock = (date) => date.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit', second: '2-digit' });
  for (const time of document.querySelectorAll('time')) {
    const date = new Date(time.dateTime), today = date.toDateString() === new Date().toDateString();
    time.title = time.textContent;
    time.textContent = today ? clock(date) : date.toLocaleString([], { dateStyle: 'medium', timeStyle: 'short' });
  }

  // -- the alert of a failed action gets the focus; so does the place that had it before a reload
  const first = document.querySelector('[autofocus]');
  if (first) first.focus();
  const kept = store.get('focus');
  store.set('focus', '');
  if (kept && !first) {
    const [path, place] = JSON.parse(kept);
    const all = document.querySelectorAll('a, button, input, select, summary');
    if (path === location.pathname + location.search && all[place]) all[place].focus({ preventScroll: true });
  }
  function reload() {
    const focused = document.activeElement;
    const all = [...document.querySelectorAll('a, button, input, select, summary')];
    // A text that is being written, or an open dialog, is not thrown away.
    if (focused && (focused.matches('input, select') || focused.closest('dialog'))) return false;
    store.set('focus', JSON.stringify([location.pathname + location.search, all.indexOf(focused)]));
    location.reload();
    return true;
  }

  // -- one status line for screen readers: changes of state and each 10 %, at most one in 30 s
  let spokenAt = 0, spokenTenth = -1, waiting = '';
  function announce(text) {
    waiting = text;
    const wait = Math.max(0, spokenAt + 30000 - Date.now());
    setTimeout(() => {
      if (waiting) { announcer.textContent = waiting; waiting = ''; spokenAt = Date.now(); }
    }, wait);
  }

  // -- the chart, with a table twin
  const chart = $('chart'), points = [[], [], []], KEEP = 3600;
  let plot = null;
  const rateText = (bytes) => (bytes / 1e6).toLocaleString([], { maximumSignificantDigits: 3 }) + '\u00a0MB/s';
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function draw() {
    if (points[0].length < 2 || typeof uPlot === 'undefined') return;
    const place = $('plot'), width = place.clientWidth || 600;
    $('chart-wait').hidden = true;
    if (plot) { plot.setData(points); return; }
    const axis = { stroke: color('--muted'), grid: { stroke: color('--line'), width: 1 }, ticks: { show: false }, font: '12px system-ui' };
    const line = (stroke, fill) => ({ stroke: color(stroke), fill: fill && color(fill), width: 2, points: { show: false } });
    plot = new uPlot({ width, height: 190, legend: { show: false }, cursor: { y: false },
      scales: { y: { range: (u, low, high) => [0, Math.max(high * 1.15, 1)] } },
      series: [{}, line('--accent', '--accent-soft'), line('--warn')],
      axes: [axis, { ...axis, size: 56 }] }, points, place);
    new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: 190 })).observe(place);
  }
  // Rows of the table stand in the page only while it is open: an hour has 360.
  const twin = chart && chart.querySelector('details'), rowsOfTwin = $('chart-rows');
  function addTwinRow(place) {
    const row = rowsOfTwin.insertRow(0);
    row.insertCell().textContent = clock(new Date(points[0][place] * 1000));
    for (const side of [1, 2]) row.insertCell().textContent = rateText(points[side][place] * 1e6);
    if (rowsOfTwin.rows.length > 360) rowsOfTwin.deleteRow(360);
  }
  if (twin) {
    twin.addEventListener('toggle', () => {
      rowsOfTwin.replaceChildren();
      if (twin.open) points[0].forEach((at, place) => addTwinRow(place));
    });
  }
  function addPoints(news) {
    chart.hidden = false;
    for (const [at, moved, read] of news) {
      const last = points[0].length - 1;
      if (last >= 0 && at < points[0][last]) continue;
      if (at === points[0][last]) {
        points.forEach((one) => one.pop());
        if (rowsOfTwin.rows.length) rowsOfTwin.deleteRow(0);
      }
      [at, moved / 1e6, read / 1e6].forEach((value, place) => points[place].push(value));
      if (points[0].length > KEEP) points.forEach((one) => one.shift());
      if (twin.open) addTwinRow(points[0].length - 1);
    }
    draw();
  }

  // -- the moving objects: cells are changed in place
  function showRows(news) {
    const section = $('moving'), rows = $('moving-rows');
    if (!section) return;
    section.hidden = !news.length;
    while (rows.rows.length > news.length) rows.deleteRow(-1);
    news.forEach(([name, done, phase, rate, part], place) => {
      let row = rows.rows[place];
      if (!row) {
        row = rows.insertRow();
        const head = document.createElement('th'), bar = document.createElement('progress');
        head.scope = 'row'; head.className = 'mono'; head.append(document.createElement('bdi')); row.append(head);
        for (let cell = 0; cell < 4; cell += 1) row.insertCell();
        bar.className = 'bar'; bar.max = 100;
        row.cells[1].append(bar, document.createElement('span'));
        row.cells[3].className = 'right';
      }
      const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
      const [bar, share] = row.cells[1].children;
      put(row.cells[0].firstChild, name);
      bar.setAttribute('aria-label', name);
      if (done === null) bar.removeAttribute('value'); else bar.value = done;
      put(share, done === null ? '' : `${done}\u00a0%`);
      [phase, rate, part].forEach((text, cell) => put(row.cells[cell + 2], text));
    });
  }

  // -- live values
  let heardAt = Date.now(), stale = false, wanted = body.dataset.shape;
  function apply(news) {
    heardAt = Date.now();
    fresh();
    if (news.trouble) { age(news.trouble); return; }
    for (const [name, text] of Object.entries(news.texts || {})) {
      for (const place of document.querySelectorAll(`[data-live="${CSS.escape(name)}"]`)) {
        if (place.textContent !== text) place.textContent = text;
      }
    }
    for (const [name, [value, spoken]] of Object.entries(news.bars || {})) {
      for (const bar of document.querySelectorAll(`[data-bar="${CSS.escape(name)}"]`)) {
        if (value === null) bar.removeAttribute('value'); else bar.value = value;
        bar.setAttribute('aria-valuetext', spoken);
      }
      const tenth = Math.floor(value / 10);
      if (name === 'bar' && value !== null && tenth !== spokenTenth) {
        if (spokenTenth >= 0) announce(spoken);
        spokenTenth = tenth;
      }
    }
    if (news.points && chart) addPoints(news.points);
    if (news.rows) showRows(news.rows);
    if (news.shape && news.shape !== wanted) {
      if (!reload()) wanted = news.shape;
    }
  }
  function say(text) { connection.textContent = text; connection.hidden = !text; }
  function age(text) { stale = true; body.classList.add('stale'); say(text); }
  function fresh() {
    lost = false;
    if (stale) { stale = false; body.classList.remove('stale'); }
    say(polling ? body.dataset.polling : '');
  }
  let source = null, polling = 0, looks = 0, away = false, lost = false, ended = false, hiddenAt = 0;
  function open() {
    if (source || polling || ended || !live) return;
    source = new EventSource(`${root}/stream${live}`);
    const opened = Date.now();
    let heard = false;
    source.addEventListener('set', (event) => { heard = true; apply(JSON.parse(event.data)); });
    source.addEventListener('end', () => { ended = true; close(); });
    source.addEventListener('gone', () => location.reload());
    source.addEventListener('bye', (event) => say(JSON.parse(event.data).text));
    source.addEventListener('beat', () => apply({}));
    source.onerror = () => {
      lost = true;
      if (source && source.readyState === EventSource.CLOSED) { close(); poll(); }
    };
    setTimeout(() => { if (source && !heard && Date.now() - opened >= 20000) { close(); poll(); } }, 20100);
  }
  function close() { if (source) { source.close(); source = null; } }
  function again() { clearInterval(polling); polling = 0; open(); }
  async function look() {
    // A stream may be free again, or the way to it.
    looks += 1;
    if (looks % 30 === 0) { again(); return; }
    try {
      const answer = await fetch(`${root}/values${live}`, { headers: { Accept: 'application/json' } });
      if (answer.status === 401) { location.reload(); return; }
      if (!answer.ok) return;
      const news = await answer.json();
      apply(news);
      if (away && !news.trouble) again();
      away = Boolean(news.trouble);
    } catch { /* the next look may succeed; the banner names the age of the values */ }
  }
  function poll() { if (!polling && !ended) { polling = setInterval(look, 10000); say(body.dataset.polling); look(); } }
  if (live) {
    open();
    setInterval(() => {
      const ago = Math.round((Date.now() - heardAt) / 1000);
      if (ended || document.hidden || (!lost && ago < 25) || ago < 2) return;
      age(body.dataset.lost.replace('{ago}', `${ago} s`).replace('{at}', clock(new Date(heardAt))));
    }, 1000);
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) { hiddenAt = Date.now(); setTimeout(() => { if (document.hidden && Date.now() - hiddenAt >= 30000) close(); }, 30100); }
      else { heardAt = Date.now(); open(); }
    });
    addEventListener('pagehide', close);
    addEventListener('pageshow', (event) => { if (event.persisted) location.reload(); });
  }

  // -- a form is sent once
  for (const form of document.querySelectorAll('form[method=post]')) {
    form.addEventListener('submit', (event) => {
      if (form.dataset.sent) event.preventDefault();
      form.dataset.sent = '1';
      setTimeout(() => { delete form.dataset.sent; }, 4000);
    });
  }

  // -- keys
  const dialog = $('keys'), opener = $('keys-open'), on = $('keys-on');
  opener.hidden = false;
  opener.addEventListener('click', () => dialog.showModal());
  on.checked = store.get('keys') !== 'off';
  on.addEventListener('change', () => store.set('keys', on.checked ? 'on' : 'off'));
  let before = '', row = -1;
  addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !on.checked) return;
    if (event.target.matches('input, select, textarea') || dialog.open) return;
    const key = event.key, pair = before + key, go = (path) => { location.href = `${root}/${path}`; };
    before = key === 'g' ? 'g' : '';
    if (key === '?') dialog.showModal();
    else if (pair === 'gm') go('');
    else if (key === 'n' && document.querySelector('nav a[href$="/new"]')) go('new');
    else if (key === 'p') {
      const scope = row >= 0 ? rows()[row] : document;
      const button = scope.querySelector('[data-verb=pause], [data-verb=resume]');
      if (button && (row >= 0 || body.dataset.migration)) button.click();
    } else if (key === 'j' || key === 'k') {
      const all = rows();
      if (!all.length) return;
      row = Math.max(0, Math.min(all.length - 1, row + (key === 'j' ? 1 : -1)));
      all.forEach((one, place) => one.classList.toggle('selected', place === row));
      all[row].querySelector('a').focus();
    }
  });
  function rows() { return [...document.querySelectorAll('.rows .row')]; }
})();
