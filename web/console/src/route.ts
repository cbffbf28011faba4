/** Where in the console one is, as a location hash: every place has an address that can be kept and sent. */

export type ClientOrder =
  | "client"
  | "state"
  | "since"
  | "sent"
  | "received"
  | "bytes"
  | "buffered"
  | "mailbox";

export type Route =
  | { page: "overview" }
  | { page: "clients"; query: ListQuery }
  | { page: "client"; client: string }
  | { page: "channels"; query: ListQuery }
  | { page: "channel"; channel: string }
  | { page: "mailboxes"; query: ListQuery }
  | { page: "unknown"; hash: string };

/** What is listed, and in which order: only what differs from the default is in the address. */
export interface ListQuery {
  prefix: string;
  state: string;
  after: string;
  order: string;
  /** A column; with "-" before it, largest first. */
  sort: string;
}

export const NO_QUERY: ListQuery = { prefix: "", state: "", after: "", order: "", sort: "" };

const LISTS = ["clients", "channels", "mailboxes"] as const;

/** Never raises: what is no address of ours is `unknown`. */
export function parseRoute(hash: string): Route {
  const [path = "", query = ""] = splitOnce(hash.replace(/^#/, ""), "?");
  const parts = path.split("/").filter((part) => part !== "");
  const unknown: Route = { page: "unknown", hash };
  const [first, second] = parts;
  if (first === undefined) return { page: "overview" };
  if (parts.length > 2) return unknown;
  if (second === undefined) {
    const list = LISTS.find((each) => each === first);
    return list ? { page: list, query: parseQuery(query) } : unknown;
  }
  let name: string;
  try {
    name = decodeURIComponent(second);
  } catch {
    return unknown;
  }
  if (first === "clients") return { page: "client", client: name };
  if (first === "channels") return { page: "channel", channel: name };
  return unknown;
}

/** The address of a route: `parseRoute` understands it. */
export function hashOf(route: Route): string {
  switch (route.page) {
    case "overview":
      return "#/";
    case "client":
      return `#/clients/${encodeURIComponent(route.client)}`;
    case "channel":
      return `#/channels/${encodeURIComponent(route.channel)}`;
    case "unknown":
      return route.hash;
    default: {
      const given = Object.entries(route.query).filter(([, value]) => value !== "");
      const query = new URLSearchParams(given).toString();
      return `#/${route.page}${query ? `?${query}` : ""}`;
    }
  }
}

function parseQuery(text: string): ListQuery {
  const given = new URLSearchParams(text);
  const query = { ...NO_QUERY };
  for (const name of Object.keys(query) as (keyof ListQuery)[]) query[name] = given.get(name) ?? "";
  return query;
}

function splitOnce(text: string, separator: string): [string, string] {
  const index = text.indexOf(separator);
  return index < 0 ? [text, ""] : [text.slice(0, index), text.slice(index + 1)];
}
