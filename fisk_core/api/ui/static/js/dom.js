// SPDX-License-Identifier: Apache-2.0
/** Elements, made safely: text is always a text node, never markup. */

/** Makes an element; keys that begin with "on" are listeners, the others are attributes (null: none). */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Makes a definition list of [term, text or element] pairs. */
export function facts(pairs) {
  const rows = pairs.filter(Boolean).map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]);
  return h("dl", { class: "facts" }, ...rows.flat());
}

/** Makes a table that scrolls sideways by itself where there is no room. */
export function table(caption, heads, body) {
  const row = h("tr", {}, ...heads.map((head) => h("th", { scope: "col" }, head)));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("thead", {}, row), body));
}

/** Makes a canvas crisp on this screen and gives its context, measured in CSS pixels. */
export function sized(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const { clientWidth: width, clientHeight: height } = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width, height };
}
