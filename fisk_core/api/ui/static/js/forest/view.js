// SPDX-License-Identifier: Apache-2.0
/** The view of the forest: the picture, the search, what is selected, and what the signs mean. */

import { h } from "../dom.js";
import { plural } from "../format.js";
import { details } from "../details/panel.js";
import { legend } from "./legend.js";
import { caption } from "./labels.js";
import { Picture } from "./picture.js";
import { found } from "./search.js";

const HELP = "Arrow keys walk from Fisk to Fisk, Enter folds and unfolds, plus and minus zoom, 0 shows all.";

/** Gives the view; it ends when `signal` says so. */
export function forest(page, signal) {
  const parts = elements();
  const panel = details(page, (id) => picture.find(id), (item) => picture.toggle(item));
  const picture = new Picture(parts.canvas, (item) => {
    parts.said.textContent = item ? spoken(item, picture) : "";
    panel.show(item);
  });
  const update = () => {
    picture.show(page.store.forest, page.store.attached);
    parts.canvas.dataset.items = picture.drawing.items.length;
    parts.counted.textContent = counted(page.store);
    panel.refresh();
  };
  page.store.addEventListener("forest", update, { signal });
  searching(parts, page, picture, signal);
  parts.larger.addEventListener("click", () => picture.zoomHere(1.25));
  parts.smaller.addEventListener("click", () => picture.zoomHere(0.8));
  parts.all.addEventListener("click", () => picture.fit());
  requestAnimationFrame(() => {
    if (signal.aborted) return;
    update();
    picture.resume(page.look);
  });
  signal.addEventListener("abort", () => {
    page.look = picture.look;
  }, { once: true });
  const frame = h("div", { class: "picture" }, parts.canvas, parts.tools, parts.said);
  const left = h("section", { class: "left", "aria-label": "Forest" }, parts.bar, frame, legend());
  return h("div", { class: "split" }, left, panel.element);
}

function elements() {
  const button = (label, text) => h("button", { type: "button", "aria-label": label, title: label }, text);
  const parts = {
    canvas: h("canvas", { id: "forest-canvas", tabindex: "0", role: "application", "aria-label": `Lineage forest. ${HELP}` }),
    search: h("input", { id: "search", type: "search", placeholder: "name, role, key=value …", spellcheck: "false" }),
    matched: h("output", { for: "search", id: "matched" }),
    counted: h("p", { id: "counted" }),
    said: h("p", { class: "hidden", "aria-live": "polite" }),
    larger: button("Larger", "+"),
    smaller: button("Smaller", "−"),
    all: button("Show all", "⤢"),
  };
  parts.tools = h("div", { class: "tools" }, parts.larger, parts.smaller, parts.all);
  parts.bar = h("div", { class: "bar" }, h("label", { for: "search" }, "Search"), parts.search, parts.matched, parts.counted);
  return parts;
}

function counted(store) {
  const fisks = [...store.forest.nodes.values()].map((node) => node.fisk);
  const live = fisks.filter((fisk) => fisk.state === "live").length;
  const parts = { live, frozen: fisks.length - live, attached: store.attached.size };
  const told = Object.entries(parts).map(([kind, number]) => `${number.toLocaleString()} ${kind}`);
  return `${plural(fisks.length, "Fisk", "Fisks")}: ${told.join(", ")}`;
}

function spoken(item, picture) {
  if (item.bush) return `${caption(item)}, ${item.unfolded ? "unfolded" : "folded"}. Enter changes that.`;
  const { name, role, state, id } = item.node.fisk;
  return `${name}, ${role}, ${state}${picture.attached.has(id) ? ", attached" : ""}`;
}

function searching({ search, matched }, page, picture, signal) {
  let at = -1;
  const look = () => {
    const matches = found(page.store.forest.nodes, search.value);
    matched.textContent = matches ? plural(matches.size, "match", "matches") : "";
    picture.search(matches);
    return matches;
  };
  search.addEventListener("input", () => {
    at = -1;
    look();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const ids = [...(look() || [])];
    at = (at + (event.shiftKey ? ids.length - 1 : 1)) % ids.length;
    if (ids.length) picture.find(ids[at]);
  });
  page.store.addEventListener("forest", look, { signal });
}
