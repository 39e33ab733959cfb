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
const listeners = {};
const canvas = { getContext: () => context, clientWidth: 1200, style: {} };
canvas.addEventListener = (name, listener) => { listeners[name] = listener; };
const tip = { style: {} };
global.document = { getElementById: (id) => (id === "data" ? { textContent: data } : id === "map" ? canvas : tip) };
global.window = { devicePixelRatio: 2, innerWidth: 1300 };
global.window.addEventListener = (name, listener) => { listeners[`window ${name}`] = listener; };
(0, eval)(code);
const drawn = count, tips = new Set();
for (let x = 66; x < 1190; x += 7) {
  for (let y = 5; y < 640; y += 9) {
    listeners.pointermove({ offsetX: x, offsetY: y, clientX: x, clientY: y });
    if (tip.textContent) tips.add(tip.textContent);
  }
}
count = 0;
for (let i = 0; i < 8; i++) listeners.wheel({ preventDefault() {}, offsetX: 500, deltaY: -1 });
const zoomed = count;
listeners.pointerdown({ offsetX: 500 });
listeners.pointermove({ offsetX: 400 });
listeners["window pointerup"]();
for (let i = 0; i < 90; i++) listeners.wheel({ preventDefault() {}, offsetX: 500, deltaY: -1 });
listeners["window resize"]();
listeners.pointerleave();
listeners.dblclick();
process.stdout.write(JSON.stringify({ drawn, zoomed, tips: [...tips] }));
