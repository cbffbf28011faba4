/** How the server is, now and over the last ten minutes. */

import { type ComponentChildren, Fragment } from "preact";
import type { ChannelRow, MailboxRow, Page } from "../api/shapes.js";
import { ago, bytes, bytesPerSecond, count, milliseconds, percent, perSecond, short } from "../format.js";
import { sorted } from "../model/paging.js";
import type { Percentile } from "../model/percentiles.js";
import { Panel, Title, Trouble } from "../parts/facts.js";
import { HappeningList } from "../parts/happenings.js";
import { useLive } from "../parts/live.js";
import { useLoaded } from "../parts/loaded.js";
import { Plot } from "../parts/plot.js";
import { Table } from "../parts/table.js";
import { hashOf, NO_QUERY } from "../route.js";
import { Whose } from "./mailboxes.js";

/** Milliseconds between two looks at the lists of the overview. */
const LOOK = 5000;

/** Channels among which the most subscribed are looked for, and rows of both lists. */
const CHANNELS = 200;
const ROWS = 8;

/** From how many ms on the event loop is late: a heartbeat or an acknowledgement would notice. */
const LAG_WARNING = 50;
const LAG_BAD = 250;

export function Overview() {
  return (
    <>
      <Title>Overview</Title>
      <Tiles />
      <section aria-labelledby="plots">
        <h2 id="plots" class="unseen">
          Last 10 minutes
        </h2>
        <div class="plots">
          <Plot
            title="Messages"
            lines={[
              { series: "messages_received", label: "in", color: 1 },
              { series: "messages_sent", label: "out", color: 4 },
            ]}
            format={perSecond}
          />
          <Plot
            title="Delivery latency"
            hint="live messages, sampled over 10 s"
            scale="log"
            lines={[
              { series: "p50", label: "p50", color: 2 },
              { series: "p90", label: "p90", color: 7 },
              { series: "p99", label: "p99", color: 6 },
            ]}
            format={milliseconds}
          />
          <Plot
            title="Connections"
            lines={[
              { series: "websocket", label: "WebSocket", color: 1 },
              { series: "tcp", label: "TCP", color: 4 },
              { series: "http", label: "HTTP", color: 2 },
            ]}
            format={short}
          />
          <Plot
            title="Sessions"
            lines={[
              { series: "active", label: "active", color: 1 },
              { series: "detached", label: "detached", color: 4 },
            ]}
            format={short}
          />
          <Plot
            title="Traffic"
            scale="bytes"
            lines={[
              { series: "bytes_received", label: "in", color: 1 },
              { series: "bytes_sent", label: "out", color: 4 },
            ]}
            format={bytesPerSecond}
          />
          <Plot
            title="Messages in mailboxes"
            lines={[{ series: "mailbox_messages", label: "waiting", color: 3 }]}
            format={short}
          />
          <Plot
            title="Channels"
            lines={[
              { series: "channels", label: "channels", color: 1 },
              { series: "subscriptions", label: "subscriptions", color: 2 },
            ]}
            format={short}
          />
          <Plot
            title="Slow consumers"
            lines={[
              { series: "slow_held", label: "held back", color: 4 },
              { series: "slow_closed", label: "closed per s", color: 6 },
            ]}
            format={short}
          />
          <Plot
            title="Refusals and errors"
            lines={[
              { series: "refusals", label: "refusals", color: 4 },
              { series: "errors", label: "errors", color: 6 },
            ]}
            format={perSecond}
          />
          <Plot
            title="Event loop lag"
            lines={[{ series: "loop_lag", label: "lag", color: 7 }]}
            format={milliseconds}
          />
          <Plot
            title="CPU"
            hint="of one core"
            lines={[{ series: "cpu", label: "CPU", color: 1 }]}
            format={percent}
          />
          <Plot
            title="Memory"
            scale="bytes"
            lines={[{ series: "memory", label: "resident", color: 8 }]}
            format={bytes}
          />
        </div>
      </section>
      <div class="columns">
        <Panel title="Recent events">
          <HappeningList />
        </Panel>
        <div class="stack">
          <DeepMailboxes />
          <BusyChannels />
        </div>
      </div>
    </>
  );
}

interface TileProps {
  name: string;
  value: string;
  state?: "warn" | "bad" | undefined;
  /** What stands below, small. */
  more?: ComponentChildren;
  href?: string;
}

function Tile({ name, value, state, more, href }: TileProps) {
  return (
    <div class="tile" data-state={state}>
      <dt>{href ? <a href={href}>{name}</a> : name}</dt>
      <dd>
        <span class="value numbers">{value}</span>
        {more ? <span class="muted small numbers">{more}</span> : null}
      </dd>
    </div>
  );
}

