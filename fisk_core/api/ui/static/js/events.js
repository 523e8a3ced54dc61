// SPDX-License-Identifier: Apache-2.0
/** Events as they happen, newest first. */

import { h, table } from "./dom.js";
import { pairs, when } from "./format.js";

const HEADS = ["Number", "When", "What", "Fisk", "More"];

export function events(page, signal) {
  const body = h("tbody", {});
  const state = h("p", { class: "hint", id: "live" });
  let newest = -1;

  function update() {
    const fresh = page.store.events.filter((event) => event.num > newest);
    if (fresh.length) newest = fresh[0].num;
    body.prepend(...fresh.map((event) => row(event, page)));
    while (body.children.length > page.store.events.length) body.lastChild.remove();
    state.textContent = page.store.live ? "Live: what happens from the moment the page was opened." : "Not connected at the moment; trying again.";
  }

  page.store.addEventListener("events", update, { signal });
  page.store.addEventListener("live", update, { signal });
  update();
  return h("section", {}, h("h2", {}, "Events"), state, table("Events", HEADS, body));
}

function row({ num, at, kind, fisk_id: id, data }, { store, go }) {
  const many = data.ids ? `${data.ids.length} Fisks` : "";
  const link = () => h("button", { type: "button", class: "link", onclick: () => go(id) }, data.name || store.nameOf(id));
  const subject = id ? link() : many;
  const more = pairs({ ...data, ids: null, name: null });
  return h("tr", { "data-kind": kind },
    h("td", {}, String(num)), h("td", {}, when(at)), h("td", {}, kind),
    h("td", {}, subject), h("td", { class: "result" }, more));
}
