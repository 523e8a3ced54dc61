// SPDX-License-Identifier: Apache-2.0
/**
 * Where a Fisk's blocks live: its bytes from the first to the last in rows of cells.
 *
 * A cell is filled as far as it has data, in the colours of the layers that own it: the older, the darker
 * (on a light page); what is written to now has a colour of its own.  Holes stay empty.
 */

import { get } from "../api.js";
import { h, sized } from "../dom.js";
import { bytes, percent } from "../format.js";
import { colours, onScheme, ramp } from "../theme.js";

const BUCKETS = 256;
const COLUMNS = 32;
const TALL = 1.7;
const LISTED = 6;

/** Gives the colour of each layer of a picture, oldest first. */
function palette(layers) {
  const old = layers.filter((layer) => !layer.live).length;
  return layers.map((layer, at) => (layer.live ? colours().live : ramp(old > 1 ? at / (old - 1) : 0.35)));
}

export function mapPicture(fisk) {
  const box = h("div", { class: "map" }, "…");
  const again = h("button", { type: "button", onclick: () => look() }, "Look again");
  const look = () => get(`/fisks/${fisk.id}/map?buckets=${BUCKETS}`).then(
    (picture) => box.replaceChildren(...drawn(picture), again),
    (error) => box.replaceChildren(error.message, " ", again));
  look();
  return box;
}

function drawn(picture) {
  const owned = picture.layers.reduce((sum, layer) => sum + layer.bytes, 0);
  const rows = Math.ceil(picture.buckets.length / COLUMNS);
  const label = `Map of ${bytes(picture.size)}: ${bytes(owned)} in ${picture.layers.length} layers. Arrow keys tell of each part.`;
  const canvas = h("canvas", { class: "cells", tabindex: "0", role: "img", "aria-label": label });
  canvas.style.aspectRatio = `${COLUMNS} / ${rows * TALL}`;
  const told = h("p", { class: "told", "aria-live": "polite" }, summary(picture, owned));
  let chosen = -1;
  const paint = () => draw(sized(canvas), picture, rows, chosen);
  const choose = (at) => {
    chosen = Math.max(0, Math.min(picture.buckets.length - 1, at));
    told.textContent = tell(picture, chosen);
    paint();
  };
  new ResizeObserver(paint).observe(canvas);
  onScheme(() => canvas.isConnected && paint());
  canvas.addEventListener("pointermove", (event) => choose(cellAt(canvas, rows, event)));
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -COLUMNS, ArrowDown: COLUMNS }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(chosen + step);
  });
  return [canvas, told, layerList(picture)];
}

const summary = ({ size, bucket }, owned) =>
  `${percent(owned, size)} of ${bytes(size)} has data; one cell is ${bytes(bucket)}.`;

function cellAt(canvas, rows, { offsetX, offsetY }) {
  const column = Math.floor((offsetX / canvas.clientWidth) * COLUMNS);
  return Math.floor((offsetY / canvas.clientHeight) * rows) * COLUMNS + Math.min(column, COLUMNS - 1);
}

function tell({ layers, buckets, bucket, size }, at) {
  const { shares, others } = buckets[at];
  const from = at * bucket;
  const whole = Math.min(bucket, size - from);
  const parts = shares.map((share) => `${percent(share.bytes, whole)} layer ${layers[share.layer].age}`);
  if (others) parts.push(`${percent(others, whole)} other layers`);
  return `From ${bytes(from)}: ${parts.join(", ") || "a hole"}.`;
}

function draw({ context, width, height }, { layers, buckets, bucket, size }, rows, chosen) {
  const { hole, rest, ink } = colours();
  const [cell, row] = [width / COLUMNS, height / rows];
  const filling = palette(layers);
  context.clearRect(0, 0, width, height);
  buckets.forEach(({ shares, others }, at) => {
    const x = (at % COLUMNS) * cell;
    const y = Math.floor(at / COLUMNS) * row;
    const whole = Math.min(bucket, size - at * bucket);
    context.fillStyle = hole;
    context.fillRect(x, y, cell - 1, row - 1);
    let bottom = y + row - 1;
    const pieces = [...shares.map((share) => [filling[share.layer], share.bytes]), [rest, others]];
    for (const [colour, owned] of pieces) {
      if (!owned) continue;
      const tall = Math.max(1, ((row - 1) * owned) / whole);
      bottom = Math.max(y, bottom - tall);
      context.fillStyle = colour;
      context.fillRect(x, bottom, cell - 1, tall);
    }
  });
  if (chosen < 0) return;
  context.strokeStyle = ink;
  context.lineWidth = 2;
  context.strokeRect((chosen % COLUMNS) * cell, Math.floor(chosen / COLUMNS) * row, cell - 1, row - 1);
}

/** Lists the layers that own most, and how many there are besides. */
function layerList({ layers }) {
  const filling = palette(layers);
  const most = layers.map((layer, at) => ({ ...layer, colour: filling[at] })).sort((a, b) => b.bytes - a.bytes);
  const rows = most.slice(0, LISTED).map((layer) => {
    const key = h("span", { class: "swatch" });
    key.style.background = layer.colour;
    const name = layer.live ? "written to now" : `layer ${layer.age}`;
    return h("li", { title: layer.id }, key, `${name}: ${bytes(layer.bytes)}`);
  });
  if (most.length > LISTED) rows.push(h("li", {}, `and ${most.length - LISTED} more`));
  return h("ul", { class: "layers" }, ...rows);
}
