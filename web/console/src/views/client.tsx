/** Everything that is known of one client, and what an operator can do about it. */

import { useContext, useEffect, useState } from "preact/hooks";
import { Problem } from "../api/api.js";
import type { ClientFacts, Mailbox, Rights, SendOutcome } from "../api/shapes.js";
import { ago, bytes, clock, count, milliseconds, UNKNOWN } from "../format.js";
import { DataField, type DataKind, dataOf } from "../parts/data.js";
import { Dialog } from "../parts/dialog.js";
import { type Fact, Facts, Panel, Title, Trouble } from "../parts/facts.js";
import { HappeningList } from "../parts/happenings.js";
import { OperationsContext, useLive } from "../parts/live.js";
import { LIST_REFRESH, useLoaded } from "../parts/loaded.js";
import { Table } from "../parts/table.js";
import { hashOf } from "../route.js";
import { State } from "./clients.js";

/** Rows of a client's lists that are drawn at once. */
const MOST_ROWS = 200;

export function ClientView({ client }: { client: string }) {
  const [here, setHere] = useState(true);
  const { value, error, reload } = useLoaded<ClientFacts>(
    "client",
    (signal, { api }) => api.client(client, { signal }),
    here ? LIST_REFRESH : 0, // who is gone is not asked for, until something happens to him
  );
  const { happenings } = useLive();
  const newest = happenings.matching({ client, exactly: true }, 1)[0]?.id;
  const [asking, setAsking] = useState(false);
  const [done, setDone] = useState("");
  const gone = error instanceof Problem && error.status === 404;
  useEffect(() => setHere(!gone), [gone]);
  useEffect(() => {
    if (newest !== undefined) reload();
  }, [newest]);
  const present = value !== null && !gone && value.state !== "away";
  return (
    <>
      <div class="title-row">
        <Title kind="Client">{client}</Title>
        {value && !gone && value.state ? <State row={value} /> : null}
        <span class="spring" />
        {present ? (
          <button type="button" class="danger" onClick={() => setAsking(true)}>
            Disconnect…
          </button>
        ) : null}
      </div>
      <p role="status" class="done">
        {done}
      </p>
      {gone ? (
        <p class="notice" data-level="note">
          <strong>It is not here.</strong> There is no session and no mailbox of this name now.
          {value ? " What follows is the last that was known." : ""}
        </p>
      ) : error ? (
        <Trouble error={error} doing="Loading the client" retry={reload} />
      ) : null}
      {value ? (
        value.state === "away" ? (
          <Away facts={value} />
        ) : (
          <Known facts={value} />
        )
      ) : gone || error ? null : (
        <p class="muted">Loading…</p>
      )}
      <div class="columns">
        <Panel title="Recent events">
          <HappeningList client={client} />
        </Panel>
        <Panel title="Send a message">
          <SendForm client={client} />
        </Panel>
      </div>
      {asking ? (
        <DisconnectDialog
          client={client}
          onClose={() => setAsking(false)}
          onDone={(text) => {
            setAsking(false);
            setDone(text);
            reload();
          }}
        />
      ) : null}
    </>
  );
}

/** Of a client that has a mailbox, and no session. */
function Away({ facts: { mailbox } }: { facts: ClientFacts }) {
  return (
    <section class="card panel" aria-label="Its mailbox">
      <p>It is not here now. What it is sent waits in its mailbox.</p>
      {mailbox ? <Facts facts={waiting(mailbox, Date.now())} /> : null}
    </section>
  );
}

const waiting = ({ messages, bytes: size, oldest }: Mailbox, now: number): Fact[] => [
  ["In its mailbox", `${count(messages)}, ${bytes(size)}`],
  ["Oldest there", at(oldest, now)],
];

const at = (time: number | null, now: number): string =>
  time === null ? UNKNOWN : `${clock(time, now)}, ${ago(time, now)}`;

