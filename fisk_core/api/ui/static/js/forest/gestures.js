// SPDX-License-Identifier: Apache-2.0
/** Pointer, wheel and touch on the picture: drag moves, the wheel scrolls, with Ctrl or two fingers it zooms. */

const CLICK = 5;

const place = (canvas, event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

/** Listens; `on` has pan(dx, dy), zoom(factor, x, y), hover(x, y), click(x, y) and open(x, y). */
export function watchPointer(canvas, on) {
  const down = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    if (!down.size) moved = 0;
    down.set(event.pointerId, place(canvas, event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = place(canvas, event);
    const before = down.get(event.pointerId);
    if (!before) return on.hover(...at);
    moved += Math.hypot(at[0] - before[0], at[1] - before[1]);
    if (down.size === 2) pinch(down, event.pointerId, at, on);
    else if (moved > CLICK) on.pan(before[0] - at[0], before[1] - at[1]);
    down.set(event.pointerId, at);
    return undefined;
  });
  const up = (event) => {
    const was = down.delete(event.pointerId);
    if (was && event.type === "pointerup" && moved <= CLICK) on.click(...place(canvas, event));
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("dblclick", (event) => on.open(...place(canvas, event)));
  canvas.addEventListener("wheel", (event) => wheel(canvas, event, on), { passive: false });
}

function pinch(down, moving, at, on) {
  const [[, other]] = [...down].filter(([id]) => id !== moving);
  const before = down.get(moving);
  const apart = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
  on.zoom(apart(at) / apart(before), (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
}

function wheel(canvas, event, on) {
  event.preventDefault();
  const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 20 : 1;
  if (event.ctrlKey || event.metaKey) on.zoom(Math.exp(-event.deltaY * lines * 0.003), ...place(canvas, event));
  else if (event.shiftKey) on.pan(event.deltaY * lines, 0);
  else on.pan(event.deltaX * lines, event.deltaY * lines);
}
