/** Two link machines, an honest relay between them, and a network that may do what networks do; the port of
 * `tests/model/link_world.py`.
 *
 * The world checks after every step what a link promises; `heal` repairs the network and checks that everything
 * comes to an end. Nothing here looks into the machines: it sees messages, events and verdicts. */

import {
  CLIENT,
  encode,
  encodeJson,
  SERVER as FROM_SERVER,
  Malformed,
  PEER,
} from "../../src/protocol/codec.js";
import { LANES } from "../../src/protocol/limits.js";
import { Link, type LinkEvent } from "../../src/protocol/link.js";
import { type LinkMessage, type Message, make } from "../../src/protocol/messages.js";
import type { Outgoing, Settled } from "../../src/protocol/outbound.js";
import { Paths } from "../../src/protocol/paths.js";
import { SERVER } from "../../src/protocol/sending.js";

/** Small, so that a model fills it. */
export const WINDOW = 8;
/** Seconds in which a healed link must settle everything: a hold, two probes at their cap, some more. */
const SETTLES_WITHIN = 150;
/** Calls of `take` at one instant that mean the machine runs in a circle. */
const TURNS = 200;

export type Name = "A" | "B";
export const NAMES: readonly Name[] = ["A", "B"];

/** A promise was broken. */
export class Broken extends Error {}

function promise(kept: boolean, text: string): asserts kept {
  if (!kept) throw new Broken(text);
}

function parse(decoder: typeof CLIENT, line: string): Message {
  const [message] = decoder.text(line);
  promise(message !== undefined && !(message instanceof Malformed), `malformed: ${line}`);
  return message;
}

/** One client: its process, its connection, its application. */
class End {
  readonly link: Link;
  readonly peer: Name;
  connected = false;
  attachment = 0;
  toServer: string[] = [];
  fromServer: string[] = [];
  readonly unfinished: LinkMessage[] = [];
  readonly open = new Map<Outgoing, string>();
  readonly heard = new Map<string, number>(); // run and lane → highest number heard
  newestRun = 0;

  constructor(
    readonly name: Name,
    readonly run: number,
    readonly life: number,
    public generation: number,
  ) {
    this.peer = name === "A" ? "B" : "A";
    this.link = new Link(this.peer, run, { window: WINDOW, paths: new Paths() });
  }
}

/** `A` and `B`, the relay between them, their data channels, and everything they ever said. */
export class World {
  now = 100;
  readonly tally = new Map<string, number>();
  private runs = 1000;
  readonly ends: Record<Name, End> = { A: this.process("A", 1, 0), B: this.process("B", 1, 0) };
  readonly channels = new Map<string, Record<Name, string[]>>(); // path → to whom → in flight, any order
  private readonly mute = new Set<string>(); // path and to whom: everything sent there vanishes
  private opened = 0;
  // The relay's memory.
  private readonly held = new Map<string, number>(); // from, lane and run → number it waits for
  private readonly waiting = new Set<Name>(); // senders to be told when their peer comes
  // What was ever said.
  private readonly bodies = new Map<string, string>();
  private readonly deadlines = new Map<string, number>();
  private readonly verdicts = new Map<string, Settled>();
  private readonly finished = new Set<string>();
  private readonly seen = new Map<string, Set<number>>(); // lives of the receiver that were handed it
  private readonly toldLost = new Set<string>();
  private readonly copies = new Map<string, number>();
  private turns = 0;

  constructor(private readonly watching: boolean) {}

  private process(name: Name, life: number, generation: number): End {
    this.runs += 1;
    return new End(name, this.runs, life, generation);
  }

  private count(what: string): void {
    this.tally.set(what, (this.tally.get(what) ?? 0) + 1);
  }

  // --- what may happen ------------------------------------------------------------------------------

  /** A hello is answered; the other side learns of it if it watches or waits. */
  connect(name: Name, resumed = false): void {
    const end = this.ends[name];
    if (end.connected) return;
    end.connected = true;
    if (resumed && end.generation) end.attachment += 1;
    else {
      end.generation += 1;
      end.attachment = 1;
    }
    this.forget(name);
    end.link.pathUp(SERVER, "server", this.now);
    const other = this.ends[end.peer];
    if (this.watching || this.waiting.has(other.name)) {
      this.waiting.delete(other.name);
      this.tell(other, "here");
    }
    if (this.watching && other.connected) this.tell(end, "here");
    this.pump(name);
  }

