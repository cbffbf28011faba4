/** What waits for clients and users that are not here. */

import type { MailboxRow, Page } from "../api/shapes.js";
import { ago, bytes, count, things } from "../format.js";
import { PAGE_ROWS, Trail } from "../model/paging.js";
import { Title, Trouble } from "../parts/facts.js";
import { useLoaded } from "../parts/loaded.js";
import { Pager } from "../parts/pager.js";
import { Table } from "../parts/table.js";
import { hashOf, type ListQuery } from "../route.js";

const trail = new Trail();

/** Whose mailbox it is: a client has a page, a user (@) has none. */
export const Whose = ({ row: { client } }: { row: MailboxRow }) =>
  client.startsWith("@") ? client : <a href={hashOf({ page: "client", client })}>{client}</a>;

export function MailboxesView({ query }: { query: ListQuery }) {
  const order = query.order === "name" ? "name" : "depth";
  const after = order === "name" ? query.after : "";
  const { value, error, pending, reload } = useLoaded<Page<MailboxRow>>(
    JSON.stringify([order, after]),
    (signal, { api }) => api.mailboxes({ order, after, limit: PAGE_ROWS }, { signal }),
  );
  const now = Date.now();
  const to = (changes: Partial<ListQuery>) => hashOf({ page: "mailboxes", query: { ...query, ...changes } });
  const next = order === "name" ? (value?.next ?? null) : null;
  if (next !== null && !pending) trail.forward(after, next);
  const back = trail.back(after);
  return (
    <>
      <Title>Mailboxes</Title>
      <nav class="filters" aria-label="Order of the mailboxes">
        <a
          class="button"
          href={to({ order: "", after: "" })}
          aria-current={order === "depth" ? "true" : undefined}
        >
          Deepest first
        </a>
        <a
          class="button"
          href={to({ order: "name", after: "" })}
          aria-current={order === "name" ? "true" : undefined}
        >
          By name
        </a>
      </nav>
      {error ? <Trouble error={error} doing="Loading the mailboxes" retry={reload} /> : null}
      <div class="card">
        <Table
          caption={order === "depth" ? "Mailboxes, deepest first" : "Mailboxes by name"}
          rows={value?.items ?? []}
          name={(row) => row.client}
          empty={value ? "Nobody has messages waiting." : "Loading…"}
          busy={pending}
          columns={[
            {
              key: "of",
              title: "Mailbox of",
              cell: (row) => <Whose row={row} />,
            },
            { key: "messages", title: "Messages", numeric: true, cell: (row) => count(row.messages) },
            { key: "bytes", title: "Size", numeric: true, cell: (row) => bytes(row.bytes) },
            { key: "oldest", title: "Oldest", numeric: true, cell: (row) => ago(row.oldest, now) },
            { key: "senders", title: "Senders", numeric: true, cell: (row) => count(row.senders) },
          ]}
        />
      </div>
      <Pager
        what={value ? whatText(value.items.length, order) : ""}
        first={order === "name" && back !== null ? to({ after: "" }) : null}
        previous={order === "name" && back !== null ? to({ after: back }) : null}
        next={next === null ? null : to({ after: next })}
      />
    </>
  );
}

function whatText(rows: number, order: "depth" | "name"): string {
  const text = things(rows, "mailbox", "mailboxes");
  return order === "depth" && rows === PAGE_ROWS ? `${text}, the deepest` : text;
}