function Tiles() {
  const { timeline } = useLive();
  const { sample, row, latency } = timeline;
  const lag = sample?.loop_lag_ms ?? 0;
  const held = sample?.slow_consumers.held ?? 0;
  const trouble = (row.errors ?? 0) > 0;
  return (
    <dl class="card tiles">
      <Tile
        name="Connections"
        value={count(row.connections)}
        more={`${count(row.detached)} sessions detached`}
        href={hashOf({ page: "clients", query: NO_QUERY })}
      />
      <Tile
        name="Messages in"
        value={perSecond(row.messages_received)}
        more={bytesPerSecond(row.bytes_received)}
      />
      <Tile name="Messages out" value={perSecond(row.messages_sent)} more={bytesPerSecond(row.bytes_sent)} />
      <Tile name="Live delivery, median" value={delay(latency.p50)} more={`p99 ${delay(latency.p99)}`} />
      <Tile
        name="In mailboxes"
        value={count(row.mailbox_messages)}
        more={`in ${count(row.mailboxes)}, ${bytes(row.mailbox_bytes)}`}
        href={hashOf({ page: "mailboxes", query: NO_QUERY })}
      />
      <Tile
        name="Slow consumers"
        value={count(row.slow_held)}
        state={held > 0 ? "warn" : undefined}
        more={`${count(sample?.slow_consumers.closed)} closed so far`}
      />
      <Tile
        name="Errors"
        value={perSecond(row.errors)}
        state={trouble ? "bad" : undefined}
        more={`${count(sample?.errors)} and ${count(sample?.refusals)} refusals`}
      />
      <Tile
        name="Loop lag"
        value={milliseconds(row.loop_lag)}
        state={lag >= LAG_BAD ? "bad" : lag >= LAG_WARNING ? "warn" : undefined}
        more={
          <Fragment>
            CPU {percent(row.cpu)}, {bytes(row.memory)}
          </Fragment>
        }
      />
    </dl>
  );
}

const delay = (value: Percentile | null): string =>
  (value?.beyond ? "> " : "") + milliseconds(value === null ? null : value.seconds * 1000);

function DeepMailboxes() {
  const { value, error, reload } = useLoaded<Page<MailboxRow>>(
    "deepest",
    (signal, { api }) => api.mailboxes({ order: "depth", limit: ROWS }, { signal }),
    LOOK,
  );
  const now = Date.now();
  return (
    <Panel title="Deepest mailboxes" aside={<a href={hashOf({ page: "mailboxes", query: NO_QUERY })}>All</a>}>
      {error ? <Trouble error={error} doing="Loading the mailboxes" retry={reload} /> : null}
      <Table
        caption="Deepest mailboxes"
        rows={value?.items.slice(0, ROWS) ?? []}
        name={(row) => row.client}
        empty={value ? "Nobody has messages waiting." : "Loading…"}
        columns={[
          { key: "of", title: "Mailbox of", cell: (row) => <Whose row={row} /> },
          { key: "messages", title: "Messages", numeric: true, cell: (row) => count(row.messages) },
          { key: "bytes", title: "Size", numeric: true, cell: (row) => bytes(row.bytes) },
          { key: "oldest", title: "Oldest", numeric: true, cell: (row) => ago(row.oldest, now) },
        ]}
      />
    </Panel>
  );
}

function BusyChannels() {
  const { value, error, reload } = useLoaded<Page<ChannelRow>>(
    "busiest",
    (signal, { api }) => api.channels({ limit: CHANNELS }, { signal }),
    LOOK,
  );
  const rows = sorted(value?.items ?? [], (row) => row.subscribers, true).slice(0, ROWS);
  return (
    <Panel
      title="Channels, most present"
      aside={<a href={hashOf({ page: "channels", query: NO_QUERY })}>All</a>}
    >
      {error ? <Trouble error={error} doing="Loading the channels" retry={reload} /> : null}
      <Table
        caption="Channels with the most subscribers"
        rows={rows}
        name={(row) => row.name}
        empty={value ? "There are no channels." : "Loading…"}
        columns={[
          {
            key: "name",
            title: "Channel",
            cell: ({ name }) => <a href={hashOf({ page: "channel", channel: name })}>{name}</a>,
          },
          { key: "subscribers", title: "Present", numeric: true, cell: (row) => count(row.subscribers) },
          { key: "offset", title: "Offset", numeric: true, cell: (row) => count(row.offset) },
        ]}
      />
      {value?.next ? <p class="muted small">Of the first {CHANNELS} channels by name.</p> : null}
    </Panel>
  );
}
