// SPDX-License-Identifier: Apache-2.0
/**
 * Where everything of the forest is drawn.
 *
 * The life of a Fisk is a row: its snapshots like beads, oldest left, itself at the right end.  What was
 * made from a bead or from the Fisk hangs below in rows of its own, the rightmost branch first, so lines
 * never cross.  A bush takes one row, or a block of dots when it is unfolded.
 */

import { grouped } from "./lineage.js";

export const ROW = 24;
const STEP = 28;
const BEAD = 15;
const MANY = 24;
const DENSEST = 3;
const LONGEST = 720;
const DOT = 12;
const COLUMNS = 50;

/** Gives {items, edges, place: id → item, width, height} in pixels at zoom 1. */
export function layout({ roots }, unfolded, attached) {
  const drawing = { items: [], edges: [], place: new Map(), width: 0, height: 0, unfolded, attached };
  const waiting = [];
  hang(waiting, grouped("", roots, attached), null, 0);
  while (waiting.length) {
    const { group, from, x } = waiting.pop();
    if (!group.key) life(drawing, waiting, group.members[0], from, x);
    else if (unfolded.has(group.key)) block(drawing, group, from, x);
    else bush(drawing, group, from, x);
  }
  return drawing;
}

/** Queues groups so that the first of them is drawn next. */
function hang(waiting, groups, from, x) {
  for (const group of groups.reverse()) waiting.push({ group, from, x });
}

function life(drawing, waiting, node, from, x) {
  const y = drawing.height + ROW / 2;
  drawing.height += ROW;
  join(drawing, from, x, y);
  const many = node.snapshots.length > MANY;
  const step = many ? Math.max(DENSEST, Math.min(BEAD, LONGEST / node.snapshots.length)) : BEAD;
  const beads = node.snapshots.map((bead, at) =>
    add(drawing, { node: bead, x: x + at * step, y, small: many, room: step }));
  const end = beads.length ? x + beads.length * step + BEAD : x;
  if (beads.length) drawing.edges.push({ x1: x, y1: y, x2: end, y2: y, life: true });
  const head = add(drawing, { node, x: end, y, small: false });
  // What is queued last is drawn first: beads from the left, then the head, which is the rightmost.
  for (const item of [...beads, head]) {
    const { snapshots, branches, fisk } = item.node;
    const made = item === head ? branches : [...snapshots, ...branches];
    if (made.length) hang(waiting, grouped(fisk.id, made, drawing.attached), item, item.x + STEP);
  }
}

function add(drawing, item) {
  drawing.items.push(item);
  for (const node of item.members || [item.node]) drawing.place.set(node.fisk.id, item);
  drawing.width = Math.max(drawing.width, item.x);
  return item;
}

function join(drawing, from, x, y) {
  if (from) drawing.edges.push({ x1: from.x, y1: from.y, x2: x, y2: y, life: false });
}

function bush(drawing, group, from, x) {
  const y = drawing.height + ROW / 2;
  drawing.height += ROW;
  join(drawing, from, x, y);
  add(drawing, { bush: group.key, members: group.members, x, y, small: false });
}

function block(drawing, group, from, x) {
  const top = drawing.height + ROW / 2;
  join(drawing, from, x, top);
  const handle = { bush: group.key, members: [], unfolded: group.members.length, x, y: top, small: false };
  add(drawing, handle);
  group.members.forEach((node, at) => {
    const place = { x: x + DOT + (at % COLUMNS) * DOT, y: top + ROW + Math.floor(at / COLUMNS) * DOT };
    add(drawing, { node, ...place, small: true, room: DOT, within: handle });
  });
  drawing.height = top + ROW + Math.ceil(group.members.length / COLUMNS) * DOT;
}
