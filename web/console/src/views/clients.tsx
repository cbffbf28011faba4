/** The clients that are here, or were until a moment ago. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { ClientRow, Page } from "../api/shapes.js";
import { ago, bytes, count, things } from "../format.js";
import { orderText, PAGE_ROWS, parseOrder, Trail } from "../model/paging.js";
import { Title, Trouble } from "../parts/facts.js";
import { useLoaded } from "../parts/loaded.js";
import { Pager } from "../parts/pager.js";
import { type Column, Table } from "../parts/table.js";
import { hashOf, type ListQuery } from "../route.js";

const trail = new Trail();

/** Milliseconds after the last key until the list follows what was typed. */
const TYPING = 250;

export function ClientsView({ query }: { query: ListQuery }) {
  const { prefix, state, after } = query;
  const key = JSON.stringify([prefix, state, after]);
  const { value, error, pending, reload } = useLoaded<Page<ClientRow>>(key, (signal, { api }) =>
    api.clients({ prefix, state, after, limit: PAGE_ROWS }, { signal }),
  );
  const now = Date.now();
  const to = (changes: Partial<ListQuery>) => hashOf({ page: "clients", query: { ...query, ...changes } });
  const next = value?.next ?? null;
  if (next !== null && !pending) trail.forward(after, next);
  const back = trail.back(after);
  return (
    <>
      <Title>Clients</Title>
      <search class="filters">
        <Search
          value={prefix}
          label="Name begins with"
          onValue={(prefix) => location.replace(to({ prefix, after: "" }))}
        />
        <label>
          State
          <select
            class="field"
            value={state}
            onChange={(event) => location.replace(to({ state: event.currentTarget.value, after: "" }))}
          >
            <option value="">any</option>
            <option value="active">active</option>
            <option value="detached">detached</option>
          </select>
        </label>
      </search>
      {error ? <Trouble error={error} doing="Loading the clients" retry={reload} /> : null}
      <div class="card">
        <Table
          caption="Clients"
          columns={columns(now)}
          rows={value?.items ?? []}
          name={(row) => row.client}
          empty={emptyText(value !== null, prefix, state)}
          busy={pending}
          order={parseOrder(query.sort)}
          onOrder={(order) => location.replace(to({ sort: orderText(order) }))}
        />
      </div>
      <Pager
        what={whatText(value, query.sort !== "", after)}
        first={back === null ? null : to({ after: "" })}
        previous={back === null ? null : to({ after: back })}
        next={next === null ? null : to({ after: next })}
      />
    </>
  );
}

const columns = (now: number): Column<ClientRow>[] => [
  {
    key: "client",
    title: "Client",
    value: (row) => row.client,
    cell: ({ client }) => <a href={hashOf({ page: "client", client })}>{client}</a>,
  },
  { key: "user", title: "User", value: (row) => row.user, cell: (row) => row.user ?? <Nothing /> },
  { key: "state", title: "State", value: (row) => row.state, cell: (row) => <State row={row} /> },
  {
    key: "transport",
    title: "Transport",
    value: (row) => row.transport,
    cell: (row) => row.transport ?? <Nothing />,
  },
  {
    key: "address",
    title: "Address",
    value: (row) => row.address,
    cell: (row) => <span class="mono">{row.address ?? "–"}</span>,
  },
  {
    key: "since",
    title: "Since",
    hint: "When its session began",
    numeric: true,
    value: (row) => row.since,
    cell: (row) => ago(row.since, now),
  },
  {
    key: "received",
    title: "From it",
    hint: "Messages it has sent here",
    numeric: true,
    value: (row) => row.received,
    cell: (row) => count(row.received),
  },
  {
    key: "sent",
    title: "To it",
    hint: "Messages sent to it",
    numeric: true,
    value: (row) => row.sent,
    cell: (row) => count(row.sent),
  },
  {
    key: "bytes",
    title: "Bytes",
    hint: "From it and to it",
    numeric: true,
    value: (row) => row.bytes_received + row.bytes_sent,
    cell: (row) => `${bytes(row.bytes_received)} / ${bytes(row.bytes_sent)}`,
  },
  {
    key: "buffered",
    title: "Buffered",
    hint: "Waiting in memory for it to read",
    numeric: true,
    value: (row) => row.buffered,
    cell: (row) => bytes(row.buffered),
  },
  {
    key: "mailbox",
    title: "Mailbox",
    hint: "Messages waiting on disk",
    numeric: true,
    value: (row) => row.mailbox,
    cell: (row) => count(row.mailbox),
  },
];

const Nothing = () => <span class="muted">–</span>;

/** Whether a client is here, and whether it keeps up. */
export function State({ row }: { row: Pick<ClientRow, "state" | "slow"> }) {
  return (
    <>
      <span class="badge" data-state={row.state === "active" ? "good" : "warn"}>
        {row.state}
      </span>
      {row.slow ? (
        <span class="badge" data-state="bad">
          slow
        </span>
      ) : null}
    </>
  );
}

function emptyText(loaded: boolean, prefix: string, state: string): string {
  if (!loaded) return "Loading…";
  return prefix || state ? "No client matches." : "No client is here.";
}

function whatText(page: Page<ClientRow> | null, sorted: boolean, after: string): string {
  if (!page) return "";
  const partial = page.next !== null || after !== "";
  const rows = things(page.items.length, "client");
  return partial ? `${rows} on this page${sorted ? ", which is sorted by itself" : ""}` : rows;
}

/** A field that is followed once its writer pauses. */
export function Search({
  value,
  label,
  onValue,
}: {
  value: string;
  label: string;
  onValue: (value: string) => void;
}) {
  const [text, setText] = useState(value);
  const timer = useRef<ReturnType<typeof setTimeout>>();
  const told = useRef(value);
  useEffect(() => {
    if (value !== told.current) setText(value); // the address was changed by something else
    told.current = value;
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const typed = (text: string) => {
    setText(text);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      told.current = text;
      onValue(text);
    }, TYPING);
  };
  return (
    <label>
      {label}
      <input class="field" type="search" value={text} onInput={(event) => typed(event.currentTarget.value)} />
    </label>
  );
}