function Known({ facts }: { facts: ClientFacts }) {
  const now = Date.now();
  const who: Fact[] = [
    ["User", facts.user ?? "–"],
    ["Transport", facts.transport ?? "–"],
    ["Address", facts.address ?? "–"],
    ["Session began", at(facts.since, now)],
    ["Connected", at(facts.attached, now), "When the present connection was accepted"],
    ["Last heard", at(facts.last_seen, now)],
    ["Round trip", milliseconds(facts.rtt_ms)],
  ];
  const traffic: Fact[] = [
    ["Messages from it", count(facts.received)],
    ["Messages to it", count(facts.sent)],
    ["Bytes from it", bytes(facts.bytes_received)],
    ["Bytes to it", bytes(facts.bytes_sent)],
    ["Buffered", bytes(facts.buffered), "Waiting in memory for it to read"],
    ["Subscriptions", count(facts.subscriptions)],
  ];
  if (facts.mailbox) traffic.push(...waiting(facts.mailbox, now));
  const identity: Fact[] = [
    ["Session", <code key="session">{facts.session ?? "–"}</code>],
    ["Generation", plain(facts.generation), "Counts its sessions: older ones are fenced"],
    ["Attachment", plain(facts.attachment), "Counts the connections of this session"],
    ["Run", plain(facts.run), "The present life of its process"],
  ];
  return (
    <>
      <div class="thirds">
        <Panel title="Who it is">
          <Facts facts={who} />
        </Panel>
        <Panel title="Traffic">
          <Facts facts={traffic} />
        </Panel>
        <Panel title="Session and rights">
          <Facts facts={[...identity, ...(facts.claims ? rights(facts.claims, now) : [])]} />
        </Panel>
      </div>
      <div class="columns">
        <Panel title="Links">
          <Table
            caption="Links from this client"
            rows={facts.links.slice(0, MOST_ROWS)}
            name={({ peer, lane }) => `${lane} ${peer}`}
            empty="It has no open link."
            columns={[
              { key: "peer", title: "Peer", cell: ({ peer }) => <Peer name={peer} /> },
              { key: "lane", title: "Lane", cell: (row) => row.lane },
              { key: "in_flight", title: "In flight", numeric: true, cell: (row) => count(row.in_flight) },
            ]}
          />
          <Rest total={facts.links.length} />
        </Panel>
        <Panel title="Subscriptions">
          <Table
            caption="Channels it is subscribed to"
            rows={facts.channels.slice(0, MOST_ROWS)}
            name={(row) => row.name}
            empty="It has no subscription."
            columns={[
              {
                key: "name",
                title: "Channel",
                cell: ({ name }) => <a href={hashOf({ page: "channel", channel: name })}>{name}</a>,
              },
              { key: "offset", title: "Offset", numeric: true, cell: (row) => count(row.offset) },
            ]}
          />
          <Rest total={facts.channels.length} />
        </Panel>
      </div>
    </>
  );
}

function rights({ client, subscribe, publish, links, expires, operator }: Rights, now: number): Fact[] {
  const names = (patterns: string[]) => patterns.join(", ") || "nothing";
  return [
    ["May be", client ?? "clients of its user", "The client ids its token allows"],
    ["May subscribe to", names(subscribe)],
    ["May publish to", names(publish)],
    ["May link to", links.join(", ") || "nobody"],
    ["Token ends", expires === null ? "never" : clock(expires, now)],
    ...(operator ? [["Operator", "yes"] as Fact] : []),
  ];
}

const plain = (value: number | null) => (value === null ? "–" : String(value));

/** A link's peer: a client has a page, a user (@) and the server ($) have none. */
const Peer = ({ name }: { name: string }) =>
  /^[@$]/.test(name) ? name : <a href={hashOf({ page: "client", client: name })}>{name}</a>;

const Rest = ({ total }: { total: number }) =>
  total > MOST_ROWS ? <p class="muted small">{`${MOST_ROWS} of ${count(total)} are shown.`}</p> : null;

