"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const NS = "http://www.w3.org/2000/svg";
const AXES = D.axes.length, N = D.rows.drawn, DENSITY = -1;
const unpack = (text, Kind) => new Kind(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
const POINTS = unpack(D.points, Float32Array), LISTED = unpack(D.listed_points, Float32Array);
const HOLES = new Set(D.holes), NUMBERS = D.numbers;
const state = { a: D.best, b: -1, x: 0, y: AXES > 1 ? 1 : DENSITY, colour: "component", all: false, frame: 0, timer: null, features: false, uncertain: false, lowest: false };
let map = null, mapB = null, curve = null, density = null;

// Text and numbers ----------------------------------------------------------------------------------------------------

function clean(text) {
  const plain = String(text).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g, "\ufffd");
  return plain.trim() ? plain : "(no name)";
}
const NAMES = D.names.map(clean), LABELS = D.axes.map(a => clean(a.label));
function cut(text, most) { const marks = [...text]; return marks.length <= most ? text : marks.slice(0, Math.max(1, most - 1)).join("") + "…"; }
function short(v, digits = 5) {
  if (v === null || v === undefined || Number.isNaN(v)) return "–";
  if (v === 0) return "0";
  const a = Math.abs(v);
  if (a >= 1e15 || a < 1e-4) return v.toExponential(2).replace("e+", "e");
  if (Number.isInteger(v) || a >= 1e6) return Math.round(v).toLocaleString("en-GB").replace(/,/g, a < 1e5 ? "" : ",");
  return String(+v.toPrecision(Math.max(digits, Math.ceil(Math.log10(a)) + 2)));
}
// A number on an axis: as many digits as tell it from the next one.
function tick(v, step) {
  if (v === 0) return "0";
  const a = Math.abs(v), most = Math.ceil(Math.log10(a / step)) + 1;
  if ((a >= 1e6 || a < 1e-3) && most <= 5) return String(+v.toPrecision(most)).length <= 6 ? String(+v.toPrecision(most)) : v.toExponential(Math.max(0, most - 1)).replace("e+", "e").replace(/\.?0+e/, "e");
  return String(+v.toPrecision(Math.max(1, Math.min(15, most + 1))));
}
function value(v) { return v === null ? "–" : short(v, 7); }
function whole(v) { return Math.round(v).toLocaleString("en-GB"); }
function percent(share) { return share === 0 ? "0 %" : share > 0 && share < 0.001 ? "below 0.1 %" : (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %"; }
function colour(k) { return k < 0 ? "var(--soft)" : `var(--k${k % D.palette.length})`; }
function named(k) { return k < 0 ? "background" : String(k); }

// Light colours on dark paper.
function paint() {
  const mix = (hex, share) => "#" + [1, 3, 5].map(i => Math.round(parseInt(hex.slice(i, i + 2), 16) * (1 - share) + 255 * share).toString(16).padStart(2, "0")).join("");
  const list = lift => D.palette.map((hex, k) => `--k${k}:${lift ? mix(hex, 0.38) : hex}`).join(";");
  const style = document.createElement("style");
  style.textContent = `:root{${list(false)}}@media screen and (prefers-color-scheme: dark){:root{${list(true)}}}`;
  document.head.append(style);
}

// Charts --------------------------------------------------------------------------------------------------------------

function make(tag, attributes, parent, text) {
  const e = document.createElementNS(NS, tag);
  for (const [key, v] of Object.entries(attributes)) e.setAttribute(key, v);
  if (text !== undefined) e.textContent = text;
  if (parent) parent.appendChild(e);
  return e;
}
function ticks(lo, hi, most) {
  const raw = (hi - lo) / Math.max(1, most), ten = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(m => m * ten).find(s => s >= raw * (1 - 1e-9)), out = [];
  if (step === undefined || !Number.isFinite(step)) return { at: [lo, hi], step: hi - lo || 1 };
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9 && out.length < 60; i++) out.push(+(i * step).toPrecision(12));
  return { at: out, step };
}
// Ticks that pass the test, finer until there are at least `fewest`.
function enough(range, most, fewest, keep) {
  let found = { at: [], step: 1 };
  for (let finer = 1; finer <= 8 && found.at.length < fewest; finer *= 2) {
    found = ticks(range[0], range[1], finer * Math.max(2, most));
    found.at = found.at.filter(keep);
  }
  return found;
}
function widen(range) {
  const pad = Math.max(Math.abs(range[0]), 1) * 1e-6;
  return range[1] > range[0] ? range : [range[0] - Math.max(0.5, pad), range[0] + Math.max(0.5, pad)];
}
// An empty chart with axes, in the pixels that there are: text keeps its size on a narrow screen.
function chart(box, height, x, y, xlabel, ylabel, wholeX) {
  box.textContent = "";
  const width = Math.max(240, Math.floor(box.clientWidth));
  x = widen(x); y = widen(y);
  const yt = enough(y, Math.floor(height / 60), 3, () => true);
  const left = 30 + 7.2 * Math.max(...yt.at.map(t => tick(t, yt.step).length)), right = 14, top = 10, bottom = 44;
  const xt = enough(x, Math.floor((width - left - right) / 90), 2, t => !wholeX || Number.isInteger(t));
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${ylabel} against ${xlabel}` }, box);
  const sx = v => left + (v - x[0]) / (x[1] - x[0]) * (width - left - right);
  const sy = v => height - bottom - (v - y[0]) / (y[1] - y[0]) * (height - top - bottom);
  for (const t of yt.at) {
    make("line", { x1: left, x2: width - right, y1: sy(t), y2: sy(t), class: "grid" }, svg);
    make("text", { x: left - 6, y: sy(t) + 4, "text-anchor": "end" }, svg, tick(t, yt.step));
  }
  let end = -Infinity;
  for (const t of xt.at) {
    const text = tick(t, xt.step), half = 3.7 * text.length, at = Math.min(width - half - 1, Math.max(half + 1, sx(t)));
    make("line", { x1: sx(t), x2: sx(t), y1: height - bottom, y2: height - bottom + 4, class: "axis" }, svg);
    if (at - half < end + 4) continue;
    make("text", { x: at, y: height - bottom + 17, "text-anchor": "middle" }, svg, text);
    end = at + half;
  }
  make("path", { d: `M${left},${top}V${height - bottom}H${width - right}`, class: "axis" }, svg);
  make("text", { x: left + (width - left - right) / 2, y: height - 8, "text-anchor": "middle", class: "xlabel" }, svg, cut(xlabel, Math.floor((width - left) / 7)));
  make("text", { transform: `translate(13 ${top + (height - top - bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "ylabel" }, svg, cut(ylabel, Math.floor((height - top - bottom) / 7)));
  const id = "clip" + Math.random().toString(36).slice(2);
  make("rect", { x: left, y: top, width: width - left - right, height: height - top - bottom }, make("clipPath", { id }, svg));
  return { svg, sx, sy, x, y, left, top, right: width - right, bottom: height - bottom, width, height, inner: make("g", { "clip-path": `url(#${id})` }, svg) };
}
function line(points, c) { return points.map((p, i) => (i ? "L" : "M") + c.sx(p[0]).toFixed(1) + "," + c.sy(p[1]).toFixed(1)).join(""); }

// Models --------------------------------------------------------------------------------------------------------------

function model(i) {
  const m = D.models[i];
  if (m.ready) return m;
  m.ready = true;
  m.label = unpack(m.labels, Int16Array);
  m.density = unpack(m.logp, Float32Array);
  m.sure = unpack(m.certainty, Uint8Array);
  m.mu = unpack(m.means, Float32Array);
  m.sigma = unpack(m.covariances, Float32Array);
  m.calibrated = m.score_kind !== "density";  // rows miss different values: their densities cannot be compared
  m.rank = m.calibrated ? unpack(m.score, Float32Array) : m.density;
  m.sorted = [...m.rank].sort((a, b) => a - b);
  for (const key of ["mean", "deviation", "apart"]) m.profile[key] = unpack(m.profile[key], Float32Array);
  if (m.frames) for (const key of ["weights", "means", "covariances"]) m.frames[key] = unpack(m.frames[key], Float32Array);
  return m;
}
const KINDS = new Set(D.models.map(m => m.kind)).size;
const titled = m => KINDS > 1 ? m.name : String(m.K);
function last(m) { return m.frames ? m.frames.iteration.length - 1 : 0; }
const triangle = (i, j) => i >= j ? i * (i + 1) / 2 + j : j * (j + 1) / 2 + i;
// A component on two axes, in stored units: weight, means, variances and covariance; of a frame where one is given.
function component(m, k, x, y, frame) {
  const at = (values, width, i) => values[k * width + i], T = AXES * (AXES + 1) / 2;
  if (frame !== undefined) {
    const K = m.weights.length, p = D.planar, q = p * (p + 1) / 2, f = m.frames;
    const mu = i => f.means[(frame * K + k) * p + i], s = i => f.covariances[(frame * K + k) * q + i];
    return { w: f.weights[frame * K + k], m: [mu(0), y < 0 ? 0 : mu(1)], s: [s(0), y < 0 ? 0 : s(1), y < 0 ? 0 : s(2)] };
  }
  const cov = (i, j) => at(m.sigma, T, triangle(i, j));
  return { w: m.weights[k], m: [at(m.mu, AXES, x), y < 0 ? 0 : at(m.mu, AXES, y)], s: [cov(x, x), y < 0 ? 0 : cov(x, y), y < 0 ? 0 : cov(y, y)] };
}
function framed(m) { return m.frames && state.x === 0 && (state.y === 1 || state.y === DENSITY) && D.planar > (state.y === 1 ? 1 : 0); }
function shownFrame(m) { return framed(m) && m === model(state.a) ? Math.min(state.frame, last(m)) : undefined; }
const real = (a, v) => D.axes[a].centre + D.axes[a].scale * v;
const coordinate = (values, i, a) => real(a, values[i * AXES + a]);

// Ellipse of n standard deviations of the covariance [a, b, c] = [[a, b], [b, c]], in stored units of two axes
function ellipse(one, n, x, y, c) {
  const [a, b, d] = one.s, mid = (a + d) / 2, off = Math.hypot((a - d) / 2, b);
  const angle = 0.5 * Math.atan2(2 * b, a - d), p = Math.sqrt(Math.max(mid + off, 0)) * n, q = Math.sqrt(Math.max(mid - off, 0)) * n;
  let path = "";
  for (let i = 0; i < 60; i++) {
    const t = i / 30 * Math.PI, u = p * Math.cos(t), v = q * Math.sin(t);
    path += (i ? "L" : "M") + c.sx(real(x, one.m[0] + u * Math.cos(angle) - v * Math.sin(angle))).toFixed(1) + "," + c.sy(real(y, one.m[1] + u * Math.sin(angle) + v * Math.cos(angle))).toFixed(1);
  }
  return path + "Z";
}
// Where the rows of an axis lie: all of them, or all but the outermost; the components' deviations in any case.
function extent(a, all) {
  const seen = [];
  for (let i = 0; i < N; i++) { const v = coordinate(POINTS, i, a); if (!Number.isNaN(v)) seen.push(v); }
  if (all) for (let i = 0; i < D.listed.length; i++) { const v = coordinate(LISTED, i, a); if (!Number.isNaN(v)) seen.push(v); }
  if (!seen.length) return [D.axes[a].centre - 1, D.axes[a].centre + 1];
  seen.sort((u, v) => u - v);
  const cutoff = all ? 0 : Math.floor(0.005 * seen.length), m = model(state.a);
  let lo = seen[cutoff], hi = seen[seen.length - 1 - cutoff];
  const step = hi - lo;
  for (const k of m.used) {
    if (m.weights[k] < 0.02) continue;
    const one = component(m, k, a, DENSITY), sd = Math.sqrt(Math.max(0, one.s[0]));
    lo = Math.max(Math.min(lo, real(a, one.m[0] - 2 * sd)), lo - 0.4 * step);
    hi = Math.min(Math.max(hi, real(a, one.m[0] + 2 * sd)), hi + 0.4 * step);
  }
  const pad = 0.05 * (hi - lo);
  return [lo - pad, hi + pad];
}

// The map -------------------------------------------------------------------------------------------------------------

const BINS = 6;
function shade(bin) { return `color-mix(in srgb, var(--alarm) ${Math.round(100 * bin / (BINS - 1))}%, var(--bar))`; }
function rank(m, i) {
  if (state.colour === "uncertainty") return Math.min(BINS - 1, Math.floor((1 - m.sure[i] / 255) * 2 * BINS));
  const n = m.sorted.length;
  let lo = 0, hi = n;
  while (lo < hi) { const mid = (lo + hi) >> 1; if (m.sorted[mid] < m.rank[i]) lo = mid + 1; else hi = mid; }
  const share = lo / n;
  return share < 0.005 ? 5 : share < 0.02 ? 4 : share < 0.05 ? 3 : share < 0.2 ? 2 : share < 0.5 ? 1 : 0;
}
// Rows as one path for each colour; rows with missing values as open circles; rows outside as marks at the border.
function points(c, m, x, y, size, every = 1) {
  const groups = new Map(), hollow = new Map(), outside = [];
  let hidden = 0;
  for (let i = 0; i < N; i += every) {
    const u = coordinate(POINTS, i, x), v = coordinate(POINTS, i, y);
    if (Number.isNaN(u) || Number.isNaN(v)) { hidden++; continue; }
    if (u < c.x[0] || u > c.x[1] || v < c.y[0] || v > c.y[1]) { outside.push([Math.min(c.right - 4, Math.max(c.left + 4, c.sx(u))), Math.min(c.bottom - 4, Math.max(c.top + 4, c.sy(v)))]); continue; }
    const key = state.colour === "component" ? colour(m.label[i]) : shade(rank(m, i));
    const px = c.sx(u), py = c.sy(v), open = HOLES.has(i), group = open ? hollow : groups;
    group.set(key, (group.get(key) || "") + (open ? `M${(px - 2.5).toFixed(1)},${py.toFixed(1)}a2.5,2.5 0 1,0 5,0a2.5,2.5 0 1,0 -5,0` : `M${px.toFixed(1)},${py.toFixed(1)}h0`));
  }
  const layer = make("g", { class: "points" }, c.inner);
  for (const [key, d] of groups) make("path", { d, style: `stroke:${key}`, "stroke-width": size, "stroke-linecap": "round", fill: "none", opacity: 0.55 }, layer);
  for (const [key, d] of hollow) make("path", { d, style: `stroke:${key}`, "stroke-width": 1, fill: "none", opacity: 0.8, class: "open" }, layer);
  for (const [px, py] of outside) make("path", { d: `M${px.toFixed(1)},${(py - 4).toFixed(1)}l4,7h-8z`, style: "fill:var(--soft)", class: "outside" }, layer);
  return { hidden, outside: outside.length };
}
function names(c, list) {
  const taken = [];
  for (const { x, y, text } of list) {
    const half = 4.2 * text.length + 2;
    const spots = [[0, 4], [half + 7, 4], [-half - 7, 4], [0, -9], [0, 17]].map(([dx, dy]) => [x + dx, y + dy]);
    const free = spots.find(([u, v]) => u - half > c.left && u + half < c.right && v - 12 > c.top && v + 3 < c.bottom && taken.every(([s, t, h]) => Math.abs(s - u) > half + h || Math.abs(t - v) > 14));
    if (!free) continue;
    taken.push([free[0], free[1], half]);
    make("text", { x: free[0].toFixed(1), y: free[1].toFixed(1), "text-anchor": "middle", class: "name" }, c.names, text);
  }
}
function drawMap(box, m, isB) {
  const wide = box.clientWidth, height = Math.round(Math.min(620, Math.max(300, wide * 0.74)));
  const x = state.x, y = state.y, X = extent(x, state.all);
  if (y === DENSITY) return drawMarginal(box, m, x, X, Math.round(Math.min(460, Math.max(280, wide * 0.6))));
  const c = chart(box, height, X, extent(y, state.all), LABELS[x], LABELS[y]);
  c.svg.setAttribute("aria-label", `${N} rows on ${LABELS[x]} and ${LABELS[y]}, with the ellipses of ${m.used.length} components; the tables below say the same`);
  c.count = points(c, m, x, y, N > 1500 ? 3.2 : 4.2);
  c.rings = make("g", {}, c.inner);
  c.ellipses = make("g", {}, c.inner);
  c.names = make("g", {}, c.svg);
  hover(c, m, x, y);
  return c;
}
function moveEllipses(c, m) {
  if (!c || !c.ellipses) return;
  const frame = shownFrame(m), parts = m.used.map(k => [k, component(m, k, state.x, state.y, frame)]), most = Math.max(...parts.map(p => p[1].w));
  c.ellipses.textContent = ""; c.names.textContent = "";
  for (const [k, one] of parts) {
    const strength = (0.35 + 0.65 * Math.sqrt(one.w / most)).toFixed(2);
    for (const n of [1, 2]) make("path", { d: ellipse(one, n, state.x, state.y, c), style: `stroke:${colour(k)};fill:${n === 1 ? colour(k) : "none"}`, "fill-opacity": 0.08, "stroke-width": n === 1 ? 2 : 1, opacity: strength, class: "ellipse" }, c.ellipses);
  }
  names(c, parts.map(([k, one]) => ({ x: c.sx(real(state.x, one.m[0])), y: c.sy(real(state.y, one.m[1])), text: String(k) })));
}
// One axis: rows as a histogram, components as density curves.
function drawMarginal(box, m, x, X, height) {
  const bins = new Array(60).fill(0), span = X[1] - X[0] || 1;
  let seen = 0, outside = 0;
  for (let i = 0; i < N; i++) {
    const v = coordinate(POINTS, i, x);
    if (Number.isNaN(v)) continue;
    seen++;
    if (v < X[0] || v > X[1]) { outside++; continue; }
    bins[Math.min(59, Math.floor((v - X[0]) / span * 60))]++;
  }
  const rows = bins.map(b => b / seen / (span / 60)), curves = marginal(m, x, X, 240, shownFrame(m));
  const most = Math.max(...rows, ...curves.total.map(p => p[1])) * 1.06;
  const c = chart(box, height, X, [0, most], LABELS[x], "density");
  rows.forEach((h, i) => make("rect", { x: (c.sx(X[0] + i * span / 60) + 0.5).toFixed(1), width: Math.max(1, c.sx(X[0] + span / 60) - c.sx(X[0]) - 1).toFixed(1), y: c.sy(h).toFixed(1), height: Math.max(0, c.sy(0) - c.sy(h)).toFixed(1), style: "fill:var(--bar)", opacity: 0.55 }, c.inner));
  c.curves = make("g", {}, c.inner);
  c.names = make("g", {}, c.svg);
  c.count = { hidden: N - seen, outside };
  return c;
}
function marginal(m, x, X, n, frame) {
  const scale = D.axes[x].scale, grid = [];
  for (let i = 0; i <= n; i++) grid.push(X[0] + i / n * (X[1] - X[0]));
  const each = m.used.map(k => {
    const one = component(m, k, x, DENSITY, frame), sd = Math.sqrt(Math.max(one.s[0], 1e-18)) * scale, mu = real(x, one.m[0]);
    // the top of a narrow curve lies between the points of the grid
    const at = mu > X[0] && mu < X[1] ? [...grid, mu, mu - sd, mu + sd].filter(v => v >= X[0] && v <= X[1]).sort((a, b) => a - b) : grid;
    return { k, mu, top: one.w / (sd * Math.sqrt(2 * Math.PI)), line: at.map(v => [v, one.w * Math.exp(-0.5 * ((v - mu) / sd) ** 2) / (sd * Math.sqrt(2 * Math.PI))]), f: v => one.w * Math.exp(-0.5 * ((v - mu) / sd) ** 2) / (sd * Math.sqrt(2 * Math.PI)) };
  });
  return { each, total: grid.map(v => [v, each.reduce((sum, one) => sum + one.f(v), 0)]) };
}
function moveCurves(c, m) {
  if (!c || !c.curves) return;
  const found = marginal(m, state.x, c.x, 240, shownFrame(m));
  c.curves.textContent = ""; c.names.textContent = "";
  for (const one of found.each) make("path", { d: line(one.line, c), style: `stroke:${colour(one.k)};fill:${colour(one.k)}`, "fill-opacity": 0.12, "stroke-width": 2, class: "ellipse" }, c.curves);
  make("path", { d: line(found.total, c), style: "stroke:var(--ink)", fill: "none", "stroke-width": 1.6, "stroke-dasharray": "5 3", class: "total" }, c.curves);
  names(c, found.each.map(one => ({ x: c.sx(one.mu), y: Math.max(c.top + 14, c.sy(one.top) + 2), text: String(one.k) })));
}
function move() {
  const a = model(state.a);
  moveEllipses(map, a); moveCurves(map, a);
  if (state.b >= 0) { moveEllipses(mapB, model(state.b)); moveCurves(mapB, model(state.b)); }
  if (!a.frames) return;
  const f = a.frames, t = Math.min(state.frame, last(a)), s = f.sampled[t];
  const ends = f.iteration.filter((_, i) => f.sampled[i] === s);
  $("stepnote").textContent = `${f.iteration[t]} of ${ends.at(-1)}${s ? " on the sample" : ""}` + (f.level[t] === null ? "" : `: log-likelihood per row ${short(f.level[t])}`);
  if (curve && curve.dot) { curve.dot.setAttribute("visibility", f.level[t] === null ? "hidden" : "visible"); curve.dot.setAttribute("cx", curve.sx(f.x[t])); curve.dot.setAttribute("cy", curve.sy(f.level[t])); }
}
function hover(c, m, x, y) {
  const tip = $("tip");
  c.svg.addEventListener("pointermove", event => {
    const frame = c.svg.getBoundingClientRect(), px = (event.clientX - frame.left) * c.width / frame.width, py = (event.clientY - frame.top) * c.height / frame.height;
    let best = -1, near = 14 ** 2;
    for (let i = 0; i < N; i++) {
      const d = (c.sx(coordinate(POINTS, i, x)) - px) ** 2 + (c.sy(coordinate(POINTS, i, y)) - py) ** 2;
      if (d < near) { near = d; best = i; }
    }
    tip.hidden = best < 0;
    if (best < 0) return;
    tip.textContent = `row ${whole(NUMBERS[best])}${D.ids ? ` (${clean(D.ids[best])})` : ""}\ncomponent ${named(m.label[best])}, certainty ${(m.sure[best] / 255).toFixed(2)}\nlog-density ${short(m.density[best])}\n${cut(LABELS[x], 40)}: ${short(coordinate(POINTS, best, x))}\n${cut(LABELS[y], 40)}: ${short(coordinate(POINTS, best, y))}${HOLES.has(best) ? "\nhas missing values" : ""}`;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 12;
    tip.style.left = Math.max(4, Math.min(room, event.pageX + 14)) + "px";
    tip.style.top = event.pageY + 14 + "px";
  });
  c.svg.addEventListener("pointerleave", () => { tip.hidden = true; });
}
function drawMaps() {
  const a = model(state.a), side = state.b >= 0, b = side ? model(state.b) : null;
  $("mapcard").className = "card " + (side ? "full" : "wide"); $("side").className = side ? "side full" : "side";
  $("figb").hidden = !side;
  $("capa").hidden = $("capb").hidden = !side;
  $("capa").textContent = `K = ${titled(a)}`;
  map = drawMap($("scatter"), a, false);
  mapB = side ? drawMap($("scatterb"), b, true) : null;
  if (side) $("capb").textContent = `K = ${titled(b)}`;
  legend(a);
  const { hidden, outside } = map.count, notes = [N < D.rows.used ? `${whole(N)} of ${whole(D.rows.used)} rows, drawn at random.` : `All ${whole(N)} rows.`];
  if (state.y === DENSITY) notes.push("Bars: the rows; curves: the components, numbered, and dashed their sum.");
  else notes.push("Ellipses hold one and two standard deviations, numbered by component; red rings: rows below the anomaly threshold.");
  if (outside) notes.push(`${whole(outside)} of them lie${outside === 1 ? "s" : ""} outside the picture${state.y === DENSITY ? "" : ", marked by triangles at its border"}; “Show all rows” widens it.`);
  if (hidden) notes.push(`${whole(hidden)} miss${hidden === 1 ? "es" : ""} ${state.y === DENSITY ? "this value" : "one of these two values"} and ${hidden === 1 ? "is" : "are"} not drawn.`);
  if (HOLES.size && state.y !== DENSITY && !D.plane_is_features && (state.x < D.planar || state.y < D.planar)) notes.push(`Open circles: ${whole(HOLES.size)} rows with missing values, which are taken at their conditional means for these axes alone.`);
  $("scatternote").textContent = notes.join(" ");
}
function legend(m) {
  const box = $("legend");
  box.textContent = "";
  const put = (style, text) => { const s = document.createElement("span"), w = document.createElement("span"); w.className = "swatch"; w.style.background = style; s.append(w, text); box.append(s); };
  if (state.colour === "component") {
    m.used.slice(0, 20).forEach(k => put(colour(k), `${k} (${percent(m.weights[k])})`));
    if (m.used.length > 20) box.append(`and ${m.used.length - 20} lighter ones`);
  } else if (state.colour === "uncertainty") for (let i = 0; i < BINS; i++) put(shade(i), i === BINS - 1 ? `${(i / 2 / BINS).toFixed(2)} and more` : `${(i / 2 / BINS).toFixed(2)} to ${((i + 1) / 2 / BINS).toFixed(2)}`);
  else ["upper half", "20 to 50 %", "5 to 20 %", "2 to 5 %", "0.5 to 2 %", "lowest 0.5 %"].forEach((text, i) => put(shade(i), text));
}

// Curves beside the map -------------------------------------------------------------------------------------------------

function drawCurve(height) {
  const m = model(state.a), f = m.frames;
  curve = null;
  $("curve").textContent = "";
  const path = f ? f.x.map((x, i) => [x, f.level[i]]) : m.trace.map((v, i) => [i + 1, v]);
  const drawn = path.filter(p => p[1] !== null);  // none of steps on a sample with missing values: it was filled in
  $("curvecard").hidden = drawn.length < 2;  // one value is no curve
  if (drawn.length < 2) return;
  const values = drawn.map(p => p[1]), sampled = f ? f.sampled.filter((s, i) => s && f.level[i] !== null).length : 0;
  let lo = Math.min(...values);
  const hi = Math.max(...values), sorted = [...values].sort((a, b) => a - b);
  const tenth = sorted[Math.floor(values.length / 10)];
  if (values.length > 9 && hi - lo > 20 * (hi - tenth) && hi > tenth) lo = tenth - (hi - tenth);  // the first steps would rule the axis
  const pad = Math.max((hi - lo) * 0.06, 5e-4 * Math.max(1, Math.abs(hi)));  // gains at rounding level are no curve
  const c = curve = chart($("curve"), height, [drawn[0][0], drawn.at(-1)[0]], [lo - pad, hi + pad], f ? "iteration" : "pass over the data", "nats per row", true);
  if (sampled) make("path", { d: line(drawn.slice(0, sampled), c), fill: "none", style: "stroke:var(--soft)", "stroke-width": 2, "stroke-dasharray": "5 4", class: "sampled" }, c.inner);
  const read = drawn.slice(sampled);
  make("path", { d: line(read, c), fill: "none", style: "stroke:var(--accent)", "stroke-width": 2 }, c.inner);
  if (read.length < 40) for (const p of read) make("circle", { cx: c.sx(p[0]), cy: c.sy(p[1]), r: 3, style: "fill:var(--accent)" }, c.inner);
  const below = values.filter(v => v < lo - pad).length;
  $("curvenote").textContent = (sampled ? "Dashed: EM on the sample; solid: passes over all rows." : "") + (below ? ` The first ${below} steps lie below the picture.` : "");
  if (f) c.dot = make("circle", { r: 5, style: "fill:var(--alarm)", id: "dot" }, c.svg);
}
function drawDensity(height) {
  const m = model(state.a), unit = m.calibrated ? Math.LN10 : 1, sorted = m.sorted.map(v => v / unit), lo = sorted[Math.floor(0.002 * (sorted.length - 1))], hi = sorted.at(-1), bins = new Array(40).fill(0);
  const span = hi - lo || 1;
  sorted.forEach(v => bins[Math.min(39, Math.max(0, Math.floor((v - lo) / span * 40)))]++);
  const c = density = chart($("density"), height, [lo, lo + span], [0, Math.max(...bins) * 1.05], m.calibrated ? "log10 of the tail probability" : "log-density (nats)", "rows");
  $("densityh").textContent = m.calibrated ? "Tail probability of the rows drawn" : "Log-density of the rows drawn";
  c.unit = unit;
  bins.forEach((n, i) => make("rect", { x: c.sx(lo + i * span / 40) + 0.5, width: Math.max(1, c.sx(lo + span / 40) - c.sx(lo) - 1), y: c.sy(n), height: c.sy(0) - c.sy(n), style: "fill:var(--bar)" }, c.inner));
  c.mark = make("line", { y1: c.top, y2: c.bottom, style: "stroke:var(--alarm)", "stroke-width": 2 }, c.inner);
  c.lo = lo;
}

// Anomalies and uncertain rows ------------------------------------------------------------------------------------------

function threshold() {
  const m = model(state.a), share = +$("cut").value / 100, n = m.sorted.length, count = Math.round(share * n);
  const value = count > 0 ? m.sorted[count - 1] : -Infinity;
  return { share, count, value, n, edge: value + 1e-6 * Math.abs(value) };  // of single precision
}
function moveThreshold() {
  const t = threshold(), m = model(state.a), drawn = new Set();
  if (map && map.rings) {
    map.rings.textContent = "";
    const ring = (u, v, kind) => { if (!Number.isNaN(u) && !Number.isNaN(v)) make("circle", { cx: map.sx(u).toFixed(1), cy: map.sy(v).toFixed(1), r: 5, fill: "none", style: "stroke:var(--alarm)", "stroke-width": 1.6, class: "anomaly " + kind }, map.rings); };
    let left = t.count;
    for (let i = 0; i < N && left > 0; i++) if (m.rank[i] <= t.value) { left--; drawn.add(NUMBERS[i]); ring(coordinate(POINTS, i, state.x), coordinate(POINTS, i, state.y), "drawn"); }
    for (const one of m.lowest) if (t.count && ranked(m, one) <= t.edge && !drawn.has(D.listed[one.at].row)) ring(coordinate(LISTED, one.at, state.x), coordinate(LISTED, one.at, state.y), "listed");
  }
  $("cutnote").textContent = `lowest ${(100 * t.share).toFixed(1)} %: ${whole(t.count)} of ${whole(t.n)} rows drawn` + (t.count ? `, ${m.calibrated ? `tail probability at most ${short(Math.exp(t.value), 3)}` : `log-density at most ${short(t.value)}`}` : "");
  const at = density.sx(Math.max(density.lo, t.count ? t.value / density.unit : density.lo));
  density.mark.setAttribute("x1", at); density.mark.setAttribute("x2", at);
  drawLowest(t);
}
function why([feature, v, expected, z, given]) {
  return `${cut(NAMES[feature], 60)} ${value(v)}: ${Math.abs(z) < 9.95 ? Math.abs(z).toFixed(1) : short(Math.abs(z), 3)} deviations ${z < 0 ? "below" : "above"} ${short(expected)}${given ? ", given its other values" : ""}`;
}
function reasons(list) {
  if (!list.length) return "–";
  const ul = document.createElement("span");
  list.forEach((one, i) => { if (i) ul.append(document.createElement("br")); ul.append(why(one)); });
  return ul;
}
const identity = one => D.ids ? [whole(one.row), clean(one.id)] : [whole(one.row)];
const HEAD = ["row", ...(D.ids ? [clean(D.id_name || "id")] : [])], SHOWN = D.shown.map(j => cut(NAMES[j], 24));
function more(button, open, all, few) {
  button.hidden = all <= few;
  button.textContent = open ? `Show the first ${few}` : `Show ${all}`;
  button.setAttribute("aria-expanded", String(open));
}
const FEW = window.innerWidth > 640 ? 8 : 4;
const ranked = (m, one) => m.calibrated ? one.log_tail : one.logp;
function drawLowest(t) {
  const m = model(state.a), below = m.lowest.filter(one => t.count > 0 && ranked(m, one) <= t.edge), few = state.lowest ? below.length : FEW;
  const rows = below.slice(0, few).map(one => [...identity(D.listed[one.at]), short(one.logp), ...(m.calibrated ? [short(Math.exp(one.log_tail), 3)] : []), named(one.labels[0]), reasons(one.why), ...D.listed[one.at].values.map(value)]);
  table($("lowest"), [...HEAD, "log-density", ...(m.calibrated ? [m.score_kind === "bound" ? "tail probability (at most)" : "tail probability"] : []), "component", "what is unusual", ...SHOWN], rows, { text: ["what is unusual"], empty: "None: move the threshold to the right." });
  more($("morelowest"), state.lowest, below.length, FEW);
  $("lowesth").textContent = m.calibrated ? "Anomalies: the rows of smallest tail probability" : "Anomalies: the rows of lowest density";
  $("lowestnote").textContent = `The lowest of all ${whole(D.rows.used)} rows, not of those drawn alone; row numbers count from 0, without a header. Deviations are those of the component that is nearest to the row.` + (m.calibrated ? " Tail probability: how many rows of the model, seen in the same features, have no larger density; it compares rows that miss different values." : "") + (D.shown.length < NAMES.length ? ` Values of the ${D.shown.length} features, of ${NAMES.length}, that tell the components apart most.` : "") + (HOLES.size ? " Density is that of the values that were observed, – is missing." : "");
}
function drawUncertain() {
  const m = model(state.a), few = state.uncertain ? m.uncertain.length : FEW;
  const rows = m.uncertain.slice(0, few).map(one => [...identity(D.listed[one.at]), `${named(one.labels[0])} (${percent(one.shares[0])})`, one.labels.length > 1 ? `${named(one.labels[1])} (${percent(one.shares[1])})` : "–", ...D.listed[one.at].values.map(value)]);
  table($("uncertain"), [...HEAD, "component", "or", ...SHOWN], rows, { empty: m.used.length > 1 ? "None: every row has one component of more than 99.9 %." : "None: there is one component." });
  more($("moreuncertain"), state.uncertain, m.uncertain.length, FEW);
  const parts = D.sure.map((s, i) => `${whole(m.unsure[i])} below ${s}`);
  $("uncertainnote").textContent = `Certainty is the share of a row's most responsible component. Of ${whole(D.rows.used)} rows, ${parts.join(", ")}.`;
}
function table(element, head, rows, { text = [], empty = "", now = -1 } = {}) {
  element.textContent = "";
  const top = element.createTHead().insertRow();
  for (const h of head) { const th = document.createElement("th"); th.scope = "col"; th.textContent = h; if (text.includes(h)) th.className = "text"; top.append(th); }
  const body = element.createTBody();
  rows.forEach((row, i) => {
    const tr = body.insertRow();
    if (i === now) tr.className = "now";
    row.forEach((v, j) => { const td = tr.insertCell(); td.append(v); td.dataset.label = head[j]; if (text.includes(head[j])) td.className = "text"; });
  });
  if (!rows.length && empty) { const td = body.insertRow().insertCell(); td.colSpan = head.length; td.className = "text soft"; td.textContent = empty; }
}

// Components --------------------------------------------------------------------------------------------------------------

function apart(m, k) {
  return m.phrases[k] ? clean(m.phrases[k]) : "there is no other component";
}
function swatched(k) {
  const span = document.createElement("span"), mark = document.createElement("span");
  mark.className = "swatch"; mark.style.background = colour(k); span.append(mark, named(k));
  return span;
}
function drawComponents() {
  const m = model(state.a);
  const rows = m.used.map(k => [swatched(k), m.weights[k].toFixed(4), whole(m.members[k]), m.certain[k] === null ? "–" : m.certain[k].toFixed(3), apart(m, k)]);
  if (m.background > 0) rows.push([swatched(-1), m.background.toFixed(4), whole(m.members.at(-1)), m.certain.at(-1) === null ? "–" : m.certain.at(-1).toFixed(3), "rows that belong to no component"]);
  table($("components"), ["component", "weight", "rows", "mean certainty", "what sets it apart"], rows, { text: ["what sets it apart"] });
}
// A grid of coloured cells: features down, components across; of one component the features' correlations.
function drawProfile() {
  const m = model(state.a), single = m.used.length === 1, P = D.profiled.length;
  const features = single ? D.axis_features.map((j, i) => [j, D.plane_is_features ? i : i + D.planar]) : D.profiled.map((j, i) => [j, i]);
  const few = single ? Math.min(16, features.length) : Math.max(6, Math.min(24, Math.round(m.used.length * 1.8)));
  const shown = features.slice(0, state.features ? features.length : few);
  $("profilecard").hidden = single && features.length < 2;
  $("componentcard").className = "card " + ($("profilecard").hidden || m.used.length > 12 ? "full" : "wide");
  $("profilecard").className = "card " + (m.used.length > 12 || (single && shown.length > 8) ? "full" : "narrow");
  if ($("profilecard").hidden) return;
  const button = $("allfeatures");
  more(button, state.features, features.length, few);
  if (!button.hidden) button.textContent += " features";
  $("profileh").textContent = single ? "Correlations of the features" : "Profiles: means in overall deviations";
  const T = AXES * (AXES + 1) / 2, k = m.used[0], cov = (i, j) => m.sigma[k * T + triangle(i, j)];
  const columns = single ? shown.map(([j]) => NAMES[j]) : m.used.map(named);
  const at = single ? (i, c) => cov(shown[i][1], shown[c][1]) / Math.sqrt(cov(shown[i][1], shown[i][1]) * cov(shown[c][1], shown[c][1])) : (i, c) => m.profile.apart[m.used[c] * P + shown[i][1]];
  grid($("profile"), shown.map(([j]) => NAMES[j]), columns, at, single ? 1 : 2.5, single);
  $("profilenote").textContent = (single ? "Orange: rise together; blue: one falls as the other rises." : "Orange: above the overall mean, blue: below; features that tell the components apart most come first.") + (features.length < NAMES.length ? ` ${features.length} of ${NAMES.length} features.` : "");
  const head = ["feature", ...m.used.slice(0, 60).map(c => `component ${c}`)];
  $("numbersbox").open = m.used.length <= 6 && window.innerWidth > 900;
  table($("numbers"), head, shown.map(([j, i]) => {
    const row = D.profiled.indexOf(j);
    return [cut(NAMES[j], 32), ...m.used.slice(0, 60).map(c => row < 0 ? "–" : `${short(m.profile.mean[c * P + row])} ± ${short(m.profile.deviation[c * P + row], 3)}`)];
  }), { text: ["feature"] });
}
function grid(box, rows, columns, at, limit, tilted) {
  box.textContent = "";
  const width = Math.max(240, Math.floor(box.clientWidth)), room = Math.min(0.38 * width, 7 * Math.max(...rows.map(r => [...r].length)) + 10);
  const cell = Math.min(64, (width - room - 8) / columns.length), high = Math.max(13, Math.min(24, tilted ? cell : 22)), top = 26;
  const svg = make("svg", { viewBox: `0 0 ${width} ${top + high * rows.length + 4}`, role: "img", "aria-label": "Profiles of the components; the same in numbers below" }, box);
  const every = Math.ceil((7 * Math.max(...columns.map(c => Math.min(6, c.length))) + 8) / cell);
  columns.forEach((text, c) => { if (c % every === 0) make("text", { x: room + (c + 0.5) * cell, y: top - 8, "text-anchor": "middle", class: "small" }, svg, cut(text, Math.max(1, Math.floor(cell * every / 7)))); });
  rows.forEach((text, i) => {
    make("text", { x: room - 6, y: top + (i + 0.5) * high + 4, "text-anchor": "end", class: "small" }, svg, cut(text, Math.max(3, Math.floor((room - 8) / 6.8))));
    columns.forEach((_, c) => {
      const v = at(i, c), strength = Math.round(100 * Math.min(1, Math.abs(v) / limit) ** 0.8) || 0;
      make("rect", { x: (room + c * cell).toFixed(2), y: (top + i * high).toFixed(2), width: Math.max(0.5, cell - 1).toFixed(2), height: high - 1, style: `fill:color-mix(in srgb, ${v < 0 ? "var(--low)" : "var(--high)"} ${strength}%, var(--faint))`, class: "cell" }, svg);
    });
  });
  const tip = $("tip");
  svg.addEventListener("pointermove", event => {
    const frame = svg.getBoundingClientRect(), scale = width / frame.width;
    const c = Math.floor(((event.clientX - frame.left) * scale - room) / cell), i = Math.floor(((event.clientY - frame.top) * scale - top) / high);
    tip.hidden = !(c >= 0 && c < columns.length && i >= 0 && i < rows.length);
    if (tip.hidden) return;
    tip.textContent = `${cut(rows[i], 60)}\n${tilted ? cut(columns[c], 60) : "component " + columns[c]}: ${short(at(i, c), 3)}`;
    tip.style.left = Math.max(4, Math.min(document.documentElement.clientWidth - tip.offsetWidth - 12, event.pageX + 14)) + "px"; tip.style.top = event.pageY + 14 + "px";
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; });
}
// Pairs: below the diagonal rows and ellipses, on it densities, above it ellipses alone, of the other K where one is chosen.
function drawCorner() {
  const box = $("corner"), a = model(state.a), b = state.b >= 0 ? model(state.b) : a;
  const wide = Math.max(240, Math.floor(box.clientWidth)), offset = D.plane_is_features ? 0 : D.planar;
  const order = D.axis_features.map((j, i) => [j, i + offset]).sort((u, v) => D.telling[v[0]] - D.telling[u[0]]).slice(0, wide < 520 ? 3 : 5).map(u => u[1]).sort((u, v) => u - v);
  const n = order.length;
  $("cornercard").hidden = n < 2;
  if (n < 2) return;
  box.textContent = "";
  const left = 46, bottom = 40, size = (wide - left - 6) / n, high = Math.min(size, Math.max(size * 0.62, 110)), height = high * n + bottom + 6;
  const svg = make("svg", { viewBox: `0 0 ${wide} ${height}`, role: "img", "aria-label": `Pairs of the features ${order.map(x => LABELS[x]).join(", ")}` }, box);
  const ranges = order.map(x => widen(extent(x, state.all)));
  order.forEach((y, r) => order.forEach((x, col) => {
    const L = left + col * size, T = 4 + r * high, R = L + size - 6, B = T + high - 6;
    make("rect", { x: L, y: T, width: R - L, height: B - T, style: "stroke:var(--line)", fill: "none" }, svg);
    const X = ranges[col], Y = ranges[r], id = `corner${r}_${col}`;
    make("rect", { x: L, y: T, width: R - L, height: B - T }, make("clipPath", { id }, svg));
    const c = { x: X, y: Y, left: L, right: R, top: T, bottom: B, sx: v => L + (v - X[0]) / (X[1] - X[0]) * (R - L), inner: make("g", { "clip-path": `url(#${id})` }, svg) };
    c.sy = v => B - (v - Y[0]) / (Y[1] - Y[0]) * (B - T);
    if (r === col) {
      const found = marginal(a, x, X, 80), most = Math.max(...found.total.map(p => p[1])) * 1.2;
      c.sy = v => B - v / most * (B - T);
      for (const one of found.each) make("path", { d: line(one.line, c), style: `stroke:${colour(one.k)}`, fill: "none", "stroke-width": 1.5 }, c.inner);
      if (found.each.length > 1) make("path", { d: line(found.total, c), style: "stroke:var(--soft)", fill: "none", "stroke-width": 1, "stroke-dasharray": "4 3", class: "total" }, c.inner);
      make("text", { x: L + 5, y: T + 14, class: "name small" }, svg, cut(LABELS[x], Math.floor((R - L) / 7.5)));
      return;
    }
    const m = r > col ? a : b, parts = m.used.map(k => [k, component(m, k, x, y)]);
    if (r > col) points(c, m, x, y, 2, Math.ceil(N / 700));
    for (const [k, one] of parts) make("path", { d: ellipse(one, r > col ? 1.5 : 2, x, y, c), style: `stroke:${colour(k)};fill:${r > col ? "none" : colour(k)}`, "fill-opacity": 0.12, "stroke-width": 1.4 }, c.inner);
  }));
  order.forEach((x, i) => {
    const X = ranges[i], found = ticks(X[0], X[1], 2), mid = found.at.length ? found.at[Math.floor((found.at.length - 1) / 2)] : X[0], text = tick(mid, found.step);
    make("text", { x: left + i * size + (mid - X[0]) / (X[1] - X[0]) * (size - 6), y: 4 + n * high + 10, "text-anchor": "middle", class: "small" }, svg, text);
    if (i) make("text", { x: left - 4, y: 4 + i * high + (high - 6) * (1 - (mid - X[0]) / (X[1] - X[0])) + 4, "text-anchor": "end", class: "small" }, svg, cut(text, 6));
    make("text", { x: left + (i + 0.5) * size - 3, y: 4 + n * high + 27, "text-anchor": "middle", class: "small" }, svg, cut(LABELS[x], Math.floor(size / 7)));
  });
  $("cornernote").textContent = (n < D.axis_features.length ? `The ${n} features of ${NAMES.length} that tell the components apart most. ` : "") + `Below the diagonal: rows, and ellipses of 1.5 deviations; on it: densities${a.used.length > 1 ? ", dashed their sum" : ""}; above it: ellipses of two deviations${b !== a ? ` of K = ${titled(b)}` : ""}.`;
}

// Choice of K and two K side by side ----------------------------------------------------------------------------------------

// All criteria where there is one covariance type; the deciding one, a line for each type, where there are several.
function drawCurvesOfK(known) {
  const kinds = [...new Set(D.models.map(m => m.kind))], several = kinds.length > 1;
  const drawn = several ? [known.includes(D.criterion) ? D.criterion : known[0]] : known;
  const Ks = D.models.map(m => m.K), all = D.models.flatMap(m => drawn.map(n => m[n])), lo = Math.min(...all);
  const sorted = [...all].sort((u, v) => u - v), typical = sorted[Math.floor(0.7 * (sorted.length - 1))];
  let hi = sorted.at(-1);
  if (D.models.length > 2 && hi - lo > 2.5 * (typical - lo) && typical > lo) hi = lo + 1.6 * (typical - lo);  // or K = 1 would rule the axis
  const pad = (hi - lo) * 0.06 || 1, height = Math.max(260, Math.min(420, 44 + 31 * D.models.length)), what = several ? drawn[0].toUpperCase() : "criterion";
  const c = chart($("criteria"), height, [Math.min(...Ks) - 0.3, Math.max(...Ks) + 0.3], [lo - pad, hi + pad], "number of components K", what + " (smaller is better)", true);
  const above = new Set(), note = $("criterianote"), least = (models, n) => models.reduce((u, v) => v[n] < u[n] ? v : u).K;
  note.textContent = several ? `${what}, one line for each covariance type, and the K where it is least: ` : drawn.map((n, i) => `${n.toUpperCase()} (${["solid", "dashed", "dotted"][i]}): least at K = ${least(D.models, n)}`).join("; ") + (D.elbow ? `; elbow at K = ${D.elbow}` : "") + ". ";
  kinds.forEach((kind, j) => {
    const own = D.models.filter(m => m.kind === kind);
    drawn.forEach((name, i) => {
      const hue = colour(several ? j : i);
      make("path", { class: "criterion", d: line(own.map(m => [m.K, m[name]]), c), fill: "none", style: `stroke:${hue}`, "stroke-width": 2, "stroke-dasharray": ["", "6 4", "2 3"][i], opacity: 0.85 }, c.inner);
      for (const m of own) {
        if (m[name] > hi + pad) { above.add(several ? m.name : `K = ${m.K}`); make("path", { d: `M${c.sx(m.K).toFixed(1)},${c.top + 1}l5,9h-10z`, style: `fill:${hue}`, class: "above" }, c.svg); }
        else make("circle", { cx: c.sx(m.K), cy: c.sy(m[name]), r: D.models[state.a] === m ? 6 : 3, style: `fill:${hue}` }, c.inner);
      }
      if (several) {
        const swatch = document.createElement("span");
        swatch.className = "swatch"; swatch.style.background = hue;
        note.append(swatch, `${kind} (${least(own, name)})` + (j < kinds.length - 1 ? ", " : ". "));
      }
    });
  });
  note.append(several ? "The large dot is the model shown." : "The large dots are the K shown.");
  if (above.size) note.append(` Triangles: ${[...above].slice(0, 8).join("; ")}${above.size > 8 ? " and others" : ""} lie${above.size > 1 ? "" : "s"} above the picture.`);
}
function drawCriteria() {
  const several = D.models.length > 1;
  for (const id of ["criteriabox", "tablebox", "kbox", "besidebox"]) $(id).hidden = !several;
  if (!several) return;
  const known = ["bic", "aic", "icl"].filter(n => D.models.every(m => m[n] !== null && m[n] !== undefined));
  $("criteriabox").hidden = !known.length;
  if (known.length) drawCurvesOfK(known);
  const name = known[0];
  table($("every"), ["K", ...(name ? [name.toUpperCase()] : []), "nats/row", "certainty < 0.8", "note"],
    D.models.map(m => [titled(m), ...(name ? [whole(m[name])] : []), m.log_density.toFixed(3), percent(m.unsure[1] / D.rows.used), cut(clean(m.note || "–"), 160)]), { text: ["note"], now: state.a });
}
function drawBeside() {
  const side = state.b >= 0;
  $("besidecard").hidden = !side;
  if (!side) return;
  const a = model(state.a), b = model(state.b);
  $("besideh").textContent = `K = ${titled(a)} beside K = ${titled(b)}`;
  const smallest = m => Math.min(...m.used.map(k => m.members[k]));
  const lines = [["log-density per row", m => short(m.log_density, 7)], ...["bic", "aic", "icl"].filter(n => a[n] != null && b[n] != null).map(n => [n.toUpperCase(), m => whole(m[n])]), ["rows of the smallest component", m => whole(smallest(m))], [`rows of certainty below ${D.sure[1]}`, m => whole(m.unsure[1])]];
  table($("versus"), ["", `K = ${titled(a)}`, `K = ${titled(b)}`], lines.map(([text, f]) => [text, f(a), f(b)]), { text: [""] });
  const list = $("flows");
  list.textContent = "";
  for (const k of a.used) {
    const to = new Map();
    let n = 0;
    for (let i = 0; i < N; i++) if (a.label[i] === k) { n++; to.set(b.label[i], (to.get(b.label[i]) || 0) + 1); }
    const parts = [...to].filter(one => one[1] >= 0.05 * n).sort((u, v) => v[1] - u[1]).map(([j, count]) => `${named(j)} (${percent(count / n)})`), li = document.createElement("li");
    li.textContent = n ? `Component ${k} of the first: ${parts.length > 1 ? "its rows are shared by" : "its rows are in"} ${parts.join(", ")} of the second.` : `Component ${k} of the first: none of the rows drawn.`;
    list.append(li);
  }
}

// What was found, and the whole page ------------------------------------------------------------------------------------------

function drawFacts() {
  const m = model(state.a), facts = $("facts"), list = $("findings");
  facts.textContent = ""; list.textContent = "";
  for (const [name, v] of [...m.facts, ...D.facts]) {
    const tr = facts.insertRow(), head = tr.insertCell(), cell = tr.insertCell();
    head.className = "text soft"; head.textContent = name; cell.textContent = typeof v === "number" ? (Number.isInteger(v) || Math.abs(v) >= 1e5 ? whole(v) : short(v)) : v === null ? "–" : v;
  }
  $("factscard").hidden = !facts.rows.length; $("findingscard").className = "card " + (facts.rows.length ? "half" : "full");
  for (const f of m.findings) {
    const li = document.createElement("li"), b = document.createElement("span");
    b.className = "level"; b.textContent = clean(f.title) + ". "; li.append(b, clean(f.text)); list.append(li);
  }
  if (!m.findings.length) { const li = document.createElement("li"); li.textContent = "Nothing to object to."; list.append(li); }
}
function drawKey() {
  const m = model(state.a), box = $("key");
  box.textContent = "";
  const put = (name, v) => { const div = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd"); dt.textContent = name; dd.textContent = v; div.append(dt, dd); box.append(div); };
  put("rows", whole(D.rows.used)); put("features", whole(NAMES.length)); put("components", whole(m.used.length));
  put("log-density per row", short(m.log_density, 7)); put("rows of certainty below 0.8", percent(m.unsure[1] / D.rows.used));
  if (m.bic !== null && m.bic !== undefined) put("BIC", whole(m.bic));
}
function drawAll() {
  drawKey(); drawMaps();
  const side = state.b >= 0 || window.innerWidth <= 900, room = Math.round($("scatternote").getBoundingClientRect().bottom - $("mapcard").getBoundingClientRect().top);
  const height = side ? 230 : Math.max(190, Math.round((room - 162) / 2));
  drawCurve(height); drawDensity($("curvecard").hidden && !side ? room - 50 : height);
  drawCriteria(); drawBeside(); drawComponents(); drawProfile(); drawCorner(); drawUncertain(); drawFacts(); move(); moveThreshold();
}
function choose(index) {
  state.a = index;
  if (state.b === index) { state.b = -1; $("beside").value = "-1"; }
  const m = model(index);
  state.frame = last(m);
  $("stepbox").hidden = !m.frames;
  $("step").max = state.frame; $("step").value = state.frame;
  reachable();
  $("knote").textContent = clean(m.note || "") === "(no name)" ? "" : `K = ${titled(m)}: ${clean(m.note)}`;
  drawAll();
}
function reachable() {
  const m = model(state.a), off = !framed(m) || last(m) === 0;
  $("step").disabled = off; $("play").disabled = off;
}
function stop() { clearInterval(state.timer); state.timer = null; $("play").textContent = "Play"; }
function option(select, v, text) { const o = document.createElement("option"); o.value = v; o.textContent = text; select.append(o); }
function begin() {
  paint();
  $("title").textContent = clean(D.title); document.title = clean(D.title); $("subtitle").textContent = clean(D.subtitle) === "(no name)" ? "" : clean(D.subtitle);
  D.models.forEach((m, i) => { option($("k"), i, titled(m)); option($("beside"), i, titled(m)); });
  $("beside").insertAdjacentElement("afterbegin", Object.assign(document.createElement("option"), { value: "-1", textContent: "none" }));
  LABELS.forEach((text, i) => { const name = i < D.planar && !D.plane_is_features ? text.replace(/ \(.*/, "") : cut(text, 50); option($("across"), i, name); option($("up"), i, name); });
  option($("up"), DENSITY, "density");
  for (const [v, text] of [["component", "component"], ["uncertainty", "uncertainty of the label"], ["density", "log-density"]]) option($("colour"), v, text);
  $("k").value = D.best; $("beside").value = "-1"; $("across").value = state.x; $("up").value = state.y;
  $("play").addEventListener("click", () => {
    if (state.timer) return stop();
    const m = model(state.a);
    if (state.frame === last(m)) state.frame = -1;
    $("play").textContent = "Pause";
    state.timer = setInterval(() => {
      state.frame++; $("step").value = state.frame; move();
      if (state.frame >= last(m)) stop();
    }, Math.max(60, Math.min(400, 6000 / (last(m) + 1))));
  });
  $("step").addEventListener("input", () => { stop(); state.frame = +$("step").value; move(); });
  $("cut").addEventListener("input", moveThreshold);
  $("k").addEventListener("change", () => { stop(); choose(+$("k").value); });
  $("beside").addEventListener("change", () => { state.b = +$("beside").value === state.a ? -1 : +$("beside").value; $("beside").value = state.b; drawAll(); });
  for (const [id, key] of [["across", "x"], ["up", "y"]]) $(id).addEventListener("change", () => { stop(); state[key] = +$(id).value; state.frame = last(model(state.a)); $("step").value = state.frame; reachable(); drawAll(); });
  $("colour").addEventListener("change", () => { state.colour = $("colour").value; drawAll(); });
  $("extent").addEventListener("click", () => { state.all = !state.all; $("extent").setAttribute("aria-pressed", String(state.all)); $("extent").textContent = state.all ? "Show most rows" : "Show all rows"; drawAll(); });
  $("allfeatures").addEventListener("click", () => { state.features = !state.features; drawProfile(); });
  $("moreuncertain").addEventListener("click", () => { state.uncertain = !state.uncertain; drawUncertain(); });
  $("morelowest").addEventListener("click", () => { state.lowest = !state.lowest; drawLowest(threshold()); });
  let width = window.innerWidth;
  window.addEventListener("resize", () => { if (window.innerWidth !== width) { width = window.innerWidth; drawAll(); } });
  choose(D.best);
  for (const box of document.querySelectorAll(".scroll")) if (box.scrollWidth > box.clientWidth || box.scrollHeight > box.clientHeight) { box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", box.closest("section").querySelector("h2").textContent); }
}
begin();
