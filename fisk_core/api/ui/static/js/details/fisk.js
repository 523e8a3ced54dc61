// SPDX-License-Identifier: Apache-2.0
/** One Fisk: its fields, relatives, attributes, attachments, and where its blocks live. */

import { facts, h } from "../dom.js";
import { bytes, plural, when } from "../format.js";
import { mapPicture } from "./map.js";
import { usage } from "./usage.js";

const link = (node, go) =>
  h("button", { type: "button", class: "link", onclick: () => go(node.fisk.id) }, node.fisk.name);

export function fiskDetails(page, node, go) {
  const { fisk } = node;
  const attached = page.store.attachments.filter((each) => each.fisk_id === fisk.id);
  return [
    h("h2", {}, fisk.name),
    facts([
      ["Role", fisk.role],
      ["State", fisk.state],
      ["Size", bytes(fisk.size)],
      ["Pool", fisk.pool],
      ["Created", new Date(fisk.created_at).toLocaleString()],
      ["Made from", node.parent ? link(node.parent, go) : fisk.parent_id ? "a Fisk that is gone" : "nothing"],
      ["Has", relatives(node)],
      ["Id", h("code", {}, fisk.id)],
    ]),
    ...attachments(attached),
    h("h3", {}, "Where its blocks live"),
    mapPicture(fisk),
    h("h3", {}, "Space"),
    usage(fisk),
    ...attributes(fisk.attributes),
  ];
}

function relatives({ snapshots, branches }) {
  const parts = [
    snapshots.length && plural(snapshots.length, "snapshot", "snapshots"),
    branches.length && plural(branches.length, "Fisk made from it", "Fisks made from it"),
  ].filter(Boolean);
  return parts.join(", ") || "no snapshots, nothing made from it";
}

function attachments(found) {
  if (!found.length) return [];
  const rows = found.map((each) =>
    h("li", {},
      h("strong", {}, `${each.access} on ${each.host}`),
      ` ${each.read_only ? "read-only" : "writable"}${each.consumer ? `, for ${each.consumer}` : ""}, since ${when(each.created_at)}`));
  return [h("h3", {}, "Attached"), h("ul", { class: "attachments" }, ...rows)];
}

function attributes(found) {
  const names = Object.keys(found).sort();
  if (!names.length) return [];
  return [h("h3", {}, "Attributes"), facts(names.map((name) => [name, found[name]]))];
}
