// SPDX-License-Identifier: Apache-2.0
/** Who came from whom: Fisks, the snapshots along the life of each, and what branches off. */

/**
 * Gives {nodes: id → node, roots}.  A node has its fisk, parent, `snapshots` (oldest first: its life up to
 * now) and `branches` (the Fisks made from it).
 */
export function lineage(fisks) {
  const nodes = new Map(fisks.map((fisk) => [fisk.id, { fisk, parent: null, snapshots: [], branches: [] }]));
  const roots = [];
  for (const node of nodes.values()) {
    const parent = nodes.get(node.fisk.parent_id);
    if (!parent) {
      roots.push(node);
      continue;
    }
    node.parent = parent;
    (isSnapshot(node.fisk, parent.fisk) ? parent.snapshots : parent.branches).push(node);
  }
  return { nodes, roots };
}

const isSnapshot = (fisk, parent) =>
  fisk.state === "frozen" && (fisk.role === "snapshot" || parent.state === "live");

const BUSH = 8;

const isLeaf = (node) => !node.snapshots.length && !node.branches.length;

/**
 * Splits what branches off at one place: many alike without descendants are a bush, drawn as one.
 * Gives [{key, members}]: a bush has a key, the others are alone.  Attached ones are shown by themselves.
 */
export function grouped(place, branches, attached) {
  const groups = new Map();
  const found = [];
  for (const node of branches) {
    const { role, state, id } = node.fisk;
    const key = `${place}/${role}/${state}`;
    if (!isLeaf(node) || attached.has(id)) found.push({ key: null, members: [node] });
    else if (groups.has(key)) groups.get(key).members.push(node);
    else {
      groups.set(key, { key, members: [node] });
      found.push(groups.get(key));
    }
  }
  return found.flatMap((group) =>
    group.key && group.members.length < BUSH
      ? group.members.map((node) => ({ key: null, members: [node] }))
      : [group]);
}
