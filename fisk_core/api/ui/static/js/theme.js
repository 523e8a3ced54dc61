// SPDX-License-Identifier: Apache-2.0
/** Colours, all from the style sheet, so that light and dark have one place. */

const NAMES = ["ink", "muted", "faint", "paper", "panel", "line", "focus", "attached",
  "image", "volume", "disk", "snapshot", "other", "read", "write", "hole", "rest", "live", "old", "middle", "new"];

let known = null;

/** Gives name → colour for what is drawn; read once per scheme. */
export function colours() {
  if (!known) {
    const style = getComputedStyle(document.documentElement);
    known = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }
  return known;
}

/** Calls back when the reader changes between light and dark. */
export function onScheme(callback) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    known = null;
    callback();
  });
}

const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** Gives the colour at 0 (oldest) to 1 (newest): lightness rises or falls all the way, for every eye. */
export function ramp(position) {
  const { old, middle, new: newest } = colours();
  const [from, to] = position < 0.5 ? [old, middle] : [middle, newest];
  const share = position < 0.5 ? position * 2 : position * 2 - 1;
  const [a, b] = [parts(from), parts(to)];
  return `rgb(${a.map((value, at) => Math.round(value + (b[at] - value) * share)).join(" ")})`;
}