  /** The connection ends: what was under way on it is gone. */
  cut(name: Name): void {
    const end = this.ends[name];
    if (!end.connected) return;
    end.connected = false;
    end.toServer = [];
    end.fromServer = [];
    end.link.pathDown(SERVER);
    if (this.watching) this.tell(this.ends[end.peer], "reconnecting");
    this.pump(name);
  }

  /** The process dies and another one takes its name; it knows nothing of the earlier one. */
  restart(name: Name): void {
    this.cut(name);
    const old = this.ends[name];
    for (const path of [...this.channels.keys()]) this.close(path);
    this.ends[name] = this.process(name, old.life + 1, old.generation);
    this.forget(name);
    this.waiting.delete(name);
  }

  private forget(name: Name): void {
    for (const key of [...this.held.keys()]) if (key.startsWith(name)) this.held.delete(key);
  }

  /** A data channel between the two processes that are there now. */
  open(proven: boolean): void {
    if (this.channels.size >= 2) return;
    const path = `direct${++this.opened}`;
    this.channels.set(path, { A: [], B: [] });
    for (const name of NAMES) {
      this.ends[name].link.pathUp(path, "direct", this.now);
      this.pump(name);
    }
    if (proven) this.converse(path, 4);
  }

  /** Both ends see the data channel close. */
  close(path: string): void {
    this.channels.delete(path);
    for (const name of NAMES) {
      this.mute.delete(path + name);
      this.ends[name].link.pathDown(path);
      this.pump(name);
    }
  }

  /** One direction of a data channel swallows everything from now on. */
  silence(path: string, to: Name): void {
    this.mute.add(path + to);
    this.channels.get(path)?.[to].splice(0);
  }

  /** The application sends, if there is room. */
  submit(name: Name, lane: string, ttl: number | null, size = 4): void {
    const end = this.ends[name];
    if (!end.link.hasRoom(size + 2, lane)) return;
    const body = `${name}${this.bodies.size}`.padEnd(size, ".");
    const expires = ttl === null ? Infinity : this.now + ttl;
    const entry = end.link.submit(encodeJson(body), { lane, expires });
    const number = `${name} ${end.run} ${lane} ${entry.seq}`;
    promise(!this.bodies.has(number), `${number} was given twice`);
    this.bodies.set(number, body);
    this.deadlines.set(number, expires);
    end.open.set(entry, number);
    this.pump(name);
  }

  /** The application has finished with something it was handed, in any order. */
  finish(name: Name, index: number): void {
    const end = this.ends[name];
    if (!end.unfinished.length) return;
    const [message] = end.unfinished.splice(index % end.unfinished.length, 1) as [LinkMessage];
    this.finished.add(`${end.peer} ${message.run} ${message.lane} ${message.seq}`);
    end.link.finish(message, this.now);
    this.pump(name);
  }

  /** Time passes, and every timer on the way is heeded. */
  advance(seconds: number): void {
    const until = this.now + seconds;
    for (let timer = this.nextTimer(); timer <= until; timer = this.nextTimer()) {
      this.turns = timer <= this.now ? this.turns + 1 : 0;
      promise(this.turns < TURNS, "a timer asks for the same instant for ever");
      this.now = Math.max(this.now, timer);
      for (const name of NAMES) this.pump(name);
    }
    this.now = until;
  }

  private nextTimer(): number {
    return Math.min(...NAMES.map((name) => this.ends[name].link.nextTimer(this.now)));
  }

  // --- what is under way ----------------------------------------------------------------------------

  /** The server takes the oldest messages of a client. */
  relay(name: Name, count = 1): void {
    const end = this.ends[name];
    for (const line of end.toServer.splice(0, count)) this.pass(end, line);
  }

  /** A client takes the oldest messages from the server. */
  arrive(name: Name, count = 1): void {
    const end = this.ends[name];
    for (let left = Math.min(count, end.fromServer.length); left; left--) {
      const message = parse(FROM_SERVER, end.fromServer.shift() as string);
      if (message.type === "wait") this.addCopies(end, message, -1);
      this.count(`${message.type} from the server`);
      if (message.type === "ack" && message.want) this.count("asked to send again");
      if (message.type === "message" && message.ack_run) this.count("a cursor rode");
      end.link.receive(message, SERVER, this.now);
      this.pump(name);
    }
  }

