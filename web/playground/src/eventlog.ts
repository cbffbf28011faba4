/** What the SDK told a pane, as an engineer wants to read it: bounded, newest last. */

import type { Client, Event } from "duolink";
import { displayName } from "./address.js";

/** Entries that are kept; the oldest go. */
export const MOST_ENTRIES = 200;

export interface Entry {
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly what: string;
  readonly detail: string;
}

export class EventLog {
  readonly entries: Entry[] = [];

  constructor(
    private readonly _added: (entry: Entry) => void,
    private readonly _clock: () => number = Date.now,
  ) {}

  add(what: string, detail = ""): void {
    const entry = { at: this._clock(), what, detail };
    this.entries.push(entry);
    if (this.entries.length > MOST_ENTRIES) this.entries.shift();
    this._added(entry);
  }

  /** Take an event of a client. */
  take(event: Event, client: Pick<Client, "welcome">): void {
    const [what, detail] = describe(event, client);
    this.add(what, detail);
  }
}

function describe(event: Event, { welcome }: Pick<Client, "welcome">): [string, string] {
  switch (event.kind) {
    case "state": {
      if (event.state === "online" && welcome) {
        const { generation, attachment, run, resumed, durable } = welcome;
        const session = resumed ? "session resumed" : "new session";
        const kept = durable ? "" : "; the server stores nothing";
        return [
          "online",
          `${session}, generation ${generation}, attachment ${attachment}, run ${run}${kept}`,
        ];
      }
      const code = event.code ? `code ${event.code}` : "";
      return [event.state, [code, event.error, event.reason].filter(Boolean).join(", ")];
    }
    case "peer":
      return ["peer", `${displayName(event.peer)} ${event.state}${event.restarted ? ", a new process" : ""}`];
    case "lost":
      return ["lost", `${event.first} … ${event.last} from ${displayName(event.peer)}: ${event.reason}`];
    case "gap":
      return ["gap", `${event.reason}: ${event.first} … ${event.last}; goes on after ${event.offset}`];
    case "presence": {
      const moved = event.joined ? `${displayName(event.joined)} joined` : `${displayName(event.left)} left`;
      const here = `${event.present.size} here`;
      return ["presence", event.joined || event.left ? `${moved}, ${here}` : here];
    }
    case "subscription_ended":
      return ["unsubscribed", `${event.code} ${event.reason}`];
    case "handler_failed":
      return ["handler failed", `${event.what}: ${String(event.error)}`];
    case "trouble":
      return ["trouble", `${event.code}: ${event.reason}`];
  }
}
