// SPDX-License-Identifier: Apache-2.0
/** From counters to rates: what workers did between two looks, for the last ten minutes. */

export const SPAN = 600;
const KINDS = ["read", "write"];

/** Gives the latency below which the share `q` of the operations was, from a histogram; null without any. */
export function percentile(bounds, counts, q) {
  const total = counts.reduce((before, count) => before + count, 0);
  if (!total) return null;
  let left = q * total;
  for (let at = 0; at < counts.length; at += 1) {
    if (left <= counts[at]) {
      const low = at ? bounds[at - 1] : 0;
      const high = at < bounds.length ? bounds[at] : low;
      return low + (high - low) * (left / counts[at]);
    }
    left -= counts[at];
  }
  return bounds.at(-1);
}

const minus = (after, before) => after.map((value, at) => value - (before[at] || 0));

/** Gives what happened between two metrics of one worker; null when it began anew between them. */
export function difference(before, after) {
  const delta = { queue: after.queue, connections: after.connections, bounds: after.latency.bounds };
  for (const kind of KINDS) {
    delta[kind] = {
      operations: after[`${kind}s`] - before[`${kind}s`],
      bytes: after[`${kind}_bytes`] - before[`${kind}_bytes`],
      counts: minus(after.latency[kind], before.latency[kind]),
    };
    if (delta[kind].operations < 0 || delta[kind].bytes < 0) return null;
  }
  return delta;
}

/** Adds up what several workers did. */
export function sum(deltas) {
  const total = { queue: 0, connections: 0, bounds: deltas[0].bounds };
  for (const kind of KINDS) total[kind] = { operations: 0, bytes: 0, counts: [] };
  for (const delta of deltas) {
    total.queue += delta.queue;
    total.connections += delta.connections;
    for (const kind of KINDS) {
      total[kind].operations += delta[kind].operations;
      total[kind].bytes += delta[kind].bytes;
      total[kind].counts = delta[kind].counts.map((count, at) => count + (total[kind].counts[at] || 0));
    }
  }
  return total;
}

/** Turns what happened in some seconds into a sample of rates. */
export function sample(time, seconds, delta) {
  const found = { time, queue: delta.queue, connections: delta.connections };
  for (const kind of KINDS) {
    const { operations, bytes, counts } = delta[kind];
    found[kind] = {
      iops: operations / seconds,
      bytes: bytes / seconds,
      p50: percentile(delta.bounds, counts, 0.5),
      p99: percentile(delta.bounds, counts, 0.99),
    };
  }
  return found;
}

/** Samples of each worker by Fisk, and of all together under "". */
export class History {
  constructor() {
    this.samples = new Map();
    this.before = new Map();
    this.time = null;
  }

  /** Takes a look: time in seconds and {fisk_id, metrics} of each worker. */
  add(time, workers) {
    const seconds = time - this.time;
    const deltas = new Map();
    for (const { fisk_id: id, metrics } of workers) {
      const before = this.before.get(id);
      const delta = before && difference(before, metrics);
      if (delta) deltas.set(id, delta);
    }
    this.before = new Map(workers.map((worker) => [worker.fisk_id, worker.metrics]));
    const looked = this.time !== null;
    this.time = time;
    if (looked) this.#keep(time, seconds, deltas);
  }

  #keep(time, seconds, deltas) {
    for (const [id, delta] of deltas) this.#push(id, sample(time, seconds, delta));
    if (deltas.size) this.#push("", sample(time, seconds, sum([...deltas.values()])));
    for (const [id, samples] of this.samples) {
      const kept = samples.filter((each) => each.time >= time - SPAN);
      if (kept.length) this.samples.set(id, kept);
      else this.samples.delete(id);
    }
  }

  #push(id, found) {
    if (!this.samples.has(id)) this.samples.set(id, []);
    this.samples.get(id).push(found);
  }

  of(id) {
    return this.samples.get(id) || [];
  }

  latest(id) {
    return this.of(id).at(-1);
  }
}
