"use strict";
// Drawing: data in, pixels out. What is shown (`view`) is changed by report.js.
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("map");
const context = canvas.getContext("2d");
const MIB = 2 ** 20, LEFT = 66, RIGHT = 12, GAP = 14, HOME = 16, AXIS = 34, LANE = 26, TITLE = 20;
const [TENSOR, LAYER, START, FILLED, END, OFFSET, SIZE] = [0, 1, 2, 3, 4, 5, 6]; // of a box
const total = Math.max(...data.runs.map((run) => run.total), 1e-30);
const view = { from: 0, to: total, hovered: -1, pinned: -1, matches: null, arrows: false, waits: false };
let colors = {};

// Panels from top to bottom, for each run: its instructions and waits, a map per fast layer, occupancy, link use.
const panels = [];
const share = 1 / Math.max(data.runs.length, 1);
let height = 4;
for (const run of data.runs) {
  const add = (panel) => {
    panels.push({ ...panel, run, top: height });
    height += panel.height + GAP;
  };
  if (data.runs.length > 1) height += TITLE;
  add({ kind: "steps", height: LANE });
  const mapHeight = Math.max(130, (460 * (share + 1)) / 2 / (data.layers.length - 1));
  for (let layer = 1; layer < data.layers.length; layer++) add({ kind: "map", layer, height: mapHeight });
  add({ kind: "occupancy", height: 70 * (0.4 + 0.6 * share) + 8 });
  data.links.forEach((name, link) => add({ kind: "link", link, height: 60 * (0.4 + 0.6 * share) + 8 }));
}
height += AXIS - GAP;

const width = () => canvas.clientWidth;
const x = (seconds) => LEFT + ((seconds - view.from) / (view.to - view.from)) * (width() - LEFT - RIGHT);
const secondsAt = (pixel) => view.from + ((pixel - LEFT) / (width() - LEFT - RIGHT)) * (view.to - view.from);
const y = (panel, bytes) => panel.top + (panel.height - HOME) * (1 - bytes / data.capacities[panel.layer]);
const homeY = (panel) => panel.top + panel.height - HOME / 2;

function time(seconds) {
  const [size, unit] = seconds >= 1 ? [1, "s"] : seconds >= 1e-3 ? [1e-3, "ms"] : [1e-6, "µs"];
  return `${+(seconds / size).toPrecision(5)} ${unit}`;
}
const bytes = (size) => (size >= MIB ? `${(size / MIB).toFixed(2)} MiB` : `${(size / 1024).toFixed(1)} KiB`);

function firstAtLeast(edges, value) {
  let low = 0, high = edges.length - 1;
  while (low < high) { const middle = (low + high) >> 1; if (edges[middle] < value) low = middle + 1; else high = middle; }
  return low;
}

function readColors() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "ink", "soft", "line", "strip", "edge", "in", "out", "stall", "busy", "mark"])
    colors[name] = style.getPropertyValue(`--${name}`).trim() || "#888";
}

function area(panel, edges, lows, highs, color) {
  const level = (value) => panel.top + panel.height * (1 - Math.min(value, 1));
  context.fillStyle = color;
  context.beginPath();
  const first = Math.max(firstAtLeast(edges, view.from) - 1, 0), last = Math.min(firstAtLeast(edges, view.to), highs.length - 1);
  for (let i = first; i <= last; i++) {
    const bottom = level(lows ? lows[i] : 0), top = level((lows ? lows[i] : 0) + highs[i]);
    context.rect(x(edges[i]), top, x(edges[i + 1]) - x(edges[i]), bottom - top);
  }
  context.fill();
}

function hatch(left, top, wide, high, color) {
  context.save();
  context.beginPath();
  context.rect(left, top, wide, high);
  context.clip();
  context.globalAlpha *= 0.3;
  context.fillStyle = color;
  context.fillRect(left, top, wide, high);
  context.globalAlpha *= 3;
  context.strokeStyle = color;
  context.beginPath();
  const start = Math.max(left, LEFT) - high, end = Math.min(left + wide, width());
  for (let k = Math.ceil(start / 6) * 6; k < end; k += 6) { context.moveTo(k, top + high); context.lineTo(k + high, top); }
  context.stroke();
  context.restore();
}

const isChosen = (tensor) => tensor === view.pinned || tensor === view.hovered || (view.matches !== null && view.matches.tensors.has(tensor));
const someChosen = () => view.pinned >= 0 || (view.matches !== null && view.matches.size > 0);

