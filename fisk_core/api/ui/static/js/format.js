// SPDX-License-Identifier: Apache-2.0
/** Numbers and times as people read them. */

const BINARY = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const DECIMAL = ["", "k", "M", "G"];

/** Three digits, without zeros at the end that say nothing. */
const digits = (value) => (value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3))));

function scaled(value, step, units) {
  let unit = 0;
  while (value >= step && unit < units.length - 1) {
    value /= step;
    unit += 1;
  }
  return [digits(value), units[unit]];
}

/** Bytes in binary units: "1.5 GiB". */
export const bytes = (value) => scaled(value, 1024, BINARY).join(" ");

/** A plain number, short: "12.3k". */
export const count = (value) => scaled(value, 1000, DECIMAL).join("");

/** Bytes per second, decimal as bandwidth is: "12.3 MB/s". */
export const bandwidth = (value) => `${digits(value / 1e6)} MB/s`;

/** Seconds as latency: "350 µs", "1.2 ms". */
export function latency(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1e-3) return `${digits(value * 1e6)} µs`;
  return value < 1 ? `${digits(value * 1e3)} ms` : `${digits(value)} s`;
}

export const percent = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "–");

/** A time in the reader's zone; today's without the date. */
export function when(text) {
  const time = new Date(text);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}

export const plural = (number, one, many) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

/** Names and values of an object in one line: "layers=135 dry_run=false"; what is empty is left out. */
export function pairs(object) {
  const empty = (value) => value === null || (typeof value === "object" && !Object.keys(value).length);
  const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
  const shown = Object.entries(object).filter(([, value]) => !empty(value));
  return shown.map(([name, value]) => `${name}=${text(value)}`).join(" ");
}
