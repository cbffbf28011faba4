/** Plays the scripted histories of `spec/vectors` on this core, as `spec/replay.py` does on Python's;
 * `spec/vectors/README.md` tells the format. */

import { readFileSync } from "node:fs";
import { Backoff } from "../src/protocol/backoff.js";
import {
  CLIENT,
  type Decoder,
  encode,
  encodeBinary,
  encodeJson,
  Malformed,
  PEER,
  SERVER,
} from "../src/protocol/codec.js";
import type { Command } from "../src/protocol/commands.js";
import type { Action, SessionEvent } from "../src/protocol/events.js";
import { Heartbeat } from "../src/protocol/heartbeat.js";
import { Link, type LinkEvent } from "../src/protocol/link.js";
import { isCarrier, type LinkMessage, type Message, make, OF_PEER } from "../src/protocol/messages.js";
import { Paths } from "../src/protocol/paths.js";
import { Session } from "../src/protocol/session.js";

// biome-ignore lint/suspicious/noExplicitAny: the vectors are data of any shape
export type Case = any;
type Result = Record<string, unknown>;

type End = "client" | "server" | "peer";

const DECODERS: Record<End, Decoder> = {
  client: CLIENT,
  server: SERVER,
  peer: PEER,
};

/** The cases of a file of vectors. */
export function cases(name: string): Case[] {
  const file = new URL(`../../../spec/vectors/${name}.json`, import.meta.url);
  return JSON.parse(readFileSync(file, "utf8")).cases;
}

/** The bytes of a `payload`: a string, {"base64"}, or a list of such parts and [part, times]. */
export function payload(written: Case): Buffer {
  if (typeof written === "string") return Buffer.from(written);
  if (!Array.isArray(written)) return Buffer.from(written.base64, "base64");
  return Buffer.concat(
    written.flatMap((part) =>
      Array.isArray(part) ? Array<Buffer>(part[1]).fill(payload(part[0])) : [payload(part)],
    ),
  );
}

/** A decoded message as the vectors write it: its wire fields without defaults; bytes as `data_base64`. */
export function asObject(message: Message | Malformed): Result {
  if (message instanceof Malformed) return { error: message.code };
  if (!isCarrier(message) || !message.binary) return JSON.parse(encode(message));
  const bytes = Buffer.from(encodeBinary(message));
  const end = bytes.indexOf("\n");
  const data = bytes.subarray(end + 1).toString("base64");
  return { ...JSON.parse(bytes.subarray(0, end).toString()), data_base64: data };
}

/** The message an object of a history stands for. */
function asMessage(fields: Case, end: End): Message {
  const { data_base64, ...rest } = fields;
  const header = JSON.stringify(rest);
  const items =
    data_base64 === undefined
      ? DECODERS[end].text(header)
      : DECODERS[end].binary(Buffer.concat([Buffer.from(`${header}\n`), Buffer.from(data_base64, "base64")]));
  const [message] = items;
  if (!message || message instanceof Malformed) throw new Error(`${header}: ${message?.reason}`);
  return message;
}

/** Play one case of messages.json. */
export function decode(each: Case): Result[] {
  const decoder = DECODERS[each.from as End];
  const bytes = payload(each.payload);
  return (each.binary ? decoder.binary(bytes) : decoder.text(bytes)).map(asObject);
}

function timer(at: number): number | null {
  return at === Infinity ? null : Number(at.toFixed(6));
}

/** Play one history of heartbeat.json. */
export function heartbeat(each: Case): Result[] {
  const machine = new Heartbeat(each.pace, each.begin);
  return each.steps.map((step: Case) => {
    const result: Result = {};
    if (step.do === "poll") result.beat = machine.poll(step.at);
    else if (step.do === "alive") machine.alive(step.at);
    else machine.suspect(step.at);
    return { ...result, timer: timer(machine.nextTimer()) };
  });
}

