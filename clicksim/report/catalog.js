
"use strict";
(() => {
const BATCH = 40, THUMB_MARK = 2.4, LARGE_MARK = 1;
const LIST = [  // column, heading, number, shown on a narrow screen
  ["name", "case"], ["source", "source", 0, 1], ["tracer", "tracer", 0, 1], ["diagnosis", "diagnosis", 0, 1],
  ["age", "age", 1], ["sex", "sex"], ["scanner", "scanner"], ["lesions", "lesions", 1, 1],
  ["volume", "volume, ml", 1, 1], ["suv", "SUV max", 1, 1], ["fold", "fold", 1], ["findings", "remarks", 1, 1],
];
const FACTS = [
  ["source", "source"], ["patient", "patient"], ["tracer", "tracer"], ["nuclide", "nuclide"], ["timepoint", "time point"],
  ["date", "date"], ["pair", "other scan"], ["diagnosis", "diagnosis"], ["sex", "sex"],
  ["age", "age"], ["scanner", "scanner"], ["contrast", "CT with contrast"], ["shape", "voxels"],
  ["spacing", "voxel size, mm"], ["lesions", "lesions"], ["volume", "lesion volume, ml"],
  ["suv", "highest SUV in lesions"], ["fold", "fold"], ["split", "split"], ["defaced", "defaced"],
];
const SELECTS = [["source", "source"], ["tracer", "tracer"], ["diagnosis", "diagnosis"], ["scanner", "scanner"],
                 ["fold", "fold"], ["split", "split"]];
const SCORES = [["dice", "Dice"], ["dmm", "lesion F1 (DMM)"], ["fpv_ml", "false-positive volume, ml"],
                ["fnv_ml", "false-negative volume, ml"]];
const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);

function make(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
function draw(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {}))
    if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}
function words(text) { return String(text).replaceAll("_", " "); }
function show(column, value) {
  if (value === null || value === undefined) return "";
  if (column === "age") return data.public && value >= 90 ? "90+" : String(Math.round(value));
  if (column === "volume" || column === "suv") return value >= 1000 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.join(" x ");
  if (column === "tracer") return value === "none" ? "no tracer" : value;
  return column === "diagnosis" ? words(value).toLowerCase() : String(value);
}

// --- cases -------------------------------------------------------------------------------------------------
const cases = data.cases.map((values, place) => {
  const row = {place, found: []};
  data.columns.forEach((name, n) => { row[name] = values[n]; });
  return row;
});
for (const [place, ...about] of data.findings) cases[place].found.push(about);
for (const row of cases) {
  row.findings = row.found.length + row.flags.length;
  const texts = ["name", "source", "patient", "pair", "tracer", "diagnosis", "scanner", "sex", "date", "split"].map((c) => row[c]);
  row.text = [...texts, ...row.flags, ...row.found.map(([severity, check]) => `${severity} ${check}`)].filter(Boolean).map(words).join(" ").toLowerCase();
}
let kept = cases, drawn = 0, sorting = "name", falling = false, current = 0;
const pictures = new Map();
function picture(place) {
  if (!pictures.has(place)) {
    if (pictures.size > 400) pictures.clear();
    pictures.set(place, JSON.parse($("picture-" + place).textContent));
  }
  return pictures.get(place);
}

function firstRun(place) {
  const held = Object.keys(picture(place).runs || {});
  return held.length ? Number(held[0]) : -1;
}
function drawPicture(place, {run, outlines, mark, name}) {
  const shot = picture(place);
  if (!shot.src) return document.createTextNode("no picture: " + shot.note);
  const frame = draw("svg", {class: "picture", viewBox: `0 0 ${shot.w} ${shot.h}`, role: "img",
    "aria-label": "Maximum projections of " + name + " from the front and from the side"});
  frame.append(draw("image", {href: shot.src, width: shot.w, height: shot.h}));
  for (const panel of shot.panels) {
    if (outlines && panel.outline)
      frame.append(draw("path", {class: "outline", d: panel.outline,
        transform: `translate(${panel.x} 0) scale(${panel.unit[0]} ${panel.unit[1]})`}));
    if (mark === LARGE_MARK)
      frame.append(draw("text", {class: "side", x: panel.x + 4, y: 13}, panel.sides[0]),
        draw("text", {class: "side", x: panel.x + panel.w - 4, y: 13, "text-anchor": "end"}, panel.sides[1]));
  }
  const strokes = run >= 0 ? shot.runs[run] || [] : [];
  for (const ahead of [0, 1])
    for (const stroke of strokes) if (stroke[0] === ahead) frame.append(...drawStroke(stroke, mark));
  return frame;
}
function drawStroke([ahead, kind, number, ...views], mark) {
  const title = `${ahead ? "foreground" : "background"} ${kind} ${number}`;
  return views.map((points) => {
    const xy = [];
    for (let n = 0; n < points.length; n += 2) xy.push([points[n], points[n + 1]]);
    const tip = draw("title", {}, title), r = 3 * mark;
    if (kind === "box") {
      const xs = xy.map((p) => p[0]), ys = xy.map((p) => p[1]), x = Math.min(...xs), y = Math.min(...ys);
      return draw("rect", {class: ahead ? "line-ahead" : "behind", x, y, width: Math.max(...xs) - x, height: Math.max(...ys) - y}, tip);
    }
    if (xy.length > 1) return draw("path", {class: ahead ? "line-ahead" : "behind", d: "M" + xy.join("L")}, tip);
    const [x, y] = xy[0];
    if (ahead) return draw("circle", {class: "ahead", cx: x, cy: y, r}, tip);
    return draw("path", {class: "behind", d: `M${x - r} ${y - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}`}, tip);
  });
}

