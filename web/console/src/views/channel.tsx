/** One channel: who is there, what was said, what it holds. */

import { useContext, useState } from "preact/hooks";
import { Problem } from "../api/api.js";
import type {
  ChannelFacts,
  Member,
  Page,
  Publication,
  PublicationPage,
  PublishOutcome,
  StateEntry,
} from "../api/shapes.js";
import { ago, bytes, clock, count, duration, words } from "../format.js";
import { PAGE_ROWS } from "../model/paging.js";
import { Data, DataField, type DataKind, dataOf } from "../parts/data.js";
import { type Fact, Facts, Panel, Title, Trouble } from "../parts/facts.js";
import { OperationsContext } from "../parts/live.js";
import { useLoaded } from "../parts/loaded.js";
import { Table } from "../parts/table.js";
import { hashOf } from "../route.js";

/** Messages of a page of the history. */
const HISTORY_ROWS = 25;

export function ChannelView({ name }: { name: string }) {
  const { value, error, reload } = useLoaded<ChannelFacts>("channel", (signal, { api }) =>
    api.channel(name, { signal }),
  );
  const gone = error instanceof Problem && error.status === 404;
  return (
    <>
      <div class="title-row">
        <Title kind="Channel">{name}</Title>
        {value && !gone ? <span class="badge">{value.durable ? "on disk" : "in memory"}</span> : null}
      </div>
      {gone ? (
        <p class="notice" data-level="note">
          <strong>There is no such channel now.</strong> It begins with its first subscriber or message.
        </p>
      ) : error ? (
        <Trouble error={error} doing="Loading the channel" retry={reload} />
      ) : null}
      {value && !gone ? (
        <section class="card panel" aria-label="The channel">
          <Facts facts={known(value)} />
        </section>
      ) : null}
      <div class="columns">
        <div class="stack">
          {gone ? null : <History name={name} newest={value?.offset ?? null} />}
          <Panel title="Publish">
            <PublishForm name={name} onDone={reload} />
          </Panel>
        </div>
        {gone ? null : (
          <div class="stack">
            <Presence name={name} />
            <SharedState name={name} />
          </div>
        )}
      </div>
    </>
  );
}

function known(facts: ChannelFacts): Fact[] {
  return [
    ["Present", count(facts.subscribers)],
    ["Offset", count(facts.offset), "Number of its newest message"],
    ["Epoch", <code key="epoch">{facts.epoch ?? "–"}</code>, "Which life of its log"],
    ["Entries of state", count(facts.state_entries)],
    ...Object.entries(facts.retention).map(limit),
  ];
}

/** A limit of what the channel keeps; the end of its name says its unit. */
function limit([name, value]: [string, number]): Fact {
  const text = name.endsWith("_s") ? duration(value) : name.endsWith("_bytes") ? bytes(value) : count(value);
  return [`Keeps: ${words(name.replace(/_s$/, ""))}`, text];
}

function History({ name, newest }: { name: string; newest: number | null }) {
  const [trail, setTrail] = useState<number[]>([]); // where each page begins; none: at the newest
  const from = trail.at(-1);
  // The newest page follows the channel's offset, which is loaded anyway; an older one does not change.
  const key = JSON.stringify(from === undefined ? ["newest", newest] : [from]);
  const { value, error, pending, reload } = useLoaded<PublicationPage>(
    key,
    (signal, { api }) =>
      api.history(
        name,
        { limit: HISTORY_ROWS, reverse: true, ...(from === undefined ? {} : { from }) },
        { signal },
      ),
    0,
  );
  const now = Date.now();
  const next = value?.next ?? null;
  return (
    <Panel title="History, newest first">
      {error ? <Trouble error={error} doing="Loading the history" retry={reload} /> : null}
      <Table
        caption="History, newest first"
        rows={value?.items ?? []}
        name={(row) => String(row.offset)}
        empty={value ? "Nothing is kept." : "Loading…"}
        busy={pending}
        columns={[
          { key: "offset", title: "Offset", cell: (row) => count(row.offset) },
          { key: "time", title: "Time", cell: (row) => <span class="numbers">{clock(row.time, now)}</span> },
          { key: "from", title: "From", cell: (row) => row.from ?? "–" },
          { key: "data", title: "Data", cell: (row) => <Content row={row} /> },
        ]}
      />
      <div class="buttons">
        <button type="button" disabled={!trail.length} onClick={() => setTrail(trail.slice(0, -1))}>
          Newer
        </button>
        <button
          type="button"
          disabled={next === null || pending}
          onClick={() => next !== null && setTrail([...trail, next])}
        >
          Older
        </button>
      </div>
    </Panel>
  );
}

