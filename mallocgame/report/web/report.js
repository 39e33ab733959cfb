"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.getElementById("map");
const tip = document.getElementById("tip");
const context = canvas.getContext("2d");
const MIB = 2 ** 20, LEFT = 66, RIGHT = 12, GAP = 16, HOME = 16, AXIS = 34;
const IN = "#1f4e79", OUT = "#a8410f", BUSY = "#9db4c8";
const mapHeight = Math.max(150, 440 / (data.layers.length - 1));
let from = 0, to = data.total, dragged = null;

// Panels from top to bottom: a map per fast layer, occupancy, use of each link.
const panels = [];
for (let layer = 1; layer < data.layers.length; layer++) panels.push({ kind: "map", layer, height: mapHeight });
panels.push({ kind: "occupancy", height: 90 });
data.links.forEach((name, link) => panels.push({ kind: "link", link, height: 80 }));
let height = 4;
for (const panel of panels) { panel.top = height; height += panel.height + GAP; }
height += AXIS - GAP;

const width = () => canvas.clientWidth;
const x = (seconds) => LEFT + ((seconds - from) / (to - from)) * (width() - LEFT - RIGHT);
const secondsAt = (pixel) => from + ((pixel - LEFT) / (width() - LEFT - RIGHT)) * (to - from);
const y = (panel, bytes) => panel.top + (panel.height - HOME) * (1 - bytes / data.capacities[panel.layer]);
const homeY = (panel) => panel.top + panel.height - HOME / 2;
const share = (panel, value) => panel.top + panel.height * (1 - Math.min(value, 1));

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

function area(panel, edges, lows, highs, color) {
  context.fillStyle = color;
  context.beginPath();
  const first = Math.max(firstAtLeast(edges, from) - 1, 0), last = Math.min(firstAtLeast(edges, to), highs.length - 1);
  for (let i = first; i <= last; i++) {
    const bottom = share(panel, lows ? lows[i] : 0), top = share(panel, (lows ? lows[i] : 0) + highs[i]);
    context.rect(x(edges[i]), top, x(edges[i + 1]) - x(edges[i]), bottom - top);
  }
  context.fill();
}

function hatch(left, top, wide, high, color) {
  context.save();
  context.beginPath();
  context.rect(left, top, wide, high);
  context.clip();
  context.globalAlpha = 0.3;
  context.fillStyle = color;
  context.fillRect(left, top, wide, high);
  context.globalAlpha = 0.9;
  context.strokeStyle = color;
  context.beginPath();
  const start = Math.max(left, LEFT) - high, end = Math.min(left + wide, width());
  for (let k = Math.ceil(start / 6) * 6; k < end; k += 6) { context.moveTo(k, top + high); context.lineTo(k + high, top); }
  context.stroke();
  context.restore();
}

function drawMap(panel) {
  context.fillStyle = "#e4e4e4";
  context.fillRect(LEFT, panel.top + panel.height - HOME, width() - LEFT - RIGHT, HOME);
  for (const [name, color, layer, start, filled, end, offset, size] of data.boxes) {
    if (layer !== panel.layer || end < from || start > to) continue;
    const top = y(panel, offset + size), high = Math.max(y(panel, offset) - top, 0.5);
    if (filled > start) hatch(x(start), top, x(filled) - x(start), high, color);
    if (end > filled) {
      context.fillStyle = color;
      context.fillRect(x(filled), top, Math.max(x(end) - x(filled), 0.4), high);
    }
    context.strokeStyle = "#fff";
    context.lineWidth = 0.6;
    context.strokeRect(x(start), top, x(end) - x(start), high);
    const left = Math.max(x(start), LEFT), right = Math.min(x(end), width() - RIGHT);
    if (high > 11 && right - left > name.length * 6.2) {
      context.fillStyle = "#222";
      context.textAlign = "center";
      context.fillText(name, (left + right) / 2, top + high / 2 + 4);
    }
  }
  const opacity = Math.min(0.9, 0.3 + 25 / (1 + data.arrows.length * (to - from) / data.total));
  for (const arrow of data.arrows) drawArrow(panel, arrow, opacity);
  context.fillStyle = "#555";
  context.textAlign = "left";
  context.fillText(data.layers[0], LEFT + 4, homeY(panel) + 4);
}

function endpoints(panel, [, source, target, issue, finish]) {
  const places = [source, target].map((i) => (i < 0 ? null : data.boxes[i]));
  if (!places.some((box) => box && box[2] === panel.layer)) return null;
  const heights = places.map((box) => (box && box[2] === panel.layer ? y(panel, box[6] + box[7] / 2) : homeY(panel)));
  const inward = places[1] !== null && places[1][2] === panel.layer;
  return { x1: x(issue), y1: heights[0], x2: x(finish), y2: heights[1], color: inward ? IN : OUT };
}

