// SPDX-License-Identifier: Apache-2.0
/** The picture without a mouse: arrows walk from Fisk to Fisk as they are drawn. */

const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Gives the nearest item in a direction: in the same row before others, the next row before later ones. */
export function neighbour(items, from, [dx, dy]) {
  let best = null;
  let least = Infinity;
  for (const item of items) {
    const [x, y] = [item.x - from.x, item.y - from.y];
    const along = x * dx + y * dy;
    if (along <= 0.5) continue;
    const cost = dx ? along + 3 * Math.abs(y) : 4 * along + Math.abs(x);
    if (cost < least) [best, least] = [item, cost];
  }
  return best;
}

/** Listens on the canvas; `on` has walk(direction), first(), last(), open(), zoom(factor), fit() and leave(). */
export function watchKeys(canvas, on) {
  const actions = {
    Home: on.first,
    End: on.last,
    Enter: on.open,
    " ": on.open,
    "+": () => on.zoom(1.25),
    "=": () => on.zoom(1.25),
    "-": () => on.zoom(0.8),
    0: on.fit,
    Escape: on.leave,
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const direction = DIRECTIONS[event.key];
    const action = direction ? () => on.walk(direction) : actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