/** Play one history of backoff.json. */
export function backoff(each: Case): Result[] {
  const { initial, factor, cap } = each.options;
  const machine = new Backoff(initial, factor, cap);
  return each.steps.map((step: Case) => {
    if (step.do === "next") return { delay: Number(machine.next(step.random).toFixed(6)) };
    machine.reset();
    return {};
  });
}

/** Play one history of link.json. */
export function link(each: Case): Result[] {
  const machine = new Link(each.peer, each.run, {
    paths: new Paths(),
    window: each.window,
    windowBytes: each.window_bytes,
    durable: each.durable ?? false,
    user: each.user ?? "",
  });
  const received = new Map<string, LinkMessage>();
  return each.steps.map((step: Case) => {
    doToLink(machine, step, received);
    const out = machine.take(step.at).map(([path, message]) => ({ path, message: asObject(message) }));
    const events = machine.events().map((event) => {
      if (event.kind === "received") received.set(numberOf(event.message), event.message);
      return linkEvent(event);
    });
    return { out, events, timer: timer(machine.nextTimer(step.at)) };
  });
}

function numberOf(message: { lane?: string; run: number; seq: number }): string {
  return `${message.lane ?? "messages"} ${message.run} ${message.seq}`;
}

function doToLink(machine: Link, step: Case, received: Map<string, LinkMessage>): void {
  const now = step.at;
  switch (step.do) {
    case "path_up":
      return machine.pathUp(step.path, step.kind, now);
    case "path_down":
      return machine.pathDown(step.path);
    case "submit": {
      const binary = "data_base64" in step;
      const data = binary ? new Uint8Array(Buffer.from(step.data_base64, "base64")) : encodeJson(step.data);
      const entry = machine.submit(data, {
        binary,
        lane: step.lane ?? "messages",
        expires: "expires_in" in step ? now + step.expires_in : Infinity,
        request: step.request ?? "",
        deadline: step.deadline ?? 0,
        collapse: step.collapse ?? "",
      });
      entry.ask = step.ask ?? false;
      return;
    }
    case "receive": {
      const path = step.path ?? "server";
      const end = path === "server" || !OF_PEER.has(step.message.type) ? "server" : "peer";
      return machine.receive(asMessage(step.message, end), path, now);
    }
    case "finish":
      return machine.finish(received.get(numberOf(step)) as LinkMessage, now);
    case "nothing":
      return;
  }
  throw new Error(`no step ${step.do}`);
}

function linkEvent(event: LinkEvent): Result {
  switch (event.kind) {
    case "received":
      return { event: "received", message: asObject(event.message) };
    case "lost": {
      const { kind, ...fields } = event;
      return { event: kind, ...fields };
    }
    case "settled":
      return { event: "settled", seq: event.entry.seq, reason: event.reason, certain: event.certain };
    case "stored":
      return { event: "stored", seq: event.entry.seq };
    case "peer":
      return { event: "peer", state: event.state, restarted: event.restarted };
    case "storage_trouble":
      return { event: "storage_trouble", code: event.code };
    case "path_failed":
      return { event: "path_failed", path: event.path };
  }
}

/** Play one history of session.json. */
export function session(each: Case): Result[] {
  let throws = 0;
  const random = () => each.random[throws++ % each.random.length];
  const machine = new Session(each.client_id, { random });
  const received = new Map<string, LinkMessage>();
  return each.steps.map((step: Case) => {
    const now = step.at;
    const result = doToSession(machine, step, received);
    const actions = machine.take(now).map(action);
    const events = machine.events().map((event) => {
      if (event.kind === "link" && event.event.kind === "received") {
        received.set(`${event.peer} ${numberOf(event.event.message)}`, event.event.message);
      }
      return sessionEvent(event);
    });
    return { ...result, state: machine.state, actions, events, timer: timer(machine.nextTimer(now)) };
  });
}

