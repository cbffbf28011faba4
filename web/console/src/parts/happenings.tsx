/** Recent events: what happened to clients and to the server. */

import { useState } from "preact/hooks";
import type { Happening } from "../api/shapes.js";
import { clock, words } from "../format.js";
import { hashOf } from "../route.js";
import { useLive } from "./live.js";

/** Rows that are drawn; the server keeps a thousand. */
const MOST_ROWS = 100;

const GOOD = new Set(["connected", "resumed", "engine_recovered"]);
const BAD = new Set(["engine_failed", "mailbox_full", "slow_consumer"]);
const WARN = new Set(["refused", "duplicate", "disconnected", "draining"]);

/** `client`: only what happened to that one. */
export function HappeningList({ client }: { client?: string }) {
  const { happenings, standing } = useLive();
  const [kind, setKind] = useState("");
  const [part, setPart] = useState("");
  const found =
    client === undefined
      ? happenings.matching({ kind, client: part.trim() }, MOST_ROWS)
      : happenings.matching({ client, exactly: true }, MOST_ROWS);
  const now = Date.now();
  const nothing = client === undefined ? "Nothing of the kind has" : "Nothing has";
  const empty = standing.state === "live" ? `${nothing} happened lately.` : "Nothing is known yet.";
  return (
    <>
      {client === undefined ? (
        <form class="filters" onSubmit={(event) => event.preventDefault()} aria-label="Filter the events">
          <label>
            Kind
            <select class="field" value={kind} onChange={(event) => setKind(event.currentTarget.value)}>
              <option value="">all</option>
              {[...new Set([...happenings.kinds(), ...(kind ? [kind] : [])])].map((each) => (
                <option key={each} value={each}>
                  {words(each)}
                </option>
              ))}
            </select>
          </label>
          <label>
            Client
            <input
              class="field"
              type="search"
              placeholder="part of a name"
              value={part}
              onInput={(event) => setPart(event.currentTarget.value)}
            />
          </label>
        </form>
      ) : null}
      {found.length ? (
        // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached without a mouse
        <section class="events" tabIndex={0} aria-label="Events, newest first">
          <ol>
            {found.map((each) => (
              <Line key={each.id} happening={each} now={now} linked={client === undefined} />
            ))}
          </ol>
        </section>
      ) : (
        <p class="empty muted">{empty}</p>
      )}
      {found.length === MOST_ROWS ? <p class="muted small">The newest {MOST_ROWS} are shown.</p> : null}
    </>
  );
}

function Line({ happening, now, linked }: { happening: Happening; now: number; linked: boolean }) {
  const { kind, time, client, user, address, detail } = happening;
  const state = GOOD.has(kind) ? "good" : BAD.has(kind) ? "bad" : WARN.has(kind) ? "warn" : undefined;
  return (
    <li>
      <time class="numbers muted" dateTime={new Date(time).toISOString()}>
        {clock(time, now)}
      </time>
      <span class="badge" data-state={state}>
        {words(kind)}
      </span>
      <span class="event-text">
        {linked && client !== null ? <a href={hashOf({ page: "client", client })}>{client}</a> : null}
        {linked && user !== null && user !== client ? <span class="muted"> of {user}</span> : null}
        {detail ? <span> {detail}</span> : null}
        {address ? <span class="muted small"> {address}</span> : null}
      </span>
    </li>
  );
}
