// Added to a report page in a browser: does what a user does, and leaves what it saw as data-found.
window.addEventListener("error", (event) => { document.title = `error: ${event.message}`; });
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
  const found = { tip, pinned, swiped, zoom, matches, colors: seen.size, milliseconds, paper };
  document.body.setAttribute("data-found", JSON.stringify(found));
}, 50));
