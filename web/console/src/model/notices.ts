/** What an operator must know at once, worst first: it stands above every page. */

import type { ServerFacts } from "../api/shapes.js";
import type { Connection } from "../feed.js";
import { clock } from "../format.js";

export interface Notice {
  level: "bad" | "warning" | "note";
  name: string;
  title: string;
  text: string;
}

/** `now`: to tell the day of a time. The texts do not change while nothing does, so that they can be read aloud. */
export function notices(connection: Connection, server: ServerFacts | null, now: number): Notice[] {
  const found: Notice[] = [];
  if (connection.state === "lost") {
    const since = connection.since === null ? "" : ` What is shown is of ${clock(connection.since, now)}.`;
    const text = `${sentence(connection.reason)}${since} The console goes on trying.`;
    found.push({ level: "bad", name: "lost", title: "Disconnected from the server", text });
  }
  if (!server) return found;
  const others = server.reasons.filter((reason) => !(server.draining && /drain/i.test(reason)));
  if (server.draining) {
    const text = "It takes no new clients, and stops when those that are here have left.";
    found.push({ level: "warning", name: "draining", title: "The server is draining", text });
  }
  if (!server.ready && (others.length || !server.draining)) {
    const text = others.length ? sentence(others.join("; ")) : "It does not say why.";
    found.push({ level: "bad", name: "unready", title: "The server is not ready", text });
  }
  if (!server.durable) {
    const text =
      "Without a database, messages for absent clients stay with their senders, and histories end with the server.";
    found.push({ level: "note", name: "memory", title: "Nothing is kept", text });
  }
  return found;
}

function sentence(text: string): string {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
