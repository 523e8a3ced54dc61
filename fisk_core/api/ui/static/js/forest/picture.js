// SPDX-License-Identifier: Apache-2.0
/** The picture of the forest: a canvas that can be moved, zoomed, walked through and asked. */

import { sized } from "../dom.js";
import { onScheme } from "../theme.js";
import { Camera } from "./camera.js";
import { draw, itemAt } from "./draw.js";
import { watchPointer } from "./gestures.js";
import { neighbour, watchKeys } from "./keys.js";
import { layout } from "./layout.js";

export class Picture {
  /** `told(item)` is called with what is selected, null for nothing. */
  constructor(canvas, told) {
    this.canvas = canvas;
    this.told = told;
    this.camera = new Camera();
    this.unfolded = new Set();
    this.attached = new Set();
    this.matches = null;
    this.selected = this.hovered = this.wanted = this.forest = this.drawing = null;
    this.due = false;
    watchPointer(canvas, this.#pointer());
    watchKeys(canvas, this.#keys());
    new ResizeObserver(() => this.redraw()).observe(canvas);
    onScheme(() => this.redraw());
  }

  /** What is looked at, for coming back to it. */
  get look() {
    const { camera, unfolded, selected } = this;
    return { camera, unfolded, wanted: selected && !selected.bush ? selected.node.fisk.id : null };
  }

  /** Looks at what was looked at before, or at a Fisk that is wanted. */
  resume({ camera, unfolded, wanted }) {
    this.unfolded = unfolded || this.unfolded;
    this.#arrange();
    if (camera) this.camera = camera;
    this.wanted = wanted;
    this.#seek();
  }

  /** Finds what is wanted as soon as it is there: news of a Fisk may come before the Fisk does. */
  #seek() {
    if (this.wanted && this.drawing.place.has(this.wanted)) this.find(this.wanted);
  }

  /** Shows a forest; what was selected, unfolded and looked at stays as it was. */
  show(forest, attached) {
    const first = !this.drawing;
    this.forest = forest;
    this.attached = attached;
    this.#arrange();
    if (first) this.fit();
    this.#seek();
  }

  search(matches) {
    this.matches = matches;
    this.redraw();
  }

  /** Selects a Fisk wherever it is, unfolding the bush that hides it. */
  find(id) {
    const item = this.drawing.place.get(id);
    if (item && item.bush) {
      this.unfolded.add(item.bush);
      this.#arrange();
    }
    this.select(this.drawing.place.get(id) || null);
  }

  select(item) {
    this.selected = item;
    this.wanted = null;
    if (item) this.camera.reveal(item.x, item.y, this.canvas.clientWidth, this.canvas.clientHeight);
    this.told(item);
    this.redraw();
  }

  /** Folds or unfolds a bush. */
  toggle(item) {
    if (!item.bush) return;
    if (!this.unfolded.delete(item.bush)) this.unfolded.add(item.bush);
    this.#arrange();
    this.told(this.selected);
  }

  fit() {
    this.camera.fit(this.drawing, this.canvas.clientWidth, this.canvas.clientHeight);
    this.redraw();
  }

  zoom(factor, x, y) {
    this.camera.scale(factor, x, y);
    this.redraw();
  }

  /** Zooms around what is selected, else around the middle. */
  zoomHere(factor) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const at = this.selected && this.camera.toScreen(this.selected.x, this.selected.y);
    const seen = at && at[0] > 0 && at[1] > 0 && at[0] < width && at[1] < height;
    this.zoom(factor, ...(seen ? at : [width / 2, height / 2]));
  }

  redraw() {
    if (this.due || !this.drawing) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      if (!this.canvas.isConnected) return;
      const began = performance.now();
      this.canvas.dataset.drawn = draw(sized(this.canvas), this);
      this.canvas.dataset.milliseconds = (performance.now() - began).toFixed(1);
    });
  }

  #arrange() {
    const { bush, node } = this.selected || {};
    this.drawing = layout(this.forest, this.unfolded, this.attached);
    this.selected = bush
      ? this.drawing.items.find((item) => item.bush === bush) || null
      : (node && this.drawing.place.get(node.fisk.id)) || null;
    this.hovered = null;
    this.redraw();
  }

  #pointer() {
    const at = (x, y) => itemAt(this.drawing, this.camera, x, y);
    return {
      pan: (dx, dy) => {
        this.camera.pan(dx, dy);
        this.redraw();
      },
      zoom: (factor, x, y) => this.zoom(factor, x, y),
      hover: (x, y) => {
        const item = at(x, y);
        if (item === this.hovered) return;
        this.hovered = item;
        this.canvas.classList.toggle("over", Boolean(item));
        this.redraw();
      },
      click: (x, y) => this.select(at(x, y)),
      open: (x, y) => {
        const item = at(x, y);
        if (item) this.toggle(item);
      },
    };
  }

  #keys() {
    const all = () => this.drawing.items;
    return {
      walk: (direction) => {
        const next = this.selected ? neighbour(all(), this.selected, direction) : all()[0];
        if (next) this.select(next);
      },
      first: () => all().length && this.select(all()[0]),
      last: () => all().length && this.select(all().at(-1)),
      open: () => this.selected && this.toggle(this.selected),
      zoom: (factor) => this.zoomHere(factor),
      fit: () => this.fit(),
      leave: () => this.select(null),
    };
  }
}
