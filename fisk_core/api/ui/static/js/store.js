// SPDX-License-Identifier: Apache-2.0
/** What several views show: the forest, the attachments, and the news about both. */

import { get, stream } from "./api.js";
import { lineage } from "./forest/lineage.js";

const QUIET = 500;
const LONGEST = 10000;
const RETRY = 2000;
const KEPT = 500;

export class Store extends EventTarget {
  constructor(complain) {
    super();
    this.complain = complain;
    this.about = null;
    this.forest = lineage([]);
    this.attachments = [];
    this.events = [];
    this.last = null;
    this.live = false;
    this.waiting = null;
    this.cost = 0;
    this.stopper = new AbortController();
  }

  /** Asks who we are, throwing what that throws; then fetches all and follows what happens from there. */
  async start() {
    this.about = await get("");
    await this.#tryRefresh();
    this.#follow();
  }

  stop() {
    this.stopper.abort();
    clearTimeout(this.waiting);
  }

  /** Gives the ids of Fisks that are attached. */
  get attached() {
    return new Set(this.attachments.map((each) => each.fisk_id));
  }

  /** What a Fisk is called, its id when it is gone. */
  nameOf(id) {
    return this.forest.nodes.get(id)?.fisk.name || id;
  }

  /** Whether the caller is an operator at least; the server decides anyway. */
  get mayOperate() {
    return ["operator", "admin"].includes(this.about.role);
  }

  async refresh() {
    const began = performance.now();
    const { signal } = this.stopper;
    const [{ nodes }, { attachments }] = await Promise.all([get("/tree", signal), get("/attachments", signal)]);
    this.forest = lineage(nodes.map((node) => node.fisk));
    this.attachments = attachments;
    this.cost = performance.now() - began;
    this.#tell("forest");
  }

  /** A forest that cannot be had is no reason not to show the rest. */
  async #tryRefresh() {
    try {
      await this.refresh();
      this.complain("forest", null);
    } catch (error) {
      if (!this.stopper.signal.aborted) this.complain("forest", error);
    }
  }

  #tell(kind) {
    this.dispatchEvent(new Event(kind));
  }

  async #follow() {
    while (!this.stopper.signal.aborted) {
      await shown();
      try {
        await this.#read();
      } catch (error) {
        if (error.status === 401) return;
      }
      this.#alive(false);
      await new Promise((done) => setTimeout(done, RETRY));
    }
  }

  #alive(live) {
    this.live = live;
    this.#tell("live");
  }

  async #read() {
    const after = this.last === null ? "" : `?after=${this.last}`;
    const signal = AbortSignal.any([this.stopper.signal, whenHidden()]);
    const events = await stream(`/events${after}`, signal);
    this.#alive(true);
    this.#refreshSoon(); // what happened before the stream was there
    for await (const event of events) this.#note(JSON.parse(event.data));
  }

  #note(event) {
    this.last = event.num;
    this.events = [event, ...this.events].slice(0, KEPT);
    this.#tell("events");
    if (event.kind.startsWith("job.")) this.#tell("jobs");
    if (event.kind.startsWith("fisk.")) this.#refreshSoon();
  }

  /** Many changes are one look: at most a quarter of the time is spent on it. */
  #refreshSoon() {
    if (this.waiting) return;
    this.waiting = setTimeout(async () => {
      await this.#tryRefresh();
      this.waiting = null;
    }, Math.min(LONGEST, Math.max(QUIET, 3 * this.cost)));
  }
}

/*
 * A browser opens few connections to one server, for all its tabs together: a stream that nobody sees must
 * not hold one of them.  (A page that was left may be kept as well, to be shown again.)
 */

/** Waits until the page is seen. */
async function shown() {
  while (document.hidden) await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
}

/** Gives a signal for when the page is not seen any more. */
function whenHidden() {
  const controller = new AbortController();
  const look = () => document.hidden && controller.abort();
  document.addEventListener("visibilitychange", look, { signal: controller.signal });
  addEventListener("pagehide", () => controller.abort(), { signal: controller.signal });
  return controller.signal;
}
