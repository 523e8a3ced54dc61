// SPDX-License-Identifier: Apache-2.0
/** What a Fisk takes; measured when asked for, because every map of the pool is looked at. */

import { get } from "../api.js";
import { facts, h } from "../dom.js";
import { bytes, percent } from "../format.js";

export function usage(fisk) {
  const box = h("div", {});
  const measure = async () => {
    box.replaceChildren("…");
    try {
      const { provisioned, referenced, exclusive } = await get(`/fisks/${fisk.id}/usage`);
      box.replaceChildren(facts([
        ["Offers", bytes(provisioned)],
        ["Its map names", `${bytes(referenced)} (${percent(referenced, provisioned)})`],
        ["No other does", `${bytes(exclusive)}: what deleting it gives back`],
      ]));
    } catch (error) {
      box.replaceChildren(error.message);
    }
  };
  box.append(h("button", { type: "button", onclick: measure }, "Measure"));
  return box;
}