function drawArrow(panel, arrow, opacity) {
  if (arrow[4] < from || arrow[3] > to) return;
  const ends = endpoints(panel, arrow);
  if (!ends) return;
  const { x1, y1, x2, y2, color } = ends, angle = Math.atan2(y2 - y1, x2 - x1);
  context.globalAlpha = opacity;
  context.strokeStyle = context.fillStyle = color;
  context.lineWidth = 1;
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

function frame(panel, label, top, bottom) {
  context.strokeStyle = "#bbb";
  context.lineWidth = 1;
  context.strokeRect(LEFT, panel.top, width() - LEFT - RIGHT, panel.height);
  context.fillStyle = "#444";
  context.textAlign = "right";
  context.fillText(top, LEFT - 5, panel.top + 10);
  context.fillText(bottom, LEFT - 5, panel.top + panel.height - (panel.kind === "map" ? HOME : 0));
  context.save();
  context.translate(14, panel.top + panel.height / 2);
  context.rotate(-Math.PI / 2);
  context.textAlign = "center";
  context.fillText(label, 0, 0);
  context.restore();
}

function drawAxis() {
  const step = 10 ** Math.floor(Math.log10((to - from) / 5));
  const every = [1, 2, 5, 10].map((k) => k * step).find((k) => (to - from) / k <= 9);
  context.fillStyle = "#444";
  context.textAlign = "center";
  for (let t = Math.ceil(from / every) * every; t <= to; t += every) {
    context.fillRect(x(t), height - AXIS, 1, 5);
    context.fillText(time(t), x(t), height - AXIS + 18);
  }
}

function draw() {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width() * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.font = "11px system-ui, sans-serif";
  context.clearRect(0, 0, width(), height);
  for (const panel of panels) {
    context.save();
    context.beginPath();
    context.rect(LEFT, panel.top, width() - LEFT - RIGHT, panel.height);
    context.clip();
    if (panel.kind === "map") drawMap(panel);
    else if (panel.kind === "occupancy") {
      for (let layer = 1; layer < data.layers.length; layer++) {
        const part = data.occupancy[layer].map((size) => size / data.capacities[layer]);
        area(panel, data.edges, null, part, ["#4c78a8", "#f58518aa", "#54a24baa"][(layer - 1) % 3]);
      }
    } else {
      area(panel, data.linkEdges, null, data.linkInstructions[panel.link], BUSY);
      area(panel, data.linkEdges, data.linkInstructions[panel.link], data.linkCopies[panel.link], IN);
    }
    context.fillStyle = "rgba(214,39,40,0.25)";
    for (const [start, end] of data.stalls) {
      if (end >= from && start <= to) context.fillRect(x(start), panel.top, Math.max(x(end) - x(start), 0.6), panel.height);
    }
    context.restore();
    if (panel.kind === "map") frame(panel, `${data.layers[panel.layer]} address`, bytes(data.capacities[panel.layer]), "0");
    else frame(panel, panel.kind === "link" ? `${data.links[panel.link]} use` : "occupied", "100 %", "0");
  }
  drawAxis();
}

function near({ x1, y1, x2, y2 }, px, py) {
  const dx = x2 - x1, dy = y2 - y1;
  const k = Math.max(0, Math.min(1, ((px - x1) * dx + (py - y1) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(px - x1 - k * dx, py - y1 - k * dy) < 4;
}

function explain(px, py) {
  const panel = panels.find((each) => py >= each.top && py <= each.top + each.height);
  if (!panel || px < LEFT) return null;
  const at = secondsAt(px), lines = [];
  if (panel.kind === "map") {
    for (const arrow of data.arrows) {
      const ends = endpoints(panel, arrow);
      if (ends && near(ends, px, py)) {
        const [name, source, target, issue, finish, size, executions] = arrow;
        const place = (i) => (i < 0 ? data.layers[0] : data.layers[data.boxes[i][2]]);
        lines.push(`copy of ${name}: ${place(source)} to ${place(target)}, ${bytes(size)}` +
          (executions > 1 ? ` × ${executions}` : "") + `\n${time(issue)} to ${time(finish)}`);
        if (lines.length === 3) break;
      }
    }
    const box = data.boxes.find(([, , layer, start, , end, offset, size]) => layer === panel.layer && start <= at &&
      at < end && py <= y(panel, offset) && py >= y(panel, offset + size));
    if (box) lines.push(`${box[0]}: ${bytes(box[7])} at offset ${box[6]}\n${time(box[3])} to ${time(box[5])}` +
      (at < box[4] ? ", still being copied" : ""));
  }
  const step = Math.max(firstAtLeast(data.edges, at) - 1, 0);
  const stall = data.stalls.find(([start, end]) => start <= at && at < end);
  if (stall) lines.push(`stall of ${time(stall[1] - stall[0])}`);
  lines.push(`step ${step}, ${time(at)}`);
  return lines.join("\n");
}

function zoom(pixel, factor) {
  const at = secondsAt(pixel), span = Math.max((to - from) * factor, data.total * 1e-6);
  from = Math.max(0, at - ((at - from) / (to - from)) * span);
  to = Math.min(data.total, from + span);
  draw();
}

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(event.offsetX, event.deltaY > 0 ? 1.25 : 0.8);
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => { dragged = { px: event.offsetX, from, to }; });
window.addEventListener("pointerup", () => { dragged = null; });
canvas.addEventListener("pointermove", (event) => {
  if (dragged) {
    const span = dragged.to - dragged.from, pixels = width() - LEFT - RIGHT;
    from = Math.max(0, Math.min(data.total - span, dragged.from - ((event.offsetX - dragged.px) / pixels) * span));
    to = from + span;
    draw();
    return;
  }
  const text = explain(event.offsetX, event.offsetY);
  tip.style.display = text ? "block" : "none";
  tip.textContent = text || "";
  tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - 320)}px`;
  tip.style.top = `${event.clientY + 14}px`;
});
canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; });
canvas.addEventListener("dblclick", () => { from = 0; to = data.total; draw(); });
window.addEventListener("resize", draw);
draw();
