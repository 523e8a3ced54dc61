// SPDX-License-Identifier: Apache-2.0
/** Finding Fisks by what people know of them. */

/** Gives the ids of Fisks whose name, id, role, state, pool or attributes hold every word; null without words. */
export function found(nodes, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const matches = new Set();
  for (const { fisk } of nodes.values()) {
    const known = searchable(fisk);
    if (words.every((word) => known.includes(word))) matches.add(fisk.id);
  }
  return matches;
}

function searchable(fisk) {
  const attributes = Object.entries(fisk.attributes).map((pair) => pair.join("="));
  return [fisk.name, fisk.id, fisk.role, fisk.state, fisk.pool, ...attributes].join("\n").toLowerCase();
}