function doToSession(machine: Session, step: Case, received: Map<string, LinkMessage>): Result {
  const now = step.at;
  switch (step.do) {
    case "start":
      machine.start(now);
      break;
    case "opened":
      machine.opened(step.token ?? "", now);
      break;
    case "lost":
      machine.lost(step.code, step.reason ?? "", now);
      break;
    case "receive": {
      const lines = (step.messages ?? []).map((message: Case) => JSON.stringify(message));
      machine.received(lines.length ? lines.join("\n") : payload(step.payload).toString(), now);
      break;
    }
    case "alive":
      machine.alive(now);
      break;
    case "network_changed":
      machine.networkChanged(now);
      break;
    case "close":
      machine.close(now);
      break;
    case "want":
      machine.subscriptions.want(step.channel, step);
      break;
    case "drop":
      machine.subscriptions.drop(step.channel);
      break;
    case "watch":
      machine.watch(step.peer);
      break;
    case "unwatch":
      machine.unwatch(step.peer);
      break;
    case "command": {
      const { type, ...fields } = step.message;
      if ("data" in fields) fields.data = encodeJson(fields.data);
      machine.command(make(type, { id: 0, ...fields }) as Command, step.context, now);
      break;
    }
    case "send": {
      const message = asMessage(step.message, "client");
      if (message.type !== "signal" && message.type !== "ephemeral") throw new Error("not at most once");
      return { sent: machine.send(message) };
    }
    case "submit": {
      const end = machine.link(step.peer);
      end.submit(encodeJson(step.data));
      machine.touch(end);
      break;
    }
    case "finish": {
      const end = machine.link(step.peer);
      end.finish(received.get(`${step.peer} ${numberOf(step)}`) as LinkMessage, now);
      machine.touch(end);
      break;
    }
    case "nothing":
      break;
    default:
      throw new Error(`no step ${step.do}`);
  }
  return {};
}

/** What a step of session.json wants, its messages without what has its default: Python's core writes the
 * code of a client's goodbye even where it is 1000. */
export function wanted(then: Case): Case {
  const actions = then.actions?.map((each: Case) =>
    each.messages
      ? { ...each, messages: each.messages.map((fields: Case) => asObject(asMessage(fields, "client"))) }
      : each,
  );
  return actions ? { ...then, actions } : then;
}

function action(each: Action): Result {
  switch (each.kind) {
    case "open":
      return { action: "open" };
    case "close":
      return { action: "close", code: each.code, reason: each.reason };
    case "carry":
      throw new Error("sessions are played without data channels");
    case "send": {
      const { payload } = each;
      const messages = typeof payload === "string" ? CLIENT.text(payload) : CLIENT.binary(payload);
      return { action: "send", messages: messages.map(asObject) };
    }
  }
}

function sessionEvent(event: SessionEvent): Result {
  switch (event.kind) {
    case "state":
    case "presence": {
      const { kind, ...fields } = event;
      return { event: kind, ...fields };
    }
    case "link":
      return { event: "link", peer: event.peer, what: linkEvent(event.event) };
    case "answered": {
      const publications = event.publications.map(asObject);
      const answer = { event: "answered", context: event.context, answer: asObject(event.answer) };
      return publications.length ? { ...answer, publications } : answer;
    }
    case "trouble":
      return { event: "trouble", code: event.code };
    case "signal":
      return { event: "signal", message: asObject(event.signal) };
    case "ephemeral":
      return { event: "ephemeral", message: asObject(event.ephemeral) };
    case "joined": {
      const { kind, gap, state, ...fields } = event;
      return {
        event: kind,
        ...fields,
        ...(state && { state: state.map(asObject) }),
        ...(gap && { gap: { reason: gap.reason, first: gap.first, last: gap.last } }),
      };
    }
    case "refused":
      return { event: "channel_refused", channel: event.channel, code: event.code };
    case "published":
      return { event: "published", message: asObject(event.publication) };
  }
}