const thumbs = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) {
    thumbs.unobserve(entry.target);
    const row = cases[entry.target.dataset.place];
    entry.target.replaceChildren(drawPicture(row.place, {run: firstRun(row.place), outlines: true, mark: THUMB_MARK, name: row.name}));
  }
}, {rootMargin: "300px"});

function drawRow(row) {
  const shot = make("button", {type: "button", class: "thumb", "data-place": row.place, "aria-label": "Show " + row.name});
  thumbs.observe(shot);
  const line = make("tr", {}, make("td", {class: "shot"}, shot));
  for (const [column, heading, number, narrow] of LIST) {
    const text = column === "findings" && !row.findings ? "" : show(column, row[column]);
    const kind = column === "name" ? "name" : (number ? "number" : "") + (narrow ? " card" : "");
    const inner = column === "name" ? make("button", {type: "button", class: "link", "data-place": row.place}, text) : text;
    line.append(make("td", {class: kind, "data-label": heading}, inner));
  }
  return line;
}
function drawMore() {
  const next = kept.slice(drawn, drawn + BATCH);
  $("rows").append(...next.map(drawRow));
  drawn += next.length;
  $("more").hidden = drawn >= kept.length;
}

// --- filters -----------------------------------------------------------------------------------------------
const selects = [];
function addSelect(label, options, test) {
  const select = make("select", {}, ...options.map(([value, text]) => make("option", {value}, text)));
  $("selects").append(make("label", {}, label, select));
  selects.push([select, test]);
}
for (const [column, label] of SELECTS) {
  const counts = new Map();
  for (const row of cases) counts.set(row[column], (counts.get(row[column]) || 0) + 1);
  if (counts.size < 2) continue;
  const values = [...counts.keys()].sort((a, b) => (a === null) - (b === null) || compare(a, b));
  const texts = values.map((v) => [JSON.stringify(v), `${v === null ? "unknown" : show(column, v)} (${counts.get(v)})`]);
  addSelect(label, [["", "all"], ...texts], (row, chosen) => JSON.stringify(row[column]) === chosen);
}
addSelect("lesions", [["", "all"], ["with", "with"], ["without", "without"]], (row, chosen) => (row.lesions > 0) === (chosen === "with"));
addSelect("remarks", [["", "all"], ["with", "with a finding or flag"], ["without", "without"]], (row, chosen) => (row.findings > 0) === (chosen === "with"));

