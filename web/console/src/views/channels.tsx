/** The channels there are: those with subscribers, and those that were published to. */

import type { ChannelRow, Page } from "../api/shapes.js";
import { count, things } from "../format.js";
import { orderText, PAGE_ROWS, parseOrder, Trail } from "../model/paging.js";
import { Title, Trouble } from "../parts/facts.js";
import { useLoaded } from "../parts/loaded.js";
import { Pager } from "../parts/pager.js";
import { Table } from "../parts/table.js";
import { hashOf, type ListQuery } from "../route.js";
import { Search } from "./clients.js";

const trail = new Trail();

/** The state of a list of those that have subscribers. */
const PRESENT = "present";

export function ChannelsView({ query }: { query: ListQuery }) {
  const { prefix, state, after } = query;
  const present = state === PRESENT;
  const { value, error, pending, reload } = useLoaded<Page<ChannelRow>>(
    JSON.stringify([prefix, present, after]),
    (signal, { api }) => api.channels({ prefix, present, after, limit: PAGE_ROWS }, { signal }),
  );
  const to = (changes: Partial<ListQuery>) => hashOf({ page: "channels", query: { ...query, ...changes } });
  const next = value?.next ?? null;
  if (next !== null && !pending) trail.forward(after, next);
  const back = trail.back(after);
  const partial = next !== null || after !== "";
  return (
    <>
      <Title>Channels</Title>
      <search class="filters">
        <Search
          value={prefix}
          label="Name begins with"
          onValue={(prefix) => location.replace(to({ prefix, after: "" }))}
        />
        <label>
          Present
          <select
            class="field"
            value={present ? PRESENT : ""}
            onChange={(event) => location.replace(to({ state: event.currentTarget.value, after: "" }))}
          >
            <option value="">any</option>
            <option value={PRESENT}>somebody</option>
          </select>
        </label>
      </search>
      {error ? <Trouble error={error} doing="Loading the channels" retry={reload} /> : null}
      <div class="card">
        <Table
          caption="Channels"
          rows={value?.items ?? []}
          name={(row) => row.name}
          empty={value ? (prefix || present ? "No channel matches." : "There are no channels.") : "Loading…"}
          busy={pending}
          order={parseOrder(query.sort)}
          onOrder={(order) => location.replace(to({ sort: orderText(order) }))}
          columns={[
            {
              key: "name",
              title: "Channel",
              value: (row) => row.name,
              cell: ({ name }) => <a href={hashOf({ page: "channel", channel: name })}>{name}</a>,
            },
            {
              key: "subscribers",
              title: "Present",
              hint: "Clients that are subscribed now",
              numeric: true,
              value: (row) => row.subscribers,
              cell: (row) => count(row.subscribers),
            },
            {
              key: "offset",
              title: "Offset",
              hint: "Number of its newest message",
              numeric: true,
              value: (row) => row.offset,
              cell: (row) => count(row.offset),
            },
            {
              key: "epoch",
              title: "Epoch",
              hint: "Which life of its log",
              cell: (row) => <code>{row.epoch ?? "–"}</code>,
            },
            {
              key: "durable",
              title: "Kept",
              value: (row) => (row.durable ? 1 : 0),
              cell: (row) => (row.durable ? "on disk" : "in memory"),
            },
          ]}
        />
      </div>
      <Pager
        what={value ? `${things(value.items.length, "channel")}${partial ? " on this page" : ""}` : ""}
        first={back === null ? null : to({ after: "" })}
        previous={back === null ? null : to({ after: back })}
        next={next === null ? null : to({ after: next })}
      />
    </>
  );
}
