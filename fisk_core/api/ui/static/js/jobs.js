// SPDX-License-Identifier: Apache-2.0
/** Jobs: how far they are, what came of them, and a button that ends them for those who may. */

import { call, get } from "./api.js";
import { h, table } from "./dom.js";
import { bytes, pairs, percent, when } from "./format.js";

const EVERY = 2000;
const SHOWN = 200;
const HEADS = ["Job", "State", "Action", "Progress", "Begun", "Result"];
const isOver = (job) => !["queued", "running"].includes(job.state);

export function jobs(page, signal) {
  const body = h("tbody", {});
  const none = h("p", { class: "hint" }, "There are no jobs.");
  const rows = new Map();

  async function look() {
    clearTimeout(look.timer);
    try {
      const { jobs: found } = await get("/jobs", signal);
      arrange(found.reverse().slice(0, SHOWN));
      none.hidden = found.length > 0;
      page.complain("view", null);
    } catch (error) {
      if (signal.aborted) return;
      page.complain("view", error);
    }
    if (!signal.aborted) look.timer = setTimeout(look, EVERY);
  }

  /** Newest first; rows that stay are changed in place, so the focus stays too. */
  function arrange(found) {
    const known = new Set(found.map((job) => job.id));
    for (const [id, row] of rows) {
      if (known.has(id)) continue;
      row.element.remove();
      rows.delete(id);
    }
    found.forEach((job, at) => {
      if (!rows.has(job.id)) {
        rows.set(job.id, jobRow(page.store.mayOperate, () => cancel(job)));
        body.insertBefore(rows.get(job.id).element, body.children[at] || null);
      }
      rows.get(job.id).update(job);
    });
  }

  async function cancel(job) {
    try {
      await call("DELETE", `/jobs/${job.id}`);
      page.complain("cancel", null);
    } catch (error) {
      page.complain("cancel", error);
    }
    look();
  }

  signal.addEventListener("abort", () => clearTimeout(look.timer), { once: true });
  page.store.addEventListener("jobs", look, { signal });
  look();
  return h("section", {}, h("h2", {}, "Jobs"), table("Jobs", HEADS, body), none);
}

function jobRow(mayCancel, cancel) {
  const name = h("th", { scope: "row" });
  const [state, begun, result] = [h("td", {}), h("td", {}), h("td", { class: "result" })];
  const progress = h("progress", { max: "1" });
  const done = h("small", {});
  const button = h("button", { type: "button", class: "cancel", onclick: cancel }, "Cancel");
  const action = h("td", {}, ...(mayCancel ? [button] : []));
  const element = h("tr", {}, name, state, action, h("td", {}, progress, " ", done), begun, result);
  function update(job) {
    element.dataset.job = job.id;
    element.dataset.state = job.state;
    name.replaceChildren(h("strong", {}, job.kind), h("br"), h("small", {}, pairs(job.arguments)));
    state.textContent = job.state;
    begun.textContent = when(job.created_at);
    showProgress(progress, done, job);
    result.textContent = outcome(job);
    button.hidden = isOver(job);
    button.setAttribute("aria-label", `Cancel ${job.kind}`);
  }
  return { element, update };
}

function showProgress(progress, text, job) {
  progress.setAttribute("aria-label", `${job.kind}: ${job.state}`);
  if (job.state === "done") progress.value = 1;
  else if (job.total) progress.value = job.done / job.total;
  else if (isOver(job) || job.state === "queued") progress.value = 0;
  else progress.removeAttribute("value");
  if (job.total) text.textContent = `${bytes(job.done)} of ${bytes(job.total)} (${percent(job.done, job.total)})`;
  else text.textContent = job.done ? bytes(job.done) : "";
}

function outcome(job) {
  if (job.error) return job.error.detail || job.error.title || "failed";
  if (job.result === null || job.result === undefined) return "";
  return typeof job.result === "object" ? pairs(job.result) : String(job.result);
}
