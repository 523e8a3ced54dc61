// SPDX-License-Identifier: Apache-2.0
/** What the signs of the picture mean, drawn by what draws the picture. */

import { h, sized } from "../dom.js";
import { colours, onScheme } from "../theme.js";
import { drawBush, drawFisk, drawRing } from "./shapes.js";

const fisk = (role, state) => ({ role, state });

const SIGNS = [
  ["image", (context) => drawFisk(context, fisk("image", "live"), 10, 10, 6)],
  ["volume", (context) => drawFisk(context, fisk("volume", "live"), 10, 10, 6)],
  ["disk", (context) => drawFisk(context, fisk("disk", "live"), 10, 10, 6)],
  ["snapshot", (context) => drawFisk(context, fisk("snapshot", "frozen"), 10, 10, 6)],
  ["other role", (context) => drawFisk(context, fisk("?", "live"), 10, 10, 6)],
  ["hollow: frozen", (context) => drawFisk(context, fisk("volume", "frozen"), 10, 10, 6)],
  ["attached", (context) => {
    drawFisk(context, fisk("volume", "live"), 10, 10, 4.5);
    drawRing(context, 10, 10, 8, colours().attached, 2.5);
  }],
  ["many alike, folded", (context) => drawBush(context, {}, { fisk: fisk("volume", "live") }, 7, 10, 5.5)],
];

export function legend() {
  const signs = SIGNS.map(([text, paint]) => {
    const canvas = h("canvas", { class: "sign", "aria-hidden": "true" });
    const draw = () => {
      const { context, width, height } = sized(canvas);
      context.clearRect(0, 0, width, height);
      paint(context);
    };
    requestAnimationFrame(draw);
    onScheme(() => canvas.isConnected && draw());
    return h("li", {}, canvas, text);
  });
  return h("ul", { class: "signs", "aria-label": "Legend" }, ...signs);
}
