"use strict";
// The page of a report or of the board. All text is set as text, never as HTML: names may hold anything.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const DASHES = [[], [6, 3], [2, 2], [9, 3, 2, 3], [4, 2]];
  const FILTERS = { kind: "Shown", method: "Method", year: "Year", extra: "Extra data", status: "Proof" };
  const state = { panel: 0, at: 0, sort: "value", down: true, filters: {}, bands: null, metric: "loss", one: null };
  const on = new Map(data.rows.map((row, i) => [i, row.on]));

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === false || value === undefined) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key === "style") Object.assign(made.style, value);
      else made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }

  // ---- rows ----
  for (const row of data.rows.filter((found) => found.value)) {
    const missing = data.panels[row.panel].radii.length - row.value.length; // beyond its reach a curve stays as it ends
    for (const part of ["value", "low", "high"]) row[part].push(...Array(missing).fill(row[part].at(-1)));
  }
  const panel = () => data.panels[state.panel];
  const radii = () => panel().radii;
  const listed = () =>
    data.rows.map((row, i) => ({ ...row, i })).filter((row) => row.panel === state.panel && passes(row));
  const shown = () => listed().filter((row) => on.get(row.i));
  const proof = (row) => (row.status.startsWith("claimed") ? "claimed" : "proven");
  const attribute = (row, name) => (name === "status" ? proof(row) : row[name] === null ? "not stated" : String(row[name]));
  const passes = (row) => Object.entries(state.filters).every(([name, value]) => !value || attribute(row, name) === value);
  const first = data.panels.map((_, i) => data.rows.findIndex((row) => row.panel === i));
  const place = (row) => row.i - first[row.panel];
  const colour = (row) => css(`--c${place(row) % 7}`);
  const dash = (row) => DASHES[Math.floor(place(row) / 7) % DASHES.length];

  // [share, low, high] at a place of the grid; null where nobody looked
  function at(row, place) {
    if (row.value) return [row.value[place], row.low[place], row.high[place]];
    const point = row.points.find((found) => Math.abs(found[0] - radii()[place]) < 1e-9);
    return point ? point.slice(1) : null;
  }

  const percent = (share, digits = 2) => share.toFixed(digits);
  const interval = (found, digits = 1) => (found && found[1] !== null ? `[${found[1].toFixed(digits)}, ${found[2].toFixed(digits)}]` : "");
  const radiusText = (radius) => {
    const mark = panel().marks.find((found) => Math.abs(found.radius - radius) < 1e-9);
    return mark ? mark.text : String(+radius.toPrecision(4));
  };

  // ---- charts ----
  const charts = {}, drawn = new Map(); // from rows to series of the first chart

  function draw(id, options, values) {
    charts[id]?.destroy();
    const box = $(id);
    box.replaceChildren();
    const size = { width: Math.max(box.clientWidth, 240), height: Math.min(430, 200 + box.clientWidth / 4) };
    charts[id] = new uPlot({ ...size, ...options }, values, box);
  }

  const axis = (label, more = {}) => ({
    label, stroke: css("--fg"), grid: { stroke: css("--line"), width: 1 }, ticks: { stroke: css("--line") },
    labelSize: 24, font: "12px system-ui", labelFont: "13px system-ui", ...more,
  });

  function line(row, more = {}) {
    return { stroke: colour(row), width: 1.8, dash: dash(row), points: { show: false }, ...more };
  }

  const steps = uPlot.paths.stepped({ align: -1 }); // what holds at a radius holds below it

  function drawCurves() {
    const rows = shown();
    const banded = state.bands ?? rows.filter((row) => row.value).length <= 6;
    $("bands").checked = banded;
    const values = [radii()], series = [{}], bands = [];
    drawn.clear();
    for (const row of rows) {
      drawn.set(row.i, series.length);
      if (!row.value) {
        const found = new Map(row.points.map((point) => [point[0], point[1]]));
        values.push(radii().map((radius) => found.get(radius) ?? null));
        series.push(line(row, { paths: () => null, points: { show: true, size: 8, fill: colour(row) } }));
        continue;
      }
      values.push(row.value);
      series.push(line(row, { paths: steps }));
      if (banded) {
        const first = series.length;
        for (const edge of ["high", "low"]) {
          values.push(row[edge]);
          series.push(line(row, { paths: steps, width: 0, stroke: "transparent" }));
        }
        bands.push({ series: [first, first + 1], fill: colour(row) + "2e" });
      }
    }
    const unit = `${panel().symbol} radius (${panel().unit})`;
    draw("chart", {
      series, bands, legend: { show: false }, focus: { alpha: 0.15 },
      scales: { x: { time: false }, y: { range: [0, 100] } },
      axes: [axis(unit, { size: 32 }), axis("certified accuracy (%)", { size: 48 })],
      cursor: { drag: { x: false, y: false }, points: { show: false }, bind: { mouseup: () => pick } },
      hooks: { draw: [marksOf(rows)], setCursor: [tell] },
    }, values);
  }

  function pick(event) {
    const chart = charts.chart;
    if (chart.cursor.idx !== null && chart.cursor.idx !== undefined) choose(chart.cursor.idx);
    return event && null;
  }

  // the chosen radius, the intervals of points, and what attacks leave
  function marksOf(rows) {
    return (chart) => {
      const pen = chart.ctx, x = (radius) => chart.valToPos(radius, "x", true), y = (share) => chart.valToPos(share, "y", true);
      pen.save();
      pen.setLineDash([]);
      const stroke = (style, ...path) => {
        pen.strokeStyle = style;
        pen.lineWidth = devicePixelRatio;
        pen.beginPath();
        path.forEach(([h, v], i) => (i ? pen.lineTo(h, v) : pen.moveTo(h, v)));
        pen.stroke();
      };
      stroke(css("--accent"), [x(radii()[state.at]), y(0)], [x(radii()[state.at]), y(100)]);
      for (const row of rows) {
        for (const [radius, , low, high] of row.points ?? [])
          if (low !== null) stroke(colour(row), [x(radius), y(low)], [x(radius), y(high)]);
        for (const [radius, share] of row.attacks ?? []) {
          const [h, v, d] = [x(radius), y(share), 6 * devicePixelRatio];
          stroke(colour(row), [h - d, v - d], [h + d, v - d], [h, v], [h - d, v - d]);
        }
      }
      pen.restore();
    };
  }

  function swatch(row) {
    const style = row.value ? { borderTopColor: colour(row), borderTopStyle: dash(row).length ? "dashed" : "solid" } : { background: colour(row) };
    return element("span", { class: row.value ? "swatch" : "swatch point", style, "aria-hidden": "true" });
  }

  function tell(chart) {
    const tip = $("tip"), place = chart.cursor.idx;
    if (place === null || place === undefined || chart.cursor.left < 0) return void (tip.hidden = true);
    const near = (row) => {
      if (row.value) return { row, found: at(row, place), radius: radii()[place] };
      const point = row.points.find((p) => Math.abs(chart.valToPos(p[0], "x") - chart.cursor.left) < 6);
      return point ? { row, found: point.slice(1), radius: point[0] } : null;
    };
    const told = shown().map(near).filter(Boolean).sort((a, b) => b.found[0] - a.found[0]);
    const lines = told.slice(0, 16).map(({ row, found, radius }) =>
      element("div", {}, swatch(row), element("span", {}, row.label),
        element("b", {}, `${percent(found[0])} %`), element("span", {}, interval(found), row.value ? "" : ` at ${radiusText(radius)}`)));
    if (told.length > 16) lines.push(element("div", {}, `and ${told.length - 16} more`));
    tip.replaceChildren(element("strong", {}, `radius ${radiusText(radii()[place])}`), ...lines);
    tip.hidden = false;
    const box = chart.over.getBoundingClientRect();
    const left = box.left + chart.cursor.left + 14, width = tip.offsetWidth;
    tip.style.left = `${Math.max(4, left + width > innerWidth ? left - width - 28 : left)}px`;
    tip.style.top = `${Math.max(4, Math.min(box.top + chart.cursor.top + 10, innerHeight - tip.offsetHeight - 4))}px`;
  }

  // what a chart without a table of its own says, for those who do not see it
  const describe = (id, what, said) => $(id).setAttribute("aria-label", `${what}: ${said.join("; ")}`);

  function drawShares() {
    const rows = shown().filter((row) => row.shares);
    $("shares").hidden = !rows.length;
    if (!rows.length) return;
    const edges = Array.from({ length: data.bins + 1 }, (_, i) => 0.5 + i / (2 * data.bins));
    const values = rows.map((row) => [...row.shares, row.shares[data.bins - 1]].map((count) => (100 * count) / row.examples));
    const surest = (row) => (100 * row.shares[data.bins - 1]) / row.examples;
    describe("shares-chart", "Histogram of proven lower bounds on the probability of the top class; examples in the last bin, above 0.99",
      rows.map((row) => `${row.label} ${percent(surest(row))} %`));
    draw("shares-chart", {
      series: [{}, ...rows.map((row) => line(row, { paths: uPlot.paths.stepped({ align: 1 }) }))],
      legend: { show: false }, cursor: { show: false }, scales: { x: { time: false } },
      axes: [axis("proven lower bound on the probability of the top class", { size: 32 }), axis("examples (%)", { size: 48 })],
    }, [edges, ...values]);
  }

  function drawTraining() {
    const rows = shown().filter((row) => Object.keys(row.training ?? {}).length);
    $("training").hidden = !rows.length;
    if (!rows.length) return;
    const metrics = [...new Set(rows.flatMap((row) => Object.keys(row.training)))].filter((name) => name !== "epoch");
    if (!metrics.includes(state.metric)) state.metric = metrics[0];
    $("metric").replaceChildren(...metrics.map((name) => element("option", { selected: name === state.metric }, name)));
    const told = rows.filter((row) => row.training[state.metric]);
    const epochs = Math.max(...told.map((row) => row.training[state.metric].length));
    const values = told.map((row) => Array.from({ length: epochs }, (_, i) => row.training[state.metric][i] ?? null));
    const last = (row) => Number(row.training[state.metric].at(-1)).toPrecision(3);
    describe("training-chart", `Training curves; ${state.metric} at the end`, told.map((row) => `${row.label} ${last(row)}`));
    draw("training-chart", {
      series: [{}, ...told.map((row) => line(row))], legend: { show: false }, cursor: { show: false },
      scales: { x: { time: false } }, axes: [axis("epoch", { size: 32 }), axis(state.metric, { size: 56 })],
    }, [Array.from({ length: epochs }, (_, i) => i), ...values]);
  }

  // ---- the table ----
  const number = (value, digits = 0) => (value === null || value === undefined ? "" : value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits }));
  const shared = (text, found, digits) => [text, " ", element("span", { class: "low-high" }, interval(found, digits))];
  const attacked = (row) => (row.attacks ?? []).find((found) => Math.abs(found[0] - radii()[state.at]) < 1e-9);

  const COLUMNS = [
    { key: "value", title: "certified %", of: (row) => at(row, state.at)?.[0], show: (row) => { const found = at(row, state.at); return found ? shared(percent(found[0]), found) : [""]; } },
    { key: "attack", title: "under attack %, upper bound", of: (row) => attacked(row)?.[1], show: (row) => { const found = attacked(row); return found ? shared(percent(found[1]), found.slice(1)) : [""]; } },
    { key: "clean", title: "at radius 0 %", of: (row) => at(row, 0)?.[0], show: (row) => { const found = at(row, 0); return [found ? percent(found[0]) : ""]; } },
    { key: "acr", title: "ACR", of: (row) => row.acr?.[0], show: (row) => (row.acr ? shared(percent(row.acr[0], 4), row.acr, 4) : [""]) },
    { key: "abstained", title: "abstained %", of: (row) => row.abstained?.[0], show: (row) => [row.abstained ? percent(row.abstained[0]) : ""] },
    { key: "examples", title: "examples", of: (row) => row.examples, show: (row) => [number(row.examples)] },
    ...data.columns.filter((key) => key !== "method").map((key) => ({ key: `columns.${key}`, title: key, words: true, of: (row) => row.columns[key], show: (row) => [row.columns[key] ?? ""] })),
    { key: "method", title: "method", words: true, of: (row) => row.method, show: (row) => [row.method] },
    { key: "year", title: "year", of: (row) => row.year, show: (row) => [row.year ?? ""] },
    { key: "extra", title: "extra data", words: true, of: (row) => row.extra, show: (row) => [row.extra] },
    { key: "status", title: "proof", words: true, of: (row) => row.status, show: (row) => [row.status] },
    { key: "samples", title: "samples per example", of: (row) => row.samples, show: (row) => [number(row.samples)] },
    { key: "seconds", title: "seconds to certify", of: (row) => row.seconds, show: (row) => [number(row.seconds)] },
    { key: "trained", title: "seconds to train", of: (row) => row.trained, show: (row) => [number(row.trained)] },
    { key: "device", title: "device", words: true, of: (row) => row.device, show: (row) => [row.device ?? ""] },
    { key: "source", title: "source", words: true, of: (row) => row.source.short, show: (row) => [source(row, row.source.short)] },
  ];

  function source(row, text) {
    const url = row.source.url;
    const safe = url && url.startsWith("https://");
    return element(safe ? "a" : "span", { href: safe ? url : null, rel: safe ? "noreferrer" : null, title: row.source.text }, text);
  }

  function sorted(rows) {
    const column = COLUMNS.find((found) => found.key === state.sort) ?? COLUMNS[0];
    const missing = (value) => value === null || value === undefined || value === "";
    const numeric = (value) => (typeof value === "number" ? value : Number(String(value).replaceAll(",", "")));
    return rows.sort((a, b) => {
      const [x, y] = [column.of(a), column.of(b)];
      if (missing(x) || missing(y)) return missing(x) - missing(y) || a.i - b.i;
      const order = Number.isNaN(numeric(x)) || Number.isNaN(numeric(y)) ? String(x).localeCompare(String(y)) : numeric(x) - numeric(y);
      return (state.down ? -order : order) || a.i - b.i;
    });
  }

  // a setting that all rows share is no column, nor is anything that none has
  function tells(column, rows) {
    const values = new Set(rows.map((row) => column.of(row)).filter((value) => value !== null && value !== undefined && value !== ""));
    return column.key === "value" || values.size > (column.key.startsWith("columns.") || column.key === "extra" ? 1 : 0);
  }

  function fillTable() {
    const rows = sorted(listed());
    const told = COLUMNS.filter((column) => tells(column, rows));
    const head = told.map((column) => element("th", { scope: "col", class: column.words ? "words" : null,
      "aria-sort": column.key === state.sort ? (state.down ? "descending" : "ascending") : null },
      element("button", { type: "button", "data-sort": column.key, onclick: () => sortBy(column) }, column.title)));
    $("table").tHead.replaceChildren(element("tr", {}, element("th", { scope: "col" }, "#"), element("th", { scope: "col", class: "words" }, "run or result"), ...head));
    const ranks = ranking(rows);
    $("table").tBodies[0].replaceChildren(...rows.map((row) => tableRow(row, told, ranks)));
    $("chosen").textContent = radiusText(radii()[state.at]);
    const silent = rows.filter((row) => !at(row, state.at)).length;
    fillSources(rows);
    $("below").textContent = silent ? `${silent} of ${rows.length} say nothing at this radius: they were decided, or are published, at others only.` : "";
  }

  function fillSources(rows) {
    const found = new Map(rows.map((row) => [row.source.text, row]));
    $("sources").replaceChildren(...[...found.values()].map((row) => element("li", {}, source(row, row.source.text))));
  }

  function ranking(rows) {
    const shares = rows.map((row) => at(row, state.at)?.[0]).filter((share) => share !== undefined);
    return new Map(rows.map((row) => [row.i, at(row, state.at) ? 1 + shares.filter((share) => share > at(row, state.at)[0]).length : ""]));
  }

  function tableRow(row, told, ranks) {
    const toggle = element("input", { type: "checkbox", checked: on.get(row.i), "data-row": row.i, onchange: (event) => { on.set(row.i, event.target.checked); curves(); event.target.closest("tr").className = event.target.checked ? "" : "off"; } });
    toggle.checked = on.get(row.i);
    const name = element("label", {}, toggle, swatch(row), element("span", {}, row.kind === "run" ? `${row.id}  ${row.label}` : row.label));
    const emphasis = (focus) => () => drawn.has(row.i) && charts.chart.setSeries(focus ? drawn.get(row.i) : null, { focus });
    return element("tr", { class: on.get(row.i) ? null : "off", "data-label": row.label, onmouseenter: emphasis(true), onmouseleave: emphasis(false) }, element("td", {}, ranks.get(row.i)), element("td", { class: "words label", role: "rowheader" }, name),
      ...told.map((column) => element("td", { class: column.words ? "words" : null }, ...column.show(row))));
  }

  function sortBy(column) {
    state.down = state.sort === column.key ? !state.down : !column.words;
    state.sort = column.key;
    fillTable();
    $("table").querySelector(`[data-sort="${CSS.escape(column.key)}"]`).focus();
  }

  // ---- one run ----
  function fillOne() {
    const runs = listed().filter((row) => row.kind === "run");
    $("details").hidden = !runs.length;
    if (!runs.length) return;
    if (!runs.some((row) => row.i === state.one)) state.one = runs[0].i;
    $("one").replaceChildren(...runs.map((row) => element("option", { value: row.i, selected: row.i === state.one }, `${row.id}  ${row.label}`)));
    const row = data.rows[state.one];
    const facts = Object.entries(row.columns).map(([key, value]) => `${key} ${value}`).join(", ");
    $("one-facts").replaceChildren(element("p", { class: "small" }, `${row.name}: ${facts}. Read from ${row.source.text}.`));
    $("gallery").replaceChildren(...Object.entries(row.gallery).flatMap(([kind, cards]) => [
      element("h3", {}, kind), element("div", { class: "cards" }, ...cards.map(card))]));
  }

  function card(example) {
    const picture = data.images[example.image];
    const says = example.prediction === null ? "abstains" : `says ${example.prediction}`;
    const votes = example.votes.map(([label, count]) => `${label}: ${number(count)}`).join(", ");
    return element("button", { type: "button", class: "card", title: "Choose this radius", onclick: () => chooseRadius(example.radius) },
      picture ? element("img", { src: picture, alt: `example ${example.index}` }) : element("span", { class: "blank" }),
      element("b", {}, `#${example.index}`), ` label ${example.label}, ${says}`, element("br"), `radius ${example.radius}`, votes ? element("br") : "", votes ? `votes ${votes}` : "");
  }

  // ---- controls ----
  function choose(place) {
    state.at = Math.max(0, Math.min(place, radii().length - 1));
    $("slider").value = state.at;
    $("slider").setAttribute("aria-valuetext", `radius ${radiusText(radii()[state.at])}`);
    $("radius").value = +radii()[state.at].toPrecision(6);
    for (const button of $("marks").children) button.setAttribute("aria-pressed", String(+button.dataset.place === state.at));
    fillTable();
    charts.chart?.redraw(false);
  }

  // the next radius of the grid, never a smaller one: certified accuracy only falls
  function chooseRadius(radius) {
    const place = radii().findIndex((found) => found >= radius - 1e-9);
    choose(place < 0 ? radii().length - 1 : place);
  }

  function curves() {
    drawCurves();
    drawShares();
    drawTraining();
    const points = shown().some((row) => row.points), attacks = shown().some((row) => row.attacks?.length);
    $("key").textContent = [`${shown().length} shown.`, points ? "Dots: results at these radii only." : "", attacks ? "Triangles: accuracy under attack, an upper bound." : "",
      "Click the chart to choose a radius."].filter(Boolean).join(" ");
  }

  function select(title, values, value, change) {
    const options = values.map(([key, text]) => element("option", { value: key, selected: key === value }, text));
    return element("label", {}, `${title} `, element("select", { "data-filter": title, onchange: (event) => change(event.target.value) }, ...options));
  }

  function fillFilters() {
    const rows = data.rows.filter((row) => row.panel === state.panel);
    const made = [];
    if (data.panels.length > 1)
      made.push(select("Data and threat", data.panels.map((found, i) => [String(i), `${found.dataset}, ${found.symbol}`]), String(state.panel), (value) => enter(+value)));
    for (const [name, title] of Object.entries(FILTERS)) {
      const values = [...new Set(rows.map((row) => attribute(row, name)))].sort();
      if (values.length > 1)
        made.push(select(title, [["", "all"], ...values.map((value) => [value, value])], "", (value) => { state.filters[name] = value; refresh(); }));
    }
    $("filters").replaceChildren(...made);
  }

  function refresh() {
    curves();
    fillTable();
    fillOne();
  }

  function enter(place) {
    Object.assign(state, { panel: place, filters: {}, bands: null });
    fillFilters();
    $("slider").max = radii().length - 1;
    $("unit").textContent = panel().unit;
    $("marks").replaceChildren(...panel().marks.slice(0, 16).map((mark) =>
      element("button", { type: "button", "data-place": radii().indexOf(mark.radius), onclick: () => chooseRadius(mark.radius) }, mark.text)));
    state.at = Math.max(0, radii().findIndex((radius) => radius >= panel().start - 1e-9));
    refresh();
    choose(state.at);
  }

  function theme(name) {
    document.documentElement.dataset.theme = name;
    $("theme").textContent = name === "dark" ? "Light" : "Dark";
    refresh();
  }

  function start() {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    $("page").hidden = false;
    document.documentElement.dataset.theme = dark.matches ? "dark" : "light";
    $("theme").textContent = dark.matches ? "Light" : "Dark";
    enter(0);
    $("slider").addEventListener("input", (event) => choose(+event.target.value));
    $("radius").addEventListener("change", (event) => chooseRadius(+event.target.value));
    $("bands").addEventListener("change", (event) => { state.bands = event.target.checked; drawCurves(); });
    $("metric").addEventListener("change", (event) => { state.metric = event.target.value; drawTraining(); });
    $("one").addEventListener("change", (event) => { state.one = +event.target.value; fillOne(); });
    for (const [id, value] of [["all", true], ["none", false]])
      $(id).addEventListener("click", () => { listed().forEach((row) => on.set(row.i, value)); curves(); fillTable(); });
    $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
    $("print").addEventListener("click", () => print());
    dark.addEventListener("change", (event) => theme(event.matches ? "dark" : "light"));
    const folded = [...document.querySelectorAll("details")];
    folded.forEach((part) => { part.open = false; });
    let before = "light", open = [];
    addEventListener("beforeprint", () => { before = document.documentElement.dataset.theme; open = folded.map((part) => part.open); folded.forEach((part) => { part.open = true; }); theme("light"); });
    addEventListener("afterprint", () => { folded.forEach((part, i) => { part.open = open[i]; }); theme(before); });
    let width = innerWidth, timer = 0;
    addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(() => { if (innerWidth !== width) { width = innerWidth; curves(); } }, 120); });
  }

  if (data.panels.length) start();
})();
