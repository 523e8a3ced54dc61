// SPDX-License-Identifier: Apache-2.0
/** Pools: how full their media are, what of that are layers, and how much may be garbage. */

import { get } from "./api.js";
import { facts, h } from "./dom.js";
import { bytes, percent, plural } from "./format.js";

const EVERY = 10000;

export function pools(page, signal) {
  const list = h("div", { class: "pools" });
  const element = h("section", {}, h("h2", {}, "Pools"), list);

  async function look() {
    try {
      const found = await get("/pools", signal);
      const spaces = await Promise.all(found.pools.map((pool) => get(`/pools/${pool.name}/space`, signal)));
      list.replaceChildren(...found.pools.map((pool, at) => card(pool, spaces[at], page)));
      page.complain("view", null);
    } catch (error) {
      if (signal.aborted) return;
      page.complain("view", error);
    }
    const timer = setTimeout(look, EVERY);
    signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  }

  look();
  return element;
}

function card(pool, space, page) {
  const used = space.total - space.free;
  const inLayers = Math.min(space.layer_bytes, used);
  const suspect = Math.min(space.suspect_bytes, inLayers);
  const fisks = [...page.store.forest.nodes.values()].filter((node) => node.fisk.pool === pool.name).length;
  return h("article", { class: "pool", "aria-label": `Pool ${pool.name}` },
    h("h3", {}, pool.name, h("small", {}, ` ${pool.driver}`)),
    h("h4", {}, "The medium"),
    bar(space.total, [["others", used - inLayers], ["data", inLayers]], space.high_water),
    h("h4", {}, "The layers"),
    bar(inLayers, [["data", inLayers - suspect], ["suspect", suspect]], null),
    facts([
      ["Medium", `${bytes(space.total)}, ${percent(used, space.total)} used`],
      ["Layers", `${bytes(space.layer_bytes)} in ${plural(space.layers, "layer", "layers")} of ${plural(fisks, "Fisk", "Fisks")}`],
      ["May hold garbage", space.suspect
        ? `${plural(space.suspect, "layer", "layers")} with ${bytes(space.suspect_bytes)}; the collector looks at them`
        : "no layer"],
      ["Something else", bytes(used - inLayers)],
      ["Free", bytes(space.free)],
      ["High-water mark", `${space.high_water} %: expendable snapshots go from there`],
    ]));
}

const NAMES = { others: "something else", data: "layers", suspect: "may be garbage" };

/** Draws parts of a whole as a bar, with a mark at so many percent if there is one; its text says the same. */
function bar(total, parts, mark) {
  const text = parts.map(([kind, value]) => `${NAMES[kind]} ${percent(value, total)}`).join(", ");
  const pieces = parts.map(([kind, value]) => {
    const piece = h("span", { class: `part ${kind}`, title: `${NAMES[kind]}: ${bytes(value)}` });
    piece.style.width = `${total ? (100 * value) / total : 0}%`;
    return piece;
  });
  const keys = parts.map(([kind]) => h("li", {}, h("span", { class: `swatch ${kind}` }), NAMES[kind]));
  if (mark !== null) {
    const line = h("span", { class: "mark", title: `High-water mark: ${mark} %` });
    line.style.left = `${mark}%`;
    pieces.push(line);
    keys.push(h("li", {}, h("span", { class: "swatch mark" }), "high-water mark"));
  }
  return h("div", {},
    h("div", { class: "fill", role: "img", "aria-label": text }, ...pieces),
    h("ul", { class: "keys" }, ...keys));
}
