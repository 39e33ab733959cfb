// What the user does: pointing, pinning, searching, moving.
const tip = document.getElementById("tip"), pinned = document.getElementById("pinned");
const searchField = document.getElementById("search"), matchText = document.getElementById("matches");
const KINDS = ["reads", "writes", "updates"];
let dragged = null, waiting = false, matchNumber = -1;

function redraw() { // at most once a frame
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}

function show(from, to) {
  const span = Math.min(Math.max(to - from, total * 1e-6), total);
  view.from = Math.max(0, Math.min(from, total - span));
  view.to = view.from + span;
  redraw();
}

function zoom(pixel, factor) {
  const at = secondsAt(pixel), span = Math.min(Math.max((view.to - view.from) * factor, total * 1e-6), total);
  const from = at - ((at - view.from) / (view.to - view.from)) * span;
  show(from, from + span);
}

const move = (share) => { const by = share * (view.to - view.from); show(view.from + by, view.to + by); };

// Finding what lies under the pointer.
function near({ x1, y1, x2, y2 }, px, py) {
  const dx = x2 - x1, dy = y2 - y1;
  const k = Math.max(0, Math.min(1, ((px - x1) * dx + (py - y1) * dy) / (dx * dx + dy * dy || 1)));
  return Math.hypot(px - x1 - k * dx, py - y1 - k * dy) < 4;
}

function under(px, py) {
  const panel = panels.find((each) => py >= each.top && py <= each.top + each.height);
  if (!panel || px < LEFT || px > width() - RIGHT) return null;
  const at = secondsAt(px), { run } = panel, found = { panel, at, run, arrows: [], box: null, stall: null };
  if (at > run.total) return null;
  if (panel.kind === "map") {
    found.arrows = run.arrows.filter((arrow) => {
      if (!view.arrows && arrow[0] !== view.pinned && arrow[0] !== view.hovered) return false;
      const ends = endpoints(panel, arrow);
      return ends && near(ends, px, py);
    }).slice(0, 3);
    found.box = run.boxes.find(([, layer, start, , end, offset, size]) => layer === panel.layer && start <= at && at < end &&
      py <= y(panel, offset) && py >= y(panel, offset + size)) || null;
  }
  found.step = Math.min(Math.max(firstAtLeast(run.edges, at) - 1, 0), data.steps.length - 1);
  const slack = panel.kind === "steps" && py > panel.top + panel.height - 8 ? secondsAt(px + 3) - at : 0;
  found.stall = run.stalls.find(([start, end]) => start <= at + slack && at - slack < end) || null;
  return found;
}

const place = (run, i) => data.layers[i < 0 ? 0 : run.boxes[i][LAYER]];
const stepName = (step) => (step < data.steps.length ? data.steps[step][0] : "the program's end");

function copyText(run, [tensor, source, target, issue, finish, size, executions, due]) {
  return `copy of ${data.tensors[tensor][0]}: ${place(run, source)} to ${place(run, target)}, ${bytes(size)}` +
    `${executions > 1 ? ` × ${executions}` : ""}\n${time(issue)} to ${time(finish)}, due before ${stepName(due)}`;
}

function stepText(step) {
  const [name, opcode, source, trips] = data.steps[step] || ["", "", "", 1];
  const times = trips > 1 ? ` × ${trips}` : "";
  return `step ${step}: ${name}${opcode && opcode !== name ? ` (${opcode})` : ""}${times}${source ? `\n${source}` : ""}`;
}

function stallText(run, [start, end, step, arrows]) {
  const names = [...new Set(arrows.map((i) => data.tensors[run.arrows[i][0]][0]))];
  const more = names.length > 3 ? `, and ${names.length - 3} more` : "";
  return `stall of ${time(end - start)} before ${stepName(step)}: waits for ${names.slice(0, 3).join(", ")}${more}`;
}

function describe(found) {
  const lines = found.arrows.map((arrow) => copyText(found.run, arrow));
  if (found.box) {
    const [tensor, , start, filled, end, offset, size] = found.box;
    const arriving = found.at < filled ? ", still being copied" : "";
    lines.push(`${data.tensors[tensor][0]}: ${bytes(size)} at offset ${offset}\n${time(start)} to ${time(end)}${arriving}`);
  }
  if (found.stall) lines.push(stallText(found.run, found.stall));
  lines.push(`${stepText(found.step)}\nat ${time(found.at)}`);
  return lines.join("\n");
}

