// SPDX-License-Identifier: Apache-2.0
/** Looks at the workers every two seconds, whichever view is shown, so that plots have a past. */

import { get } from "./api.js";
import { History } from "./rates.js";

const EVERY = 2000;

export class Workers extends EventTarget {
  constructor(complain) {
    super();
    this.complain = complain;
    this.history = new History();
    this.workers = [];
  }

  start() {
    this.#look();
  }

  async #look() {
    if (!document.hidden) {
      try {
        const { workers } = await get("/workers");
        this.workers = workers;
        this.history.add(performance.now() / 1000, workers.filter((worker) => worker.metrics));
        this.complain("workers", null);
        this.dispatchEvent(new Event("workers"));
      } catch (error) {
        this.complain("workers", error);
        if (error.status === 401) return;
      }
    }
    setTimeout(() => this.#look(), EVERY);
  }
}
