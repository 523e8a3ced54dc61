// SPDX-License-Identifier: Apache-2.0
/** A plot of what was seen of the last ten minutes: lines on a canvas, their last values as text beside it. */

import { h, sized } from "./dom.js";
import { SPAN } from "./rates.js";
import { colours } from "./theme.js";

const LEFT = 62;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;
const GAP = 15;
const SPANS = [1, 2, 5, SPAN / 60];

export class Plot {
  /** `lines` are {label, colour (a name of the theme), dashed, value(sample)}; `scale` is linear or logarithmic. */
  constructor(title, format, lines, scale = linear) {
    this.format = format;
    this.lines = lines;
    this.scale = scale;
    this.samples = [];
    this.pointer = null;
    this.canvas = h("canvas", { class: "plot", role: "img", "aria-label": title });
    this.legend = h("p", { class: "legend" });
    this.element = h("figure", {}, h("figcaption", {}, title), this.legend, this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.canvas.addEventListener("pointerleave", () => this.#point(null));
    new ResizeObserver(() => this.draw()).observe(this.canvas);
  }

  show(samples) {
    this.samples = samples;
    this.draw();
  }

  #point(x) {
    this.pointer = x;
    this.draw();
  }

  draw() {
    const frame = sized(this.canvas);
    if (frame.width < LEFT + RIGHT + 10) return;
    const now = this.samples.at(-1)?.time || 0;
    const values = this.samples.flatMap((each) => this.lines.map((line) => line.value(each) || 0));
    const { ticks, share } = this.scale(values);
    const minutes = SPANS.find((each) => now - this.samples[0]?.time < each * 60) || SPANS.at(-1);
    const x = (time) => LEFT + (frame.width - LEFT - RIGHT) * (1 - (now - time) / (minutes * 60));
    const y = (value) => TOP + (frame.height - TOP - BOTTOM) * (1 - share(value));
    this.#grid(frame, ticks, x, y, now, minutes);
    for (const line of this.lines) this.#line(frame.context, line, x, y);
    this.#readings(frame, x, now);
  }

  #grid({ context, width, height }, ticks, x, y, now, span) {
    const { paper, faint, muted } = colours();
    context.fillStyle = paper;
    context.fillRect(0, 0, width, height);
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = muted;
    context.strokeStyle = faint;
    context.lineWidth = 1;
    context.setLineDash([]);
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const tick of ticks) {
      const at = Math.round(y(tick)) + 0.5;
      context.beginPath();
      context.moveTo(LEFT, at);
      context.lineTo(width - RIGHT, at);
      context.stroke();
      context.fillText(this.format(tick), LEFT - 6, at);
    }
    context.textBaseline = "bottom";
    for (const [minutes, align] of [[span, "left"], [span / 2, "center"], [0, "right"]]) {
      context.textAlign = align;
      context.fillText(ago(minutes), x(now - minutes * 60), height - 2);
    }
  }

  #line(context, { colour, dashed, value }, x, y) {
    context.beginPath();
    let before = null;
    for (const each of this.samples) {
      const found = value(each);
      if (found === null) before = null;
      else {
        const broken = before === null || each.time - before > GAP;
        context[broken ? "moveTo" : "lineTo"](x(each.time), y(found));
        if (broken) context.lineTo(x(each.time) + 0.5, y(found));
        before = each.time;
      }
    }
    context.setLineDash(dashed ? [4, 3] : []);
    context.strokeStyle = colours()[colour];
    context.lineWidth = colour === "read" ? 3 : 1.5; // both are seen where they are the same
    context.lineJoin = "round";
    context.stroke();
    context.setLineDash([]);
  }

  #readings({ context, height }, x, now) {
    const each = this.pointer === null ? this.samples.at(-1) : nearest(this.samples, x, this.pointer);
    const past = each && this.pointer !== null ? ` (${Math.round(now - each.time)} s ago)` : "";
    const parts = this.lines.map(({ label, colour, dashed, value }) => {
      const key = h("span", { class: `key ${colour}${dashed ? " dashed" : ""}` });
      return h("span", {}, key, `${label} ${each ? this.format(value(each)) : "–"}`);
    });
    this.legend.replaceChildren(...parts, past);
    if (!each || this.pointer === null) return;
    context.fillStyle = colours().muted;
    context.fillRect(Math.round(x(each.time)), TOP, 1, height - TOP - BOTTOM);
  }
}

const ago = (minutes) =>
  minutes === 0 ? "now" : minutes < 1 ? `${minutes * 60} s ago` : `${minutes} min ago`;

const nearest = (samples, x, at) =>
  samples.reduce((best, each) => (!best || Math.abs(x(each.time) - at) < Math.abs(x(best.time) - at) ? each : best), null);

/** Gives a round number no smaller than `value`: 1, 2 or 5 and zeros. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value);
}

/** From zero to a round number above the values. */
export function linear(values) {
  const top = ceiling(Math.max(...values, 0));
  return { ticks: [0, top / 2, top], share: (value) => value / top };
}

/** From one power of ten to another, with the values between: for what differs by magnitudes. */
export function logarithmic(values) {
  const some = values.filter((value) => value > 0);
  const low = some.length ? Math.floor(Math.log10(Math.min(...some))) : -5;
  const high = some.length ? Math.max(low + 1, Math.ceil(Math.log10(Math.max(...some)))) : -2;
  const ticks = Array.from({ length: high - low + 1 }, (_, at) => 10 ** (low + at));
  const share = (value) => Math.max(0, (Math.log10(value) - low) / (high - low));
  return { ticks, share };
}