// Pinning: everything about one tensor, in a panel that stays.
function element(tag, text, parent) {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.appendChild(made);
  return made;
}

function list(title, rows, parent) {
  if (!rows.length) return;
  element("h3", title, parent);
  const items = element("ul", "", parent);
  for (const [text, go] of rows.slice(0, 60)) {
    const item = element("li", "", items);
    if (!go) { item.textContent = text; continue; }
    const button = element("button", text, item);
    button.type = "button";
    button.addEventListener("click", go);
  }
  if (rows.length > 60) element("li", `and ${rows.length - 60} more`, items);
}

function pin(tensor) {
  view.pinned = tensor;
  pinned.hidden = tensor < 0;
  pinned.textContent = "";
  redraw();
  if (tensor < 0) return;
  const [name, size, , uses] = data.tensors[tensor];
  const close = element("button", "×", pinned);
  close.className = "close";
  close.title = "Unpin (Esc)";
  close.addEventListener("click", () => pin(-1));
  element("h2", name, pinned);
  element("div", `${bytes(size)}, ${uses.length} uses`, pinned);
  for (const run of data.runs) {
    const label = data.runs.length > 1 ? `${run.label}: ` : "";
    const boxes = run.boxes.filter((box) => box[TENSOR] === tensor);
    const arrows = run.arrows.filter((arrow) => arrow[0] === tensor);
    list(`${label}in fast memory`, boxes.map((box) => [`${data.layers[box[LAYER]]}, ${time(box[START])} to ${time(box[END])}, offset ${box[OFFSET]}`,
      () => around(box[START], box[END])]), pinned);
    list(`${label}copies`, arrows.map((arrow) => [copyText(run, arrow).split(": ").slice(1).join(": ").replace("\n", ", "), () => around(arrow[3], arrow[4])]), pinned);
    if (!boxes.length) element("div", `${label}all in ${data.layers[0]}`, pinned);
  }
  const edges = data.runs[0].edges;
  list("uses", uses.map(([step, kind]) => {
    const [used, , source] = data.steps[step];
    return [`${KINDS[kind]} ${step}: ${used}${source ? `, ${source}` : ""}`, () => around(edges[step], edges[step + 1])];
  }), pinned);
}

function around(start, end) {
  const span = Math.max((end - start) * 1.6, total * 2e-4), middle = (start + end) / 2;
  show(middle - span / 2, middle + span / 2);
}

// Searching: all words must be in a tensor's name, or in an instruction's name, opcode or source line.
function search(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  matchNumber = -1;
  view.matches = null;
  matchText.textContent = "";
  if (words.length) {
    const fits = (...texts) => { const whole = texts.join(" ").toLowerCase(); return words.every((word) => whole.includes(word)); };
    const steps = new Set(data.steps.flatMap(([name, opcode, source], i) => (fits(name, opcode, source) ? [i] : [])));
    const tensors = new Set(data.tensors.flatMap(([name], i) => (fits(name) ? [i] : [])));
    view.matches = { steps, tensors, size: steps.size + tensors.size };
    matchText.textContent = view.matches.size ? `${tensors.size} tensors, ${steps.size} steps` : "nothing found";
  }
  redraw();
}

function nextMatch(by) {
  if (!view.matches || !view.matches.size) return;
  const { edges, boxes } = data.runs[0], spots = [];
  for (const tensor of view.matches.tensors) {
    const box = boxes.find((each) => each[TENSOR] === tensor), first = data.tensors[tensor][3][0];
    const step = first ? first[0] : 0;
    spots.push({ tensor, start: box ? box[START] : edges[step], end: box ? box[END] : edges[step + 1] });
  }
  for (const step of view.matches.steps) spots.push({ tensor: -1, start: edges[step], end: edges[step + 1] });
  spots.sort((a, b) => a.start - b.start);
  matchNumber = (matchNumber + by + spots.length + (matchNumber < 0 && by < 0 ? 1 : 0)) % spots.length;
  const spot = spots[matchNumber];
  matchText.textContent = `${matchNumber + 1} of ${spots.length}`;
  if (spot.tensor >= 0) pin(spot.tensor);
  around(spot.start, spot.end);
}

function nextWait(by) {
  const { stalls } = data.runs[data.runs.length - 1], middle = (view.from + view.to) / 2, least = total * 1e-9;
  const later = stalls.filter(([start, end]) => (by > 0 ? (start + end) / 2 > middle + least : (start + end) / 2 < middle - least));
  const stall = by > 0 ? later[0] : later[later.length - 1];
  if (stall) around(stall[0], stall[1]);
}