function drawBox(panel, box) {
  const [tensor, , start, filled, end, offset, size] = box;
  const [name, , color, , labelColor] = data.tensors[tensor];
  const top = y(panel, offset + size), high = Math.max(y(panel, offset) - top, 0.5);
  const left = Math.max(x(start), LEFT), right = Math.min(x(end), width() - RIGHT);
  context.globalAlpha = someChosen() && !isChosen(tensor) ? 0.22 : 1;
  if (filled > start) hatch(x(start), top, x(filled) - x(start), high, color);
  if (end > filled) {
    context.fillStyle = color;
    context.fillRect(x(filled), top, Math.max(x(end) - x(filled), 0.6), high);
  }
  context.strokeStyle = colors.edge;
  context.lineWidth = 0.6;
  if (right - left > 2) context.strokeRect(x(start), top, x(end) - x(start), high);
  if (tensor === view.pinned || tensor === view.hovered) {
    context.strokeStyle = colors.mark;
    context.lineWidth = 1.6;
    context.strokeRect(x(start), top, Math.max(x(end) - x(start), 1), high);
  }
  const solid = Math.max(x(filled), left); // where the copy is under way, the fill is no one colour
  if (high > 11 && right - solid > name.length * 6.2 && context.globalAlpha === 1) {
    context.fillStyle = labelColor;
    context.textAlign = "center";
    context.fillText(name, (solid + right) / 2, top + high / 2 + 4);
  }
  context.globalAlpha = 1;
}

function drawMap(panel) {
  context.fillStyle = colors.strip;
  context.fillRect(LEFT, panel.top + panel.height - HOME, width() - LEFT - RIGHT, HOME);
  for (const box of panel.run.boxes)
    if (box[LAYER] === panel.layer && box[END] >= view.from && box[START] <= view.to) drawBox(panel, box);
  const opacity = Math.min(0.9, 0.3 + 25 / (1 + (panel.run.arrows.length * (view.to - view.from)) / total));
  for (const arrow of panel.run.arrows) {
    const own = arrow[0] === view.pinned || arrow[0] === view.hovered;
    if (view.arrows || own) drawArrow(panel, arrow, own ? 1 : opacity);
  }
  context.fillStyle = colors.soft;
  context.textAlign = "left";
  context.fillText(data.layers[0], LEFT + 4, homeY(panel) + 4);
}

function endpoints(panel, [, source, target, issue, finish]) {
  const places = [source, target].map((i) => (i < 0 ? null : panel.run.boxes[i]));
  if (!places.some((box) => box && box[LAYER] === panel.layer)) return null;
  const middle = (box) => y(panel, box[OFFSET] + box[SIZE] / 2);
  const heights = places.map((box) => (box && box[LAYER] === panel.layer ? middle(box) : homeY(panel)));
  const inward = places[1] !== null && places[1][LAYER] === panel.layer;
  return { x1: x(issue), y1: heights[0], x2: x(finish), y2: heights[1], inward };
}

function drawArrow(panel, arrow, opacity) {
  if (arrow[4] < view.from || arrow[3] > view.to) return;
  const ends = endpoints(panel, arrow);
  if (!ends) return;
  const { x1, y1, x2, y2, inward } = ends, angle = Math.atan2(y2 - y1, x2 - x1);
  context.globalAlpha = opacity;
  context.strokeStyle = context.fillStyle = inward ? colors.in : colors.out;
  context.lineWidth = opacity === 1 ? 1.8 : 1;
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
  context.beginPath();
  context.moveTo(x2, y2);
  for (const turn of [-0.4, 0.4]) context.lineTo(x2 - 7 * Math.cos(angle + turn), y2 - 7 * Math.sin(angle + turn));
  context.fill();
  context.globalAlpha = 1;
}

