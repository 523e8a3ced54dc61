// SPDX-License-Identifier: Apache-2.0
/** Finding Fisks by what people know of them. */

const LEAST_ID = 4;

/**
 * Gives the ids of Fisks whose name, role, state, pool or attributes hold every word, or whose id begins with
 * it; those called so first, then those whose name begins so.  Null without words.
 */
export function found(nodes, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return null;
  const matches = [[], [], []];
  for (const { fisk } of nodes.values()) {
    if (words.every((word) => holds(fisk, word))) matches[rank(fisk.name.toLowerCase(), words[0])].push(fisk.id);
  }
  return new Set(matches.flat());
}

const rank = (name, word) => (name === word ? 0 : name.startsWith(word) ? 1 : 2);

const holds = (fisk, word) =>
  searchable(fisk).includes(word) || (word.length >= LEAST_ID && fisk.id.startsWith(word));

function searchable(fisk) {
  const attributes = Object.entries(fisk.attributes).map((pair) => pair.join("="));
  return [fisk.name, fisk.role, fisk.state, fisk.pool, ...attributes].join("\n").toLowerCase();
}
