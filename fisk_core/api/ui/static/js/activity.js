// SPDX-License-Identifier: Apache-2.0
/** What attached Fisks do: figures of each, and plots of the last ten minutes of one or of all. */

import { h, table } from "./dom.js";
import { bandwidth, count, latency } from "./format.js";
import { Plot, logarithmic } from "./plot.js";

const LINES = (key) => [
  { label: "read", colour: "read", value: (each) => each.read[key] },
  { label: "write", colour: "write", value: (each) => each.write[key] },
];
const LATENCIES = ["read", "write"].flatMap((kind) => [
  { label: `${kind} p50`, colour: kind, value: (each) => each[kind].p50 },
  { label: `${kind} p99`, colour: kind, dashed: true, value: (each) => each[kind].p99 },
]);
const HEADS = ["Fisk", "Read IOPS", "Write IOPS", "Read", "Write", "Read p50 / p99", "Write p50 / p99", "Waiting", "Connections"];

export function activity(page, signal) {
  const plots = [
    new Plot("Operations per second", count, LINES("iops")),
    new Plot("Bandwidth", bandwidth, LINES("bytes")),
    new Plot("Latency", latency, LATENCIES, logarithmic),
  ];
  const heading = h("h2", { id: "plotted" });
  const body = h("tbody", {});
  let chosen = "";
  const rows = new Map();

  const nameOf = (id) => (id ? page.store.nameOf(id) : "All together");

  function choose(id) {
    chosen = id;
    update();
  }

  function update() {
    const { history, workers } = page.workers;
    const named = workers.map((worker) => worker.fisk_id).sort((a, b) => nameOf(a).localeCompare(nameOf(b)));
    const ids = ["", ...named];
    if (!ids.includes(chosen)) chosen = "";
    arrange(ids);
    for (const id of ids) rows.get(id).update(history.latest(id), nameOf(id));
    heading.textContent = chosen ? nameOf(chosen) : `All ${workers.length} attached Fisks of this host`;
    for (const plot of plots) plot.show(history.of(chosen));
  }

  /** Adds and removes rows, and leaves those that stay where they are: one of them may have the focus. */
  function arrange(ids) {
    for (const [id, row] of rows) {
      if (ids.includes(id)) continue;
      row.element.remove();
      rows.delete(id);
    }
    for (const id of ids) {
      if (rows.has(id)) continue;
      rows.set(id, workerRow(id === chosen, () => choose(id)));
      body.append(rows.get(id).element);
    }
  }

  page.workers.addEventListener("workers", update, { signal });
  update();
  return h("section", { class: "activity" }, heading,
    h("div", { class: "plots" }, ...plots.map((plot) => plot.element)),
    h("h2", {}, "Workers"), table("Workers", HEADS, body));
}

function workerRow(checked, choose) {
  const name = h("span", {});
  const radio = h("input", { type: "radio", name: "worker", checked, onchange: choose });
  const cells = HEADS.slice(1).map(() => h("td", {}));
  const element = h("tr", {}, h("th", { scope: "row" }, h("label", {}, radio, name)), ...cells);
  return {
    element,
    update(latest, text) {
      name.textContent = text;
      figures(latest).forEach((figure, at) => {
        cells[at].textContent = figure;
      });
    },
  };
}

function figures(latest) {
  if (!latest) return HEADS.slice(1).map(() => "–");
  const { read, write, queue, connections } = latest;
  const both = ({ p50, p99 }) => `${latency(p50)} / ${latency(p99)}`;
  return [count(Math.round(read.iops)), count(Math.round(write.iops)), bandwidth(read.bytes), bandwidth(write.bytes),
    both(read), both(write), count(queue), count(connections)];
}