// Instructions above, waits below, on one lane: neighbours narrower than a pixel are drawn as one.
function drawSteps(panel) {
  const { edges, stalls } = panel.run, half = panel.height - 9;
  const first = Math.max(firstAtLeast(edges, view.from) - 1, 0);
  let drawn = -1;
  for (let step = first; step + 1 < edges.length && edges[step] <= view.to; step++) {
    const left = x(edges[step]), right = x(edges[step + 1]);
    if (right < drawn + 0.7) continue;
    drawn = right;
    const [name, opcode] = data.steps[step], found = view.matches !== null && view.matches.steps.has(step);
    context.globalAlpha = found ? 1 : someChosen() ? 0.25 : 0.75;
    context.fillStyle = found ? colors.mark : step % 2 ? colors.busy : colors.line;
    context.fillRect(left, panel.top, Math.max(right - left, 0.7), half);
    context.globalAlpha = 1;
    if (right - left > (name.length + 2) * 6) {
      context.fillStyle = found ? colors.paper : colors.ink;
      context.textAlign = "center";
      context.fillText(name || opcode, (Math.max(left, LEFT) + Math.min(right, width() - RIGHT)) / 2, panel.top + half / 2 + 4);
    }
  }
  context.fillStyle = colors.stall;
  for (const [start, end] of stalls)
    if (end >= view.from && start <= view.to) context.fillRect(x(start), panel.top + half + 2, Math.max(x(end) - x(start), 1), 7);
}

function shadeWaits(panel) {
  context.fillStyle = colors.stall;
  context.globalAlpha = 0.16;
  for (const [start, end] of panel.run.stalls)
    if (end >= view.from && start <= view.to) context.fillRect(x(start), panel.top, Math.max(x(end) - x(start), 0.6), panel.height);
  context.globalAlpha = 1;
}

function frame(panel) {
  const labels = { steps: "", occupancy: "occupied", map: `${data.layers[panel.layer]} address`, link: `${data.links[panel.link]}` };
  context.strokeStyle = colors.line;
  context.lineWidth = 1;
  context.strokeRect(LEFT, panel.top, width() - LEFT - RIGHT, panel.height);
  context.fillStyle = colors.soft;
  context.textAlign = "right";
  if (panel.kind === "steps") {
    context.fillText("steps", LEFT - 5, panel.top + 11);
    context.fillStyle = colors.stall;
    context.fillText("waits", LEFT - 5, panel.top + panel.height);
    return;
  }
  const top = panel.kind === "map" ? bytes(data.capacities[panel.layer]) : "100 %";
  context.fillText(top, LEFT - 5, panel.top + 10);
  context.fillText("0", LEFT - 5, panel.top + panel.height - (panel.kind === "map" ? HOME : 0));
  context.save();
  context.translate(12, panel.top + panel.height / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText(labels[panel.kind], 0, 0);
  context.restore();
}

function drawAxis() {
  const step = 10 ** Math.floor(Math.log10((view.to - view.from) / 5));
  const every = [1, 2, 5, 10].map((k) => k * step).find((k) => (view.to - view.from) / k <= 9);
  context.fillStyle = colors.soft;
  context.textAlign = "center";
  for (let t = Math.ceil(view.from / every) * every; t <= view.to; t += every) {
    context.fillRect(x(t), height - AXIS, 1, 5);
    context.fillText(time(t), x(t), height - AXIS + 18);
  }
}

function drawPanel(panel) {
  const { run } = panel;
  context.save();
  context.beginPath();
  context.rect(LEFT, panel.top, width() - LEFT - RIGHT, panel.height);
  context.clip();
  if (panel.kind === "steps") drawSteps(panel);
  else if (panel.kind === "map") drawMap(panel);
  else if (panel.kind === "occupancy") {
    for (let layer = 1; layer < data.layers.length; layer++) {
      const part = run.occupancy[layer].map((size) => size / data.capacities[layer]);
      area(panel, run.edges, null, part, ["#4c78a8", "#f58518aa", "#54a24baa"][(layer - 1) % 3]);
    }
  } else {
    area(panel, run.linkEdges, null, run.linkInstructions[panel.link], colors.busy);
    area(panel, run.linkEdges, run.linkInstructions[panel.link], run.linkCopies[panel.link], colors.in);
  }
  if (view.waits && panel.kind !== "steps") shadeWaits(panel);
  context.restore();
  frame(panel);
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  readColors();
  canvas.width = Math.round(width() * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.font = "11px system-ui, sans-serif";
  context.clearRect(0, 0, width(), height);
  for (const panel of panels) {
    drawPanel(panel);
    if (panel.kind === "steps" && data.runs.length > 1) {
      context.font = "bold 13px system-ui, sans-serif";
      context.fillStyle = colors.ink;
      context.textAlign = "left";
      context.fillText(`${panel.run.label}: ${time(panel.run.total)}`, LEFT, panel.top - 6);
      context.font = "11px system-ui, sans-serif";
    }
  }
  drawAxis();
}
