// SPDX-License-Identifier: Apache-2.0
/** Many Fisks that are alike: how many, and a list to choose from. */

import { h } from "../dom.js";
import { caption } from "../forest/labels.js";

const LISTED = 100;

export function bushDetails(item, go, toggle) {
  const label = item.unfolded ? "Fold" : "Unfold in the picture";
  const title = h("h2", {}, item.unfolded ? `${item.unfolded.toLocaleString()} Fisks` : caption(item));
  const button = h("button", { type: "button", id: "unfold", onclick: toggle }, label);
  if (item.unfolded) return [title, button];
  const [first] = item.members;
  const about = h("p", {}, `Alike: role ${first.fisk.role}, ${first.fisk.state}, nothing made from them, not attached.`);
  const list = h("ul", { class: "names" });
  const hint = h("p", { class: "hint" });
  const fill = (text) => fillList(list, hint, item.members, text.toLowerCase(), go);
  const filter = h("input", {
    type: "search",
    "aria-label": "Filter by name",
    placeholder: "filter by name …",
    oninput: () => fill(filter.value),
  });
  fill("");
  return [title, about, button, filter, list, hint];
}

function fillList(list, hint, members, text, go) {
  const matching = members.filter((node) => node.fisk.name.toLowerCase().includes(text));
  const rows = matching.slice(0, LISTED).map(({ fisk }) =>
    h("li", {}, h("button", { type: "button", class: "link", onclick: () => go(fisk.id) }, fisk.name)));
  list.replaceChildren(...rows);
  const more = matching.length - rows.length;
  hint.textContent = more ? `and ${more.toLocaleString()} more` : "";
}