interface DisconnectProps {
  client: string;
  onClose: () => void;
  onDone: (text: string) => void;
}

function DisconnectDialog({ client, onClose, onDone }: DisconnectProps) {
  const { api } = useContext(OperationsContext);
  const [reason, setReason] = useState("");
  const [reconnect, setReconnect] = useState(false);
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error | null>(null);
  const disconnect = async () => {
    setBusy(true);
    setError(null);
    try {
      await api.disconnect(client, { reason: reason.trim() || undefined, reconnect });
      onDone(`${client} was disconnected.${reconnect ? " It may come back." : ""}`);
    } catch (error) {
      setError(error as Error);
      setBusy(false);
    }
  };
  return (
    <Dialog title={`Disconnect ${client}?`} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void disconnect();
        }}
      >
        <label>
          Reason, which the client is told
          <input
            class="field"
            maxLength={REASON}
            value={reason}
            onInput={(event) => setReason(event.currentTarget.value)}
          />
        </label>
        <label class="check">
          <input
            type="checkbox"
            checked={reconnect}
            onChange={(event) => setReconnect(event.currentTarget.checked)}
          />
          Let it reconnect
        </label>
        <p class="muted small">
          {reconnect
            ? "Its session stays, and it resumes where it was."
            : "Its session ends. A program that heeds the code stays away until it is started again; its token remains valid."}
        </p>
        {error ? <Trouble error={error} doing="Disconnecting" /> : null}
        <div class="buttons">
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="danger" disabled={busy}>
            Disconnect
          </button>
        </div>
      </form>
    </Dialog>
  );
}

/** Characters of a reason: what a close frame has room for. */
const REASON = 120;

type Wait = "sent" | "stored" | "delivered";

/** Milliseconds to wait for what was asked for. */
const SEND_PATIENCE = 5000;

function SendForm({ client }: { client: string }) {
  const { api } = useContext(OperationsContext);
  const [kind, setKind] = useState<DataKind>("text");
  const [text, setText] = useState("");
  const [wait, setWait] = useState<Wait>("delivered");
  const [busy, setBusy] = useState(false);
  const [outcome, setOutcome] = useState<SendOutcome | null>(null);
  const [error, setError] = useState<Error | null>(null);
  const send = async () => {
    setBusy(true);
    setError(null);
    setOutcome(null);
    try {
      setOutcome(await api.send({ to: client, data: dataOf(kind, text), wait, timeout_ms: SEND_PATIENCE }));
    } catch (error) {
      setError(error as Error);
    }
    setBusy(false);
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void send();
      }}
    >
      <DataField kind={kind} text={text} onKind={setKind} onText={setText} />
      <div class="buttons">
        <label class="inline">
          Wait until it is
          <select class="field" value={wait} onChange={(event) => setWait(event.currentTarget.value as Wait)}>
            <option value="sent">sent</option>
            <option value="stored">stored</option>
            <option value="delivered">delivered</option>
          </select>
        </label>
        <span class="spring" />
        <button type="submit" class="primary" disabled={busy}>
          {busy ? "Sending…" : "Send"}
        </button>
      </div>
      <p role="status" class="outcome">
        {outcome ? <Outcome outcome={outcome} wait={wait} /> : null}
      </p>
      {error ? <Trouble error={error} doing="Sending" /> : null}
      <p class="muted small">
        The message comes from <code>$server</code>.
      </p>
    </form>
  );
}

function Outcome({ outcome: { state, seq, reason, certain }, wait }: { outcome: SendOutcome; wait: Wait }) {
  const number = `Message ${count(seq)}`;
  if (state === "lost")
    return <>{`${number} is ${certain === false ? "probably " : ""}lost${reason ? `: ${reason}` : ""}.`}</>;
  const late =
    wait !== "sent" && state === "sent"
      ? ` It was not ${wait} within ${SEND_PATIENCE / 1000} s; it is on its way.`
      : "";
  return <>{`${number} is ${state}.${late}`}</>;
}
