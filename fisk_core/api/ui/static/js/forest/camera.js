// SPDX-License-Identifier: Apache-2.0
/** What part of the picture is seen, and how large. */

const NEAREST = 8;
const FARTHEST = 0.05;
const MARGIN = 24;

export class Camera {
  constructor() {
    this.x = 0;
    this.y = 0;
    this.zoom = 1;
  }

  toScreen(x, y) {
    return [(x - this.x) * this.zoom, (y - this.y) * this.zoom];
  }

  toWorld(x, y) {
    return [x / this.zoom + this.x, y / this.zoom + this.y];
  }

  /** Moves by pixels of the screen. */
  pan(dx, dy) {
    this.x += dx / this.zoom;
    this.y += dy / this.zoom;
  }

  /** Zooms by a factor and keeps the point of the screen under the pointer where it is. */
  scale(factor, x, y) {
    const [wx, wy] = this.toWorld(x, y);
    this.zoom = Math.min(NEAREST, Math.max(FARTHEST, this.zoom * factor));
    this.x = wx - x / this.zoom;
    this.y = wy - y / this.zoom;
  }

  /** Shows all, or the beginning of it where all would be too small to read. */
  fit(drawing, width, height, least = 0.75) {
    const across = (width - 2 * MARGIN) / Math.max(drawing.width + 120, 1);
    const down = (height - 2 * MARGIN) / Math.max(drawing.height, 1);
    this.zoom = Math.max(least, Math.min(1.3, across, down));
    this.x = -MARGIN / this.zoom;
    this.y = -MARGIN / this.zoom;
  }

  /** Moves no more than it takes to see a point with some room around it. */
  reveal(x, y, width, height) {
    const [sx, sy] = this.toScreen(x, y);
    const room = Math.min(80, width / 4, height / 4);
    const over = (at, size) => Math.min(0, at - room) + Math.max(0, at - (size - room));
    this.pan(over(sx, width), over(sy, height));
  }
}
