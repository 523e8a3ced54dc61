// SPDX-License-Identifier: Apache-2.0
/** The page: who looks, and which view they see. */

import { activity } from "./activity.js";
import { Problem } from "./api.js";
import { events } from "./events.js";
import { forest } from "./forest/view.js";
import { jobs } from "./jobs.js";
import { pools } from "./pools.js";
import { forget, remember, token } from "./session.js";
import { Store } from "./store.js";
import { Workers } from "./workers.js";

const VIEWS = { forest, activity, pools, jobs, events };
const byId = (id) => document.getElementById(id);
const [view, signIn, trouble] = [byId("view"), byId("sign-in"), byId("trouble")];

let page = null;
let leave = null;

const troubles = new Map();

/** Tells what went wrong with something, or with null that it is well again. */
function complain(source, error) {
  if (error instanceof Problem && error.status === 401) {
    end();
    return;
  }
  if (error) troubles.set(source, error instanceof TypeError ? "fiskd does not answer." : error.message);
  else troubles.delete(source);
  trouble.hidden = !troubles.size;
  trouble.textContent = [...new Set(troubles.values())].join(" ");
}

async function begin() {
  const store = new Store(complain);
  try {
    await store.start();
  } catch (error) {
    store.stop();
    refused(error);
    return;
  }
  complain("sign-in", null);
  page = { store, workers: new Workers(complain), complain, go, look: {} };
  page.workers.start();
  signIn.hidden = true;
  byId("tabs").hidden = byId("who").hidden = false;
  byId("host").textContent = store.about.host;
  byId("role").textContent = `${store.about.caller} · ${store.about.role}`;
  byId("sign-out").hidden = !token();
  document.title = `Fisk · ${store.about.host}`;
  show();
}

/** Asks for a token; the first time without complaining that there is none. */
function refused(error) {
  const unknown = error.status === 401;
  if (!unknown || token()) complain("sign-in", unknown ? new Error("This token is not known here.") : error);
  if (unknown) forget();
  signIn.hidden = false;
  byId("token").focus();
}

/** Shows a Fisk in the forest. */
function go(id) {
  page.look = { ...page.look, wanted: id };
  location.hash = "#forest";
}

function end() {
  forget();
  location.reload();
}

function show() {
  if (!page) return;
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "forest";
  for (const link of document.querySelectorAll("#tabs a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  leave?.abort();
  leave = new AbortController();
  complain("view", null);
  view.dataset.view = name;
  view.replaceChildren(VIEWS[name](page, leave.signal));
}

signIn.addEventListener("submit", (event) => {
  event.preventDefault();
  remember(byId("token").value.trim());
  byId("token").value = "";
  begin();
});
byId("sign-out").addEventListener("click", end);
addEventListener("hashchange", () => location.hash !== "#view" && show());
begin();