  /** A data channel delivers one message, or drops it (no copies), or repeats it. */
  deliver(path: string, to: Name, index: number, copies = 1): void {
    const flight = this.channels.get(path)?.[to];
    if (!flight?.length) return;
    const [line] = flight.splice(index % flight.length, 1) as [string];
    for (let copy = 0; copy < copies; copy++) {
      const message = parse(PEER, line);
      this.count(`${message.type} on a data channel`);
      this.ends[to].link.receive(message, path, this.now);
      this.pump(to);
    }
  }

  /** The server passes on everything both ways; the applications finish with it, or not yet. */
  exchange(finish: boolean): void {
    for (const name of NAMES) this.relay(name, 100);
    for (const name of NAMES) {
      this.arrive(name, 100);
      while (finish && this.ends[name].unfinished.length) this.finish(name, 0);
    }
  }

  /** A data channel delivers what is under way, and what that brings about. */
  converse(path: string, turns: number): void {
    for (let turn = 0; turn < turns; turn++) {
      for (const name of NAMES) {
        for (let left = this.channels.get(path)?.[name].length ?? 0; left; left--)
          this.deliver(path, name, 0);
      }
    }
  }

  private addCopies(end: End, { run, lane, seq, last }: Numbered, change: number): void {
    for (let each = seq; each <= Math.max(last ?? 0, seq); each++) {
      const number = `${end.name} ${run} ${lane} ${each}`;
      this.copies.set(number, (this.copies.get(number) ?? 0) + change);
    }
  }

  private tell(end: End, state: string): void {
    if (!end.connected) return;
    const { name, run, generation, attachment } = this.ends[end.peer];
    const here = state === "here" ? { run, generation, attachment } : {};
    end.fromServer.push(encode(make("peer", { client_id: name, state, ...here })));
  }

  private pass(end: End, line: string): void {
    const message = parse(CLIENT, line);
    const peer = this.ends[end.peer];
    if (message.type === "message" || message.type === "skip") {
      const key = `${end.name} ${message.lane} ${message.run}`;
      const { seq, base, run, lane } = message;
      const last = message.type === "skip" ? message.last : seq;
      promise(message.type === "skip" || seq < base + WINDOW, `${seq} is beyond the credit, base ${base}`);
      const held = this.held.get(key) ?? seq;
      if (seq <= held || base > held) this.held.delete(key);
      if (!peer.connected || this.held.has(key)) {
        if (!this.held.has(key)) this.held.set(key, seq);
        end.fromServer.push(encode(make("wait", { to: peer.name, run, seq, last, lane })));
        if (!peer.connected) this.waiting.add(end.name);
        return;
      }
    }
    if (!peer.connected) return;
    promise("from" in message && "to" in message, `${message.type} is not the relay's`);
    peer.fromServer.push(encode({ ...message, to: "", from: end.name }));
  }

  // --- the driver -----------------------------------------------------------------------------------

  /** Do for a machine what a driver does after every input. */
  private pump(name: Name): void {
    const end = this.ends[name];
    for (const [path, message] of end.link.take(this.now)) this.send(end, path, message);
    for (const event of end.link.events()) this.hear(end, event);
    this.check(end);
  }

  private send(end: End, path: string, message: Message): void {
    if (message.type === "message" || message.type === "skip") this.addCopies(end, message, 1);
    if (path === SERVER) {
      promise(end.connected, "sent on a path that is down");
      end.toServer.push(encode(message));
      return;
    }
    const channel = this.channels.get(path);
    promise(channel !== undefined, "sent on a path that is down");
    if (!this.mute.has(path + end.peer))
      channel[end.peer].push(encode("to" in message ? { ...message, to: "" } : message));
  }

  private hear(end: End, event: LinkEvent): void {
    if (event.kind === "received") this.received(end, event.message);
    else if (event.kind === "lost") {
      promise(event.first <= event.last, "an empty range was lost");
      this.count(`heard of ${event.reason}`);
      this.inOrder(end, event.run, event.lane, event.first, event.last);
      for (let seq = event.first; seq <= event.last; seq++) {
        this.toldLost.add(`${end.peer} ${event.run} ${event.lane} ${seq}`);
      }
    } else if (event.kind === "settled") this.settled(end, event);
    else if (event.kind === "path_failed") {
      promise(event.reason.includes("process"), `an honest peer's path was closed: ${event.reason}`);
      this.close(event.path);
    }
  }

