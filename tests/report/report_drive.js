// Added to a report page in a browser: does what a user does, and leaves what it saw as data-found.
window.addEventListener("error", (event) => { document.title = `error: ${event.message}`; });
// What every text contrasts with, where its middle lies, before it is written (WCAG 2.2); faint ones are not counted.
const written = [], write = context.fillText.bind(context);
const luminance = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
function contrast(text, px, py) {
  const m = context.getTransform(), side = { left: 3, right: -3 }[context.textAlign] || 0;
  const at = [m.a * (px + side) + m.c * (py - 4) + m.e, m.b * (px + side) + m.d * (py - 4) + m.f].map(Math.round);
  const [r, g, b, alpha] = context.getImageData(...at, 1, 1).data;
  const paper = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
  const below = [r, g, b].map((c, i) => (c * alpha + paper[i] * (255 - alpha)) / 255);
  const ink = context.fillStyle.match(/[0-9a-f]{2}/g).map((pair) => parseInt(pair, 16));
  const [low, high] = [luminance(below), luminance(ink)].sort((a, b) => a - b);
  written.push([(high + 0.05) / (low + 0.05), text, context.fillStyle, `rgb(${below.map(Math.round)})`]);
}
window.addEventListener("load", () => setTimeout(() => {
  const map = document.getElementById("map"), corner = map.getBoundingClientRect();
  const send = (kind, x, y, more) => map.dispatchEvent(new (kind === "wheel" ? WheelEvent : PointerEvent)(kind,
    { clientX: corner.left + x, clientY: corner.top + y, bubbles: true, cancelable: true, pointerId: 1, ...more }));
  const key = (name) => window.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  for (let i = 0; i < 5; i++) send("wheel", 600, 200, { deltaY: -100 });
  send("wheel", 600, 200, { deltaX: 90, deltaY: 4 });
  const swiped = view.to - view.from;
  let tip = "";
  for (let x = 90; x < 1000 && !tip.includes("at offset"); x += 5)
    for (let y = 60; y < 400 && !tip.includes("at offset"); y += 5) {
      send("pointermove", x, y);
      tip = document.getElementById("tip").textContent;
      if (tip.includes("at offset")) { send("pointerdown", x, y); send("pointerup", x, y); }
    }
  const pinned = document.getElementById("pinned").innerText;
  key("Escape");
  context.fillText = (text, px, py) => { if (context.globalAlpha === 1) contrast(text, px, py); write(text, px, py); };
  for (let k = 0; k < 12; k++) { [view.from, view.to] = [(total * k) / 12, (total * (k + 0.06)) / 12]; draw(); }
  delete context.fillText;
  const worst = written.sort((a, b) => a[0] - b[0])[0], labels = written.length;
  key("a"); key("s"); key("]"); key("0");
  const field = document.getElementById("search");
  field.value = "fusion";
  const begin = performance.now();
  field.dispatchEvent(new Event("input"));
  draw();
  const pixels = context.getImageData(0, 0, map.width, map.height).data;
  const seen = new Set();
  for (let i = 0; i < pixels.length; i += 4004) seen.add(pixels[i] * 65536 + pixels[i + 1] * 256 + pixels[i + 2]);
  const matches = document.getElementById("matches").textContent, zoom = total * Math.exp(-0.22 * 5);
  const paper = getComputedStyle(document.body).backgroundColor, milliseconds = performance.now() - begin;
  const found = { tip, pinned, swiped, zoom, matches, colors: seen.size, milliseconds, paper, worst, labels };
  document.body.setAttribute("data-found", JSON.stringify(found));
}, 50));
