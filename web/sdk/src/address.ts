/** Where a server is: the URL a user gives, checked. */

import { impossible } from "./protocol/codec.js";

/** Query parameters that somebody writes who takes this for another protocol; proxies log them. */
const SECRET = /[?&](token|access_token|jwt)(=|&|$)/i;

/** Return the URL to open: `ws://` or `wss://`; without a path it is `/ws`. Throws `RangeError` for what is
 * no such URL, and for one with credentials: a token never travels in a URL. */
export function parseAddress(url: string): string {
  let parts: URL | null = null;
  try {
    parts = new URL(url);
  } catch {}
  if (!parts || !/^wss?:$/.test(parts.protocol)) throw impossible("address", url);
  if (parts.username || parts.password || parts.hash || SECRET.test(parts.search)) {
    throw new RangeError("credentials");
  }
  if (parts.pathname === "/") parts.pathname = "/ws";
  return parts.href;
}
