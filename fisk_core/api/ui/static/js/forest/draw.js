// SPDX-License-Identifier: Apache-2.0
/** Draws the part of the forest that is in view. */

import { colours } from "../theme.js";
import { drawLabels } from "./labels.js";
import { ROW } from "./layout.js";
import { drawBush, drawFisk, drawRing, drawTick } from "./shapes.js";

const RADIUS = 6;
const SMALL = 4;
const DIM = 0.25;
const TICK = 2.2;

/** How large an item is on the screen; a bead among many has the room there is between it and the next. */
export const radiusOf = (item, zoom) =>
  item.small
    ? Math.max(0.6, Math.min(SMALL * Math.min(zoom, 1.5), item.room * zoom * 0.42))
    : Math.max(1.6, RADIUS * Math.min(zoom, 1.4));

/** Draws; `scene` has drawing, camera, attached, selected, hovered and matches (null: no search). */
export function draw({ context, width, height }, scene) {
  const { drawing, camera } = scene;
  context.fillStyle = colours().paper;
  context.fillRect(0, 0, width, height);
  drawEdges(context, drawing.edges, camera, width, height);
  const seen = inView(drawing.items, camera, width, height);
  for (const spot of seen) drawItem(context, spot, scene);
  context.globalAlpha = 1;
  drawLabels(context, byImportance(seen, scene), camera.zoom);
  return seen.length;
}

function inView(items, camera, width, height) {
  const found = [];
  for (const item of items) {
    const [x, y] = camera.toScreen(item.x, item.y);
    if (x < -200 || y < -20 || x > width + 20 || y > height + 20) continue;
    found.push({ item, x, y, radius: radiusOf(item, camera.zoom) });
  }
  return found;
}

function drawEdges(context, edges, camera, width, height) {
  const bend = ROW / 3 * camera.zoom;
  for (const life of [false, true]) {
    context.beginPath();
    for (const edge of edges) {
      if (edge.life !== life) continue;
      const [x1, y1] = camera.toScreen(edge.x1, edge.y1);
      const [x2, y2] = camera.toScreen(edge.x2, edge.y2);
      if (y2 < 0 || y1 > height || x1 > width || x2 < 0) continue;
      context.moveTo(x1, y1);
      if (!life) {
        context.lineTo(x1, y2 - bend);
        context.quadraticCurveTo(x1, y2, x1 + bend, y2);
      }
      context.lineTo(x2, y2);
    }
    context.strokeStyle = life ? colours().muted : colours().line;
    context.lineWidth = life ? 2 : 1.2;
    context.stroke();
  }
}

const isMatch = (item, matches) =>
  item.bush && !item.unfolded
    ? item.members.some((node) => matches.has(node.fisk.id))
    : !item.bush && matches.has(item.node.fisk.id);

function drawItem(context, { item, x, y, radius }, { attached, selected, hovered, matches }) {
  const { focus, attached: plugged, muted } = colours();
  context.globalAlpha = matches && !isMatch(item, matches) ? DIM : 1;
  if (item.bush) drawBush(context, item, item.members[0], x, y, radius);
  else if (item.small && !item.within && radius < TICK) drawTick(context, item.node.fisk, x, y, radius);
  else drawFisk(context, item.node.fisk, x, y, radius);
  if (!item.bush && attached.has(item.node.fisk.id)) drawRing(context, x, y, radius + 3.5, plugged, 2.5);
  if (item === selected) drawRing(context, x, y, radius + 7, focus, 2.5);
  else if (item === hovered) drawRing(context, x, y, radius + 5, muted, 1.5);
}

/** Gives what wants a label, the selected one first; a bead among many has none of its own. */
function byImportance(seen, { attached, selected, hovered, matches, camera }) {
  const rank = ({ item }) => {
    if (item === selected) return 0;
    if (item === hovered) return 1;
    if (matches && isMatch(item, matches)) return 2;
    if (item.bush) return 3;
    if (attached.has(item.node.fisk.id)) return 4;
    return item.small || item.node.fisk.role === "snapshot" ? 6 : 5; // these need much room
  };
  const roomy = camera.zoom >= 1.6;
  return seen
    .map((spot) => ({ ...spot, rank: rank(spot) }))
    .filter((spot) => spot.rank < 6 || roomy)
    .sort((a, b) => a.rank - b.rank)
    .map((spot) => ({
      ...spot,
      radius: spot.radius + (spot.item.bush && !spot.item.unfolded ? spot.radius * 1.4 : 3),
      strong: spot.rank < 2,
      room: spot.item.room ? spot.item.room * camera.zoom : Infinity,
    }));
}

/** Gives the item nearest to a point of the screen, within reach. */
export function itemAt(drawing, camera, x, y) {
  let best = null;
  let least = Infinity;
  for (const item of drawing.items) {
    const [sx, sy] = camera.toScreen(item.x, item.y);
    const wide = item.bush && !item.unfolded ? radiusOf(item, camera.zoom) : 0;
    const distance = Math.hypot(sx + wide - x, sy - y) - wide;
    if (distance < least) [best, least] = [item, distance];
  }
  return least <= Math.max(8, radiusOf(best, camera.zoom) + 3) ? best : null;
}
