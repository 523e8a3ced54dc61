// SPDX-License-Identifier: Apache-2.0
/** A role has a shape and a colour, a state its filling: no meaning hangs on colour alone. */

import { colours } from "../theme.js";

const ROLES = ["image", "volume", "disk", "snapshot"];

/** What a role is drawn as: roles that people invent share one shape. */
export const kind = (role) => (role === "original" ? "image" : ROLES.includes(role) ? role : "other");

const POLYGONS = {
  image: [[-1, -1], [1, -1], [1, 1], [-1, 1]],
  disk: [[0, -1.2], [1.2, 1], [-1.2, 1]],
  snapshot: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
  other: [[0, -1.2], [1.15, -0.35], [0.7, 1], [-0.7, 1], [-1.15, -0.35]],
};

function outline(context, shape, x, y, radius) {
  const corners = POLYGONS[shape];
  if (!corners) {
    context.moveTo(x + radius, y);
    context.arc(x, y, radius, 0, 2 * Math.PI);
    return;
  }
  corners.forEach(([dx, dy], at) => context[at ? "lineTo" : "moveTo"](x + dx * radius, y + dy * radius));
  context.closePath();
}

/** Draws a Fisk; frozen ones are hollow.  Below three pixels only a speck is left. */
export function drawFisk(context, fisk, x, y, radius) {
  const shape = kind(fisk.role);
  const { paper, [shape]: colour } = colours();
  if (radius < 1.5) {
    context.fillStyle = colour;
    context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
    return;
  }
  context.beginPath();
  outline(context, shape, x, y, radius);
  context.fillStyle = fisk.state === "frozen" ? paper : colour;
  context.strokeStyle = colour;
  context.lineWidth = Math.min(2, Math.max(1, radius / 3));
  context.fill();
  context.stroke();
}

/** Draws a snapshot among so many that there is no room for its shape: a tick, as on a ruler. */
export function drawTick(context, fisk, x, y, radius) {
  context.fillStyle = colours()[kind(fisk.role)];
  context.fillRect(x - radius / 2, y - 5, Math.max(0.8, radius), 10);
}

/** Draws a bush: a fan of its shape, folded; or the handle that folds it. */
export function drawBush(context, item, sample, x, y, radius) {
  const { ink, paper, muted } = colours();
  context.strokeStyle = muted;
  context.lineWidth = 1;
  if (item.unfolded) {
    context.fillStyle = paper;
    context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
    context.strokeRect(x - radius, y - radius, 2 * radius, 2 * radius);
    context.fillStyle = ink;
    context.fillRect(x - radius / 2, y - 0.75, radius, 1.5);
    return;
  }
  for (const offset of [1.5, 0.75, 0]) {
    drawRing(context, x + offset * radius, y, radius + 1, paper, 2);
    drawFisk(context, sample.fisk, x + offset * radius, y, radius - 0.5);
  }
}

/** Draws a ring around what is attached, selected or focused. */
export function drawRing(context, x, y, radius, colour, width) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.stroke();
}
