// SPDX-License-Identifier: Apache-2.0
/** Who looks: a bearer token, kept by the browser as long as this tab lives. */

const KEY = "fisk-token";

export const token = () => sessionStorage.getItem(KEY);

export function remember(secret) {
  sessionStorage.setItem(KEY, secret);
}

export function forget() {
  sessionStorage.removeItem(KEY);
}