/** What a message of the channel says: data, or a change of the shared state. */
function Content({ row }: { row: Publication }) {
  const data = row.deleted ? (
    <span class="muted">deleted</span>
  ) : (
    <Data value={row.data} binary={row.data_base64} />
  );
  return row.name === undefined ? (
    data
  ) : (
    <>
      <code class="key">{row.name}</code> {data}
    </>
  );
}

function Presence({ name }: { name: string }) {
  const [trail, setTrail] = useState<string[]>([]);
  const after = trail.at(-1) ?? "";
  const { value, error, pending, reload } = useLoaded<Page<Member>>(after, (signal, { api }) =>
    api.presence(name, { after, limit: PAGE_ROWS }, { signal }),
  );
  const now = Date.now();
  return (
    <Panel title="Presence">
      {error ? <Trouble error={error} doing="Loading the presence" retry={reload} /> : null}
      <Table
        caption="Who is present"
        rows={value?.items ?? []}
        name={(row) => row.client}
        empty={value ? "Nobody is here." : "Loading…"}
        busy={pending}
        columns={[
          {
            key: "client",
            title: "Client",
            cell: ({ client }) => <a href={hashOf({ page: "client", client })}>{client}</a>,
          },
          { key: "user", title: "User", cell: (row) => row.user ?? "–" },
          { key: "since", title: "Since", numeric: true, cell: (row) => ago(row.since, now) },
        ]}
      />
      <Steps trail={trail} next={value?.next ?? null} onTrail={setTrail} />
    </Panel>
  );
}

function SharedState({ name }: { name: string }) {
  const [trail, setTrail] = useState<string[]>([]);
  const after = trail.at(-1) ?? "";
  const { value, error, pending, reload } = useLoaded<Page<StateEntry>>(after, (signal, { api }) =>
    api.state(name, { after, limit: PAGE_ROWS }, { signal }),
  );
  return (
    <Panel title="Shared state">
      {error ? <Trouble error={error} doing="Loading the state" retry={reload} /> : null}
      <Table
        caption="Shared state"
        rows={value?.items ?? []}
        name={(row) => row.name}
        empty={value ? "It has no state." : "Loading…"}
        busy={pending}
        columns={[
          { key: "name", title: "Key", cell: (row) => <code>{row.name}</code> },
          {
            key: "value",
            title: "Value",
            cell: (row) => <Data value={row.value} binary={row.value_base64} />,
          },
          { key: "version", title: "Version", numeric: true, cell: (row) => count(row.version) },
        ]}
      />
      <Steps trail={trail} next={value?.next ?? null} onTrail={setTrail} />
    </Panel>
  );
}

interface StepsProps {
  trail: string[];
  next: string | null;
  onTrail: (trail: string[]) => void;
}

/** Pages of a list within a page; nothing where there is one only. */
function Steps({ trail, next, onTrail }: StepsProps) {
  if (!trail.length && next === null) return null;
  return (
    <div class="buttons">
      <button type="button" disabled={!trail.length} onClick={() => onTrail(trail.slice(0, -1))}>
        Previous
      </button>
      <button
        type="button"
        disabled={next === null}
        onClick={() => next !== null && onTrail([...trail, next])}
      >
        Next
      </button>
    </div>
  );
}

function PublishForm({ name, onDone }: { name: string; onDone: () => void }) {
  const { api } = useContext(OperationsContext);
  const [kind, setKind] = useState<DataKind>("text");
  const [text, setText] = useState("");
  const [busy, setBusy] = useState(false);
  const [outcome, setOutcome] = useState<PublishOutcome | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const publish = async () => {
    setBusy(true);
    setError(null);
    setOutcome(null);
    try {
      setOutcome(await api.publish(name, { data: dataOf(kind, text) }));
      onDone();
    } catch (error) {
      setError(error as Error);
    }
    setBusy(false);
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void publish();
      }}
    >
      <DataField kind={kind} text={text} onKind={setKind} onText={setText} />
      <div class="buttons">
        <span role="status">{outcome ? `Published as number ${count(outcome.offset)}.` : ""}</span>
        <span class="spring" />
        <button type="submit" class="primary" disabled={busy}>
          {busy ? "Publishing…" : "Publish"}
        </button>
      </div>
      {error ? <Trouble error={error} doing="Publishing" /> : null}
    </form>
  );
}
