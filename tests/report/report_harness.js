// Runs the script of a report page against a canvas that only counts what is drawn, and prints what it saw.
"use strict";
const text = require("fs").readFileSync(process.argv[2], "utf8");
const data = text.match(/<script id="data"[^>]*>([\s\S]*?)<\/script>/)[1];
const code = text.match(/<script>\n([\s\S]*?)<\/script>/)[1];
const methods = ["save", "restore", "beginPath", "moveTo", "lineTo", "rect", "fill", "stroke", "fillRect", "strokeRect",
  "fillText", "translate", "rotate", "clip", "clearRect", "setTransform"];
let count = 0;
const context = {};
for (const name of methods) {
  context[name] = (...values) => {
    if (values.some((value) => typeof value === "number" && !Number.isFinite(value))) throw new Error(`${name}: ${values}`);
    count += ["fill", "stroke", "fillRect", "strokeRect", "fillText"].includes(name);
  };
}
class Element {
  constructor() {
    Object.assign(this, { style: {}, listeners: {}, children: [], hidden: true, value: "", own: "", clientWidth: 1200 });
  }
  getContext() { return context; }
  addEventListener(name, listener) { this.listeners[name] = listener; }
  appendChild(child) { this.children.push(child); }
  setAttribute(name, value) { this[name] = value; }
  focus() {}
  blur() {}
  get textContent() { return this.own + this.children.map((child) => ` ${child.textContent}`).join(""); }
  set textContent(value) { this.own = value; this.children = []; }
}
const elements = {}, shared = {}, themes = {};
const byId = (id) => (elements[id] = elements[id] || new Element());
byId("data").textContent = data;
global.document = { getElementById: byId, createElement: () => new Element(), documentElement: {} };
global.getComputedStyle = () => ({ getPropertyValue: () => "#123456" });
global.requestAnimationFrame = (draw) => draw();
global.window = { devicePixelRatio: 2, innerWidth: 1300, innerHeight: 900 };
global.window.addEventListener = (name, listener) => { shared[name] = listener; };
global.window.matchMedia = () => ({ addEventListener: (name, listener) => { themes[name] = listener; } });
(0, eval)(`${code}\nglobalThis.view = view;`);
const { listeners } = byId("map"), tip = byId("tip"), tips = new Set();
const drawn = count;
const at = (x, y) => ({ offsetX: x, offsetY: y, clientX: x, clientY: y, pointerId: 1 });
const sweep = () => {
  for (let x = 66; x < 1190; x += 7) {
    for (let y = 5; y < 760; y += 9) {
      listeners.pointermove(at(x, y));
      if (tip.textContent) tips.add(tip.textContent);
    }
  }
};
const key = (name) => shared.keydown({ key: name, preventDefault() {} });
const range = () => [globalThis.view.from, globalThis.view.to];
const wheel = (deltaX, deltaY, more) => listeners.wheel({ preventDefault() {}, offsetX: 500, deltaX, deltaY, deltaMode: 0, ...more });
key("a");
sweep();
key("s");
count = 0;
for (let i = 0; i < 8; i++) wheel(0, -100);
const zoomed = count, before = range();
wheel(80, 10); // sideways, with a little downward: moves, does not zoom
const after = range();
listeners.pointerdown(at(500, 100));
listeners.pointermove(at(400, 100));
listeners.pointerup(at(400, 100));
const dragged = range();
for (let i = 0; i < 200; i++) wheel(0, -100);
const deepest = range();
for (const name of ["+", "-", "ArrowLeft", "ArrowRight", "[", "]", "?", "/", "0"]) key(name);
const whole = range();
let pinned = "";
for (let x = 80; x < 1190 && !pinned; x += 9) {
  for (let y = 40; y < 400 && !pinned; y += 9) {
    listeners.pointerdown(at(x, y));
    listeners.pointerup(at(x, y));
    pinned = byId("pinned").textContent;
  }
}
key("Escape");
const unpinned = byId("pinned").textContent;
byId("search").value = "PARAM.1 ";
byId("search").listeners.input();
const matches = byId("matches").textContent;
byId("search").listeners.keydown({ key: "Enter", stopPropagation() {} });
const first = byId("matches").textContent, narrowed = range();
for (const name of ["n", "N", "Escape"]) key(name);
byId("search").value = "no such thing";
byId("search").listeners.input();
const nothing = byId("matches").textContent;
themes.change();
shared.resize();
listeners.pointerleave();
listeners.dblclick();
process.stdout.write(JSON.stringify({ drawn, zoomed, tips: [...tips], before, after, dragged, deepest, whole, pinned, unpinned,
  matches, first, narrowed, nothing }));