  private received(end: End, message: LinkMessage): void {
    const number = `${end.peer} ${message.run} ${message.lane} ${message.seq}`;
    promise(this.bodies.get(number) === message.data, `${number} was invented or changed`);
    this.inOrder(end, message.run, message.lane, message.seq, message.seq);
    const verdict = this.verdicts.get(number);
    promise(!(verdict?.reason && verdict.certain), `${number} was lost for certain`);
    const seen = this.seen.get(number) ?? new Set();
    if (seen.size) this.count("received again by a new process");
    this.seen.set(number, seen.add(end.life));
    end.unfinished.push(message);
  }

  /** Numbers come to an application once, in order, and none is passed over. */
  private inOrder(end: End, run: number, lane: string, first: number, last: number): void {
    promise(run >= end.newestRun, `run ${run} after ${end.newestRun}`);
    end.newestRun = run;
    const before = end.heard.get(`${run} ${lane}`);
    if (before === undefined) {
      for (let seq = 1; seq < first; seq++) {
        const number = `${end.peer} ${run} ${lane} ${seq}`;
        promise(this.verdicts.has(number), `${number} was passed over`);
      }
    } else promise(first === before + 1, `${end.name} heard ${first} after ${before} of ${lane}`);
    end.heard.set(`${run} ${lane}`, last);
  }

  private settled(end: End, event: Settled): void {
    const number = end.open.get(event.entry);
    promise(number !== undefined, "a number was settled twice, or was never given");
    end.open.delete(event.entry);
    this.verdicts.set(number, event);
    this.count(`settled as ${event.reason || "delivered"}`);
    if (!event.reason)
      promise(this.finished.has(number), `${number} was called delivered, but nobody finished it`);
    else if (event.certain) {
      const there = this.seen.get(number)?.has(this.ends[end.peer].life) ?? false;
      promise(!there, `${number} was lost for certain, but it was there`);
    }
  }

  /** What must hold between any two steps. */
  private check(end: End): void {
    const underWay = new Map(LANES.map((lane) => [lane, 0]));
    for (const number of end.open.values()) {
      const alive = (this.deadlines.get(number) as number) > this.now || (this.copies.get(number) ?? 0) > 0;
      promise(alive, `${number} has expired and nobody has a copy: it must be settled`);
      const lane = number.split(" ")[2] as string;
      underWay.set(lane, (underWay.get(lane) as number) + 1);
    }
    promise(Math.max(...underWay.values()) <= WINDOW, "more than a window is under way");
  }

  // --- the end --------------------------------------------------------------------------------------

  /** Repair everything; then everything must settle, in bounded time. */
  heal(keepChannels: boolean): void {
    this.mute.clear();
    if (!keepChannels) for (const path of [...this.channels.keys()]) this.close(path);
    for (const name of NAMES) this.connect(name, true);
    const until = this.now + SETTLES_WITHIN;
    for (;;) {
      this.flush();
      if (!NAMES.some((name) => this.ends[name].link.unsettled)) break;
      const timer = this.nextTimer();
      promise(timer <= until, `not settled ${SETTLES_WITHIN} s after healing`);
      this.advance(Math.max(timer - this.now, 0));
    }
    this.agree();
  }

  private flush(): void {
    for (let round = 0; round < 1000; round++) {
      let busy = false;
      for (const name of NAMES) {
        const end = this.ends[name];
        busy ||= Boolean(end.toServer.length || end.fromServer.length || end.unfinished.length);
        this.relay(name, 1000);
        this.arrive(name, 1000);
        for (const path of [...this.channels.keys()]) {
          while (this.channels.get(path)?.[name].length) {
            busy = true;
            this.deliver(path, name, 0);
          }
        }
        while (end.unfinished.length) this.finish(name, 0);
      }
      if (!busy) return;
    }
    promise(false, "the machines keep talking without end");
  }

  /** Where the receiver is still the process it was, both sides tell the same story. */
  private agree(): void {
    for (const name of NAMES) {
      const end = this.ends[name];
      if (this.ends[end.peer].life > 1) continue;
      for (const [number, verdict] of this.verdicts) {
        if (!number.startsWith(`${name} ${end.run} `)) continue;
        const seen = this.seen.has(number);
        promise(
          seen === !verdict.reason,
          `${number}: ${verdict.reason || "delivered"}, but ${seen ? "got" : "not got"}`,
        );
        promise(verdict.reason !== "" || !this.toldLost.has(number), `${number}: delivered and told as lost`);
      }
    }
  }
}

interface Numbered {
  readonly run: number;
  readonly lane: string;
  readonly seq: number;
  readonly last?: number;
}