function toggle(name) {
  view[name] = !view[name];
  document.getElementById(name).setAttribute("aria-pressed", String(view[name]));
  redraw();
}

function toggleKeys() {
  const keys = document.getElementById("keys");
  keys.hidden = !keys.hidden;
  document.getElementById("ask").setAttribute("aria-expanded", String(!keys.hidden));
}

function clear() {
  searchField.value = "";
  search("");
  pin(-1);
  searchField.blur();
}

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const scale = event.deltaMode === 1 ? 16 : 1; // lines
  const sideways = event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX;
  if (Math.abs(sideways) >= Math.abs(event.deltaY) || event.shiftKey) move((sideways * scale) / (width() - LEFT - RIGHT));
  else zoom(event.offsetX, Math.exp(Math.max(Math.min(event.deltaY * scale, 120), -120) * (event.ctrlKey ? 0.01 : 0.0022)));
}, { passive: false });
canvas.addEventListener("pointerdown", (event) => {
  dragged = { px: event.offsetX, from: view.from, to: view.to, moved: false };
  if (canvas.setPointerCapture) canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointerup", (event) => {
  const clicked = dragged && !dragged.moved;
  dragged = null;
  if (!clicked) return;
  const found = under(event.offsetX, event.offsetY);
  if (!found) return;
  const tensor = found.box ? found.box[TENSOR] : found.arrows.length ? found.arrows[0][0]
    : found.stall && found.stall[3].length ? found.run.arrows[found.stall[3][0]][0] : -1;
  pin(tensor === view.pinned ? -1 : tensor);
});
canvas.addEventListener("pointermove", (event) => {
  if (dragged) {
    if (Math.abs(event.offsetX - dragged.px) > 3) dragged.moved = true;
    const by = ((event.offsetX - dragged.px) / (width() - LEFT - RIGHT)) * (dragged.to - dragged.from);
    if (dragged.moved) { tip.style.display = "none"; show(dragged.from - by, dragged.to - by); }
    return;
  }
  const found = under(event.offsetX, event.offsetY), before = view.hovered;
  view.hovered = found && found.box ? found.box[TENSOR] : found && found.arrows.length ? found.arrows[0][0] : -1;
  if (view.hovered !== before) redraw();
  tip.style.display = found ? "block" : "none";
  tip.textContent = found ? describe(found) : "";
  tip.style.left = `${Math.max(Math.min(event.clientX + 14, window.innerWidth - 440), 4)}px`;
  const below = event.clientY + 14, room = window.innerHeight - (tip.offsetHeight || 80) - 6;
  tip.style.top = `${below > room ? Math.max(event.clientY - (tip.offsetHeight || 80) - 12, 4) : below}px`;
});
canvas.addEventListener("pointercancel", () => { dragged = null; });
canvas.addEventListener("pointerleave", () => { tip.style.display = "none"; if (view.hovered >= 0) { view.hovered = -1; redraw(); } });
canvas.addEventListener("dblclick", () => show(0, total));
searchField.addEventListener("input", () => search(searchField.value));
searchField.addEventListener("keydown", (event) => {
  if (event.key === "Enter") nextMatch(event.shiftKey ? -1 : 1);
  if (event.key === "Escape") clear();
  event.stopPropagation();
});
const KEYS = {
  ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), "+": () => zoom((width() + LEFT) / 2, 0.7), "=": () => zoom((width() + LEFT) / 2, 0.7),
  "-": () => zoom((width() + LEFT) / 2, 1.4), 0: () => show(0, total), Home: () => show(0, total), "/": () => searchField.focus(),
  n: () => nextMatch(1), N: () => nextMatch(-1), "[": () => nextWait(-1), "]": () => nextWait(1), a: () => toggle("arrows"),
  s: () => toggle("waits"), "?": toggleKeys, Escape: clear,
};
window.addEventListener("keydown", (event) => {
  const act = event.ctrlKey || event.metaKey || event.altKey ? null : KEYS[event.key];
  if (act) { event.preventDefault(); act(); }
});
for (const name of ["arrows", "waits"]) document.getElementById(name).addEventListener("click", () => toggle(name));
document.getElementById("all").addEventListener("click", () => show(0, total));
document.getElementById("ask").addEventListener("click", toggleKeys);
window.addEventListener("resize", redraw);
if (window.ResizeObserver) new ResizeObserver(redraw).observe(canvas);
if (window.matchMedia) window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
draw();