function compare(a, b) { return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", {numeric: true}); }
function update() {
  const terms = words($("query").value).toLowerCase().split(/\s+/).filter(Boolean);
  const active = selects.filter(([select]) => select.value);
  kept = cases.filter((row) => terms.every((term) => row.text.includes(term)) && active.every(([select, test]) => test(row, select.value)));
  const known = kept.filter((row) => row[sorting] !== null), unknown = kept.filter((row) => row[sorting] === null);
  known.sort((a, b) => (falling ? -1 : 1) * compare(a[sorting], b[sorting]) || a.place - b.place);
  kept = known.concat(unknown);
  thumbs.disconnect();
  $("rows").replaceChildren();
  drawn = 0;
  drawMore();
  $("status").textContent = `${kept.length.toLocaleString("en")} of ${cases.length.toLocaleString("en")} cases`;
  for (const head of $("heads").querySelectorAll("th[data-column]")) {
    if (head.dataset.column === sorting) head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
    head.querySelector("span").textContent = head.dataset.column === sorting ? (falling ? " \u25bc" : " \u25b2") : "";
  }
  $("sort").value = sorting;
  $("direction").textContent = falling ? "descending" : "ascending";
  $("direction").setAttribute("aria-pressed", falling);
  if (data.rounds.length) drawRounds();
}
function sortBy(column, turn) { falling = turn && sorting === column ? !falling : false; sorting = column; update(); }

$("heads").append(make("td", {class: "shot"}));
for (const [column, heading, number] of LIST) {
  const button = make("button", {type: "button"}, heading, make("span", {"aria-hidden": "true"}));
  button.addEventListener("click", () => sortBy(column, true));
  $("heads").append(make("th", {scope: "col", "data-column": column, class: number ? "number" : null}, button));
  $("sort").append(make("option", {value: column}, heading));
}
$("sort").addEventListener("change", () => sortBy($("sort").value, false));
$("direction").addEventListener("click", () => { falling = !falling; update(); });
$("query").addEventListener("input", update);
for (const [select] of selects) select.addEventListener("change", update);
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", () => { sorting = "name"; falling = false; setTimeout(update); });
$("more").addEventListener("click", drawMore);
new IntersectionObserver((entries) => { if (entries[0].isIntersecting && drawn < kept.length) drawMore(); },
  {rootMargin: "600px"}).observe($("more"));
document.addEventListener("click", (event) => {
  const opener = event.target.closest("button[data-place]");
  if (opener) openCase(Number(opener.dataset.place));
});

// --- one case ----------------------------------------------------------------------------------------------
const layers = {outlines: true, run: -1, wanted: null};  // wanted: the run that the reader chose, or -1 for none
const outlineBox = make("input", {type: "checkbox", checked: true});
const runSelect = make("select", {});
$("layers").append(make("label", {class: "check"}, outlineBox, "lesion outlines"), make("label", {}, "prompts", runSelect));
outlineBox.addEventListener("change", () => { layers.outlines = outlineBox.checked; showPicture(); });
runSelect.addEventListener("change", () => { layers.run = layers.wanted = Number(runSelect.value); showPicture(); });
$("layers").addEventListener("submit", (event) => event.preventDefault());

function openCase(place) {
  current = place;
  const row = cases[place], facts = make("dl", {class: "facts"});
  $("case-name").textContent = row.name;
  for (const [column, label] of FACTS) {
    const text = show(column, row[column]);
    if (text) facts.append(make("dt", {}, label), make("dd", {}, text));
  }
  for (const flag of row.flags) facts.append(make("dt", {}, "flag"), make("dd", {}, `${words(flag).toLowerCase()}: ${data.flags[flag]}`));
  for (const [severity, check, detail] of row.found) facts.append(make("dt", {class: "is-" + severity}, severity), make("dd", {}, detail ? `${check}: ${detail}` : check));
  $("case-facts").replaceChildren(facts);
  const curves = data.rounds.map((series) => [series.name, series.scores.dice[series.cases.indexOf(place)]]).filter(([, curve]) => curve && curve.some((v) => v !== null));
  if (curves.length)
    $("case-facts").append(make("h3", {}, "Dice after each round"), drawLegend(make("p", {class: "legend"}), curves.map(([name]) => name)),
      drawChart(curves.map(([, curve]) => ({mean: curve})), 1, 420));
  const held = Object.keys(picture(place).runs || {}).map(Number);
  layers.run = layers.wanted === -1 || held.includes(layers.wanted) ? layers.wanted : firstRun(place);
  runSelect.replaceChildren(...held.map((n) => make("option", {value: n}, data.runs[n])), make("option", {value: -1}, "none"));
  runSelect.value = layers.run;
  showPicture();
  if (!$("case").open) $("case").showModal();
}
function showPicture() {
  const row = cases[current], shot = picture(current);
  $("case-picture").replaceChildren(drawPicture(current, {...layers, mark: LARGE_MARK, name: row.name}));
  const notes = [];
  if (shot.hidden) notes.push("The top 250 mm are not shown: the case is not known to be defaced.");
  if (layers.run >= 0 && shot.left && shot.left[layers.run]) notes.push(`Prompts that are not shown: ${shot.left[layers.run]}.`);
  if (shot.more_runs) notes.push(`More prompt runs that are not shown: ${shot.more_runs}.`);
  $("case-note").textContent = notes.join(" ");
}
function step(by) {
  const at = kept.findIndex((row) => row.place === current);
  const next = kept[(at + by + kept.length) % kept.length];
  if (next) openCase(next.place);
}
$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => $("case").close());
$("case").addEventListener("click", (event) => { if (event.target === $("case")) $("case").close(); });
$("case").addEventListener("keydown", (event) => {
  if (event.target.matches("select, input")) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

// --- rounds ------------------------------------------------------------------------------------------------
const choice = {score: "dice", split: false, runs: new Set(data.rounds.map((_, n) => n))};
function drawLegend(place, names) {
  place.replaceChildren(...names.map((name, n) => make("span", {}, make("i", {class: "c" + n % 8}), name)));
  return place;
}
function drawChart(lines, top, width) {
  const height = width > 500 ? 300 : 200, left = 44, base = height - 30;
  const count = Math.max(...lines.map((line) => line.mean.length));
  const x = (n) => left + 10 + (count > 1 ? n / (count - 1) : 0.5) * (width - left - 30);
  const y = (v) => base - v / top * (base - 12);
  const chart = draw("svg", {class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Curves over the rounds"});
  for (let n = 0; n <= 4; n++) {
    const value = top * n / 4;
    chart.append(draw("line", {class: "grid", x1: left, x2: width - 10, y1: y(value), y2: y(value)}),
      draw("text", {x: left - 6, y: y(value) + 4, "text-anchor": "end"}, String(Number(value.toPrecision(2)))));
  }
  for (let n = 0; n < count; n++) chart.append(draw("text", {x: x(n), y: height - 10, "text-anchor": "middle"}, String(n)));
  lines.forEach((line, n) => {
    const path = (values) => values.map((v, i) => v === null ? "" : `${i && values[i - 1] !== null ? "L" : "M"}${x(i)} ${y(v)}`).join("");
    if (line.low && line.low.every((v) => v !== null) && line.low.length > 1)
      chart.append(draw("path", {class: `band c${n % 8}`, d: path(line.low) + [...line.high].reverse().map((v, i) => `L${x(line.high.length - 1 - i)} ${y(Math.min(v, top))}`).join("") + "Z"}));
    chart.append(draw("path", {class: `curve c${n % 8}`, d: path(line.mean)}));
    line.mean.forEach((v, i) => { if (v !== null) chart.append(draw("circle", {class: "c" + n % 8, cx: x(i), cy: y(v), r: 3.5}, draw("title", {}, `round ${i}: ${Number(v.toPrecision(3))}`))); });
  });
  return chart;
}
function summarise(curves) {
  const line = {mean: [], low: [], high: [], n: []}, count = Math.max(0, ...curves.map((curve) => curve.length));
  for (let round = 0; round < count; round++) {
    const values = curves.map((curve) => curve[Math.min(round, curve.length - 1)]).filter((v) => v !== null).sort((a, b) => a - b);
    const at = (share) => values[Math.round(share * (values.length - 1))];
    line.n.push(values.length);
    line.mean.push(values.length ? values.reduce((sum, v) => sum + v, 0) / values.length : null);
    line.low.push(values.length ? at(0.25) : null);
    line.high.push(values.length ? at(0.75) : null);
  }
  return line;
}
function drawRounds() {
  const inside = new Set(kept.map((row) => row.place)), lines = [];
  data.rounds.forEach((series, n) => {
    if (!choice.runs.has(n)) return;
    const groups = new Map();
    series.cases.forEach((place, i) => {
      if (!inside.has(place)) return;
      const name = choice.split ? `${series.name}, ${show("tracer", cases[place].tracer) || "tracer unknown"}` : series.name;
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(series.scores[choice.score][i]);
    });
    for (const [name, curves] of [...groups].sort()) lines.push({name, ...summarise(curves)});
  });
  const shown = lines.filter((line) => line.mean.some((v) => v !== null));
  drawLegend($("round-legend"), shown.map((line) => line.name));
  $("means").replaceChildren();
  if (!shown.length) { $("curves").replaceChildren(make("p", {class: "note"}, "No case with such scores passes the filters.")); return; }
  const most = Math.max(...shown.flatMap((line) => [...line.mean, ...line.high]).filter((v) => v !== null));
  const top = choice.score === "dice" || choice.score === "dmm" ? 1 : most || 1;
  $("curves").replaceChildren(drawChart(shown, top, 820));
  const count = Math.max(...shown.map((line) => line.mean.length));
  $("means").append(make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "mean (cases) after round"), ...Array.from({length: count}, (_, n) => make("th", {scope: "col"}, String(n))))),
    make("tbody", {}, ...shown.map((line) => make("tr", {}, make("th", {scope: "row"}, line.name),
      ...line.mean.map((v, n) => make("td", {}, v === null ? "-" : `${v.toPrecision(3)} (${line.n[n]})`))))));
}
if (data.rounds.length) {
  const score = make("select", {}, ...SCORES.map(([value, text]) => make("option", {value}, text)));
  score.addEventListener("change", () => { choice.score = score.value; drawRounds(); });
  const split = make("input", {type: "checkbox"});
  split.addEventListener("change", () => { choice.split = split.checked; drawRounds(); });
  $("choices").append(make("label", {}, "score", score), make("label", {class: "check"}, split, "by tracer"));
  $("choices").addEventListener("submit", (event) => event.preventDefault());
  if (data.rounds.length > 1) data.rounds.forEach((series, n) => {
    const box = make("input", {type: "checkbox", checked: true});
    box.addEventListener("change", () => { box.checked ? choice.runs.add(n) : choice.runs.delete(n); drawRounds(); });
    $("choices").append(make("label", {class: "check"}, box, series.name));
  });
}
update();
})();
