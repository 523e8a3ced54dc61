// SPDX-License-Identifier: Apache-2.0
/** The REST interface: calls, typed problems, and the stream of events. */

import { token } from "./session.js";

const BASE = "/v1";

/** What the server refused: an RFC 9457 problem document. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `the server answered ${status}`);
    this.status = status;
    this.type = document.type || "";
  }
}

function headers(more = {}) {
  const secret = token();
  return secret ? { ...more, authorization: `Bearer ${secret}` } : more;
}

async function refusal(response) {
  const document = await response.json().catch(() => ({}));
  return new Problem(response.status, document);
}

/** Calls the API and gives the parsed answer, null when it is empty; throws Problem or TypeError. */
export async function call(method, path, { body, signal } = {}) {
  const sent = body === undefined ? {} : { body: JSON.stringify(body) };
  const kind = body === undefined ? {} : { "content-type": "application/json" };
  const response = await fetch(BASE + path, { method, headers: headers(kind), signal, ...sent });
  if (!response.ok) throw await refusal(response);
  return response.status === 204 ? null : response.json();
}

export const get = (path, signal) => call("GET", path, { signal });

/** Opens a stream of server-sent events with our authorization, which EventSource cannot send. */
export async function stream(path, signal) {
  const accept = { accept: "text/event-stream" };
  const response = await fetch(BASE + path, { headers: headers(accept), signal });
  if (!response.ok) throw await refusal(response);
  return eventsOf(response.body.pipeThrough(new TextDecoderStream()).getReader());
}

async function* eventsOf(reader) {
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (pending + value.replaceAll("\r", "")).split("\n\n");
    pending = blocks.pop();
    yield* blocks.map(parsed).filter((event) => event.data);
  }
}

function parsed(block) {
  const event = { id: null, kind: "message", data: "" };
  for (const line of block.split("\n")) {
    const [, field, value] = /^([a-z]+): ?(.*)$/.exec(line) || [];
    if (field === "id") event.id = value;
    else if (field === "event") event.kind = value;
    else if (field === "data") event.data += value;
  }
  return event;
}
