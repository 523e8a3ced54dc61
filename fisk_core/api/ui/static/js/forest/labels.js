// SPDX-License-Identifier: Apache-2.0
/** Names beside the things they name, the important ones first, none over another. */

import { colours } from "../theme.js";
import { plural } from "../format.js";

const LINE = 13;
const BAND = 40;
const GAP = 5;
const LEAST_ZOOM = 0.42;
const LONGEST = 34;

/** What an item is called in the picture. */
export function caption(item) {
  if (!item.bush) return item.node.fisk.name;
  const number = item.unfolded || item.members.length;
  const { role } = (item.members[0] || { fisk: { role: "" } }).fisk;
  return item.unfolded ? `${number.toLocaleString()}` : plural(number, role || "Fisk", `${role || "Fisk"}s`);
}

const shortened = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text);

/** Draws labels of items, given in order of importance as {item, x, y, radius, strong}. */
export function drawLabels(context, wanted, zoom) {
  const { ink, muted, paper } = colours();
  const taken = new Map();
  context.textBaseline = "middle";
  context.lineWidth = 3;
  context.strokeStyle = paper;
  for (const { item, x, y, radius, strong, room } of wanted) {
    if (!strong && zoom < LEAST_ZOOM) continue;
    context.font = `${strong ? "600 " : ""}12px system-ui, sans-serif`;
    const text = shortened(caption(item));
    const left = x + radius + GAP;
    const width = context.measureText(text).width;
    if ((!strong && width > room) || !claim(taken, left, y, width)) continue;
    if (strong) context.strokeText(text, left, y);
    context.fillStyle = strong || item.bush ? ink : muted;
    context.fillText(text, left, y);
  }
}

/** Takes a place for a text if nothing is there; `taken` has the places by bands of the picture. */
function claim(taken, left, y, width) {
  const place = { left, right: left + width, top: y - LINE / 2, bottom: y + LINE / 2 };
  const bands = new Set([place.top, place.bottom].map((edge) => Math.floor(edge / BAND)));
  const others = [...bands].flatMap((band) => taken.get(band) || []);
  if (others.some((other) => overlap(place, other))) return false;
  for (const band of bands) taken.set(band, [...(taken.get(band) || []), place]);
  return true;
}

const overlap = (a, b) => a.left < b.right && a.right > b.left && a.top < b.bottom && a.bottom > b.top;
