// SPDX-License-Identifier: Apache-2.0
/** What is known of the selected Fisk, or of the selected bush. */

import { h } from "../dom.js";
import { bushDetails } from "./bush.js";
import { fiskDetails } from "./fisk.js";

/** Gives {element, show(item), refresh()}; `go(id)` selects a Fisk and `toggle(item)` unfolds a bush. */
export function details(page, go, toggle) {
  const element = h("aside", { class: "panel", "aria-label": "Details", id: "details" });
  let shown = null;
  let stamp = null;

  function show(item) {
    const current = stampOf(item);
    if (current === stamp) return;
    [shown, stamp] = [item, current];
    element.replaceChildren(...content(item));
  }

  function content(item) {
    if (!item) return [h("p", { class: "hint" }, "Select a Fisk in the picture to see what is known of it.")];
    return item.bush ? bushDetails(item, go, () => toggle(item)) : fiskDetails(page, item.node, go);
  }

  /** What an item showed: when nothing of that changed, the panel is left alone (and its focus with it). */
  function stampOf(item) {
    if (!item) return "";
    if (item.bush) return `${item.bush} ${item.members.length} ${item.unfolded}`;
    const { node } = item;
    const attachments = page.store.attachments.filter((each) => each.fisk_id === node.fisk.id);
    return JSON.stringify([node.fisk, attachments, node.snapshots.length, node.branches.length]);
  }

  function refresh() {
    const id = shown && !shown.bush && shown.node.fisk.id;
    if (!id) return;
    const node = page.store.forest.nodes.get(id);
    show(node ? { node } : null);
  }

  show(null);
  return { element, show, refresh };
}
