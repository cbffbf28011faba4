/**
 * One end of a link: what this client sends to one peer and takes from it, over whatever paths there are.
 *
 * The machine has no clock and no transport. Inputs carry `now` (monotonic seconds); `take(now)` returns the
 * messages to send, each with the path to send it on, and `events()` what the application should hear. What
 * holds it together are the numbers: a copy too many is recognised, a copy too few asked for.
 */

import { impossible, sizeOf } from "./codec.js";
import { isPeerState, type PeerState } from "./codes.js";
import { Former } from "./former.js";
import { BeyondCredit, Inbound, type Lost, type Received } from "./inbound.js";
import { LANES, PROBE_AFTER, PROBE_CAP, STORE_AFTER, WINDOW, WINDOW_BYTES } from "./limits.js";
import {
  type Ack,
  type ErrorMessage,
  type LinkMessage,
  type Message,
  make,
  type Peer,
  type Probe,
  type Skip,
} from "./messages.js";
import { obtain } from "./obtain.js";
import { Outbound, type Outgoing, type Settled, type StoredNumber } from "./outbound.js";
import type { PathChoice, PathKind } from "./paths.js";
import { KNOCK_CAP, SERVER, Sending, ServerPath } from "./sending.js";

/** Bytes up to which a message goes both ways while trust in a path has lapsed. */
const SMALL = 1024;

/** Seconds within which the server, too, hears of what was acknowledged on other paths. */
const REPORT = 1;

/** The peer is here, reconnecting or away now. `restarted`: another process answers to the name. */
export interface PeerStateChanged {
  readonly kind: "peer";
  readonly state: PeerState;
  readonly restarted: boolean;
}

/** The server cannot store what was sent: it is kept here, and tried again. */
export interface StorageTrouble {
  readonly kind: "storage_trouble";
  readonly code: string;
}

/** What came on this path broke the protocol: the driver closes it. */
export interface PathFailed {
  readonly kind: "path_failed";
  readonly path: string;
  readonly reason: string;
}

export type LinkEvent =
  | Received
  | Lost
  | Settled
  | StoredNumber
  | PeerStateChanged
  | PathFailed
  | StorageTrouble;

/** What a body is submitted with, besides. Times in seconds, `deadline` in milliseconds. */
export interface Submission {
  readonly lane?: string;
  readonly binary?: boolean;
  readonly expires?: number;
  readonly request?: string;
  readonly deadline?: number;
  readonly reply?: string;
  readonly failed?: boolean;
  readonly collapse?: string;
  readonly context?: unknown;
}

/** How a link begins. `user`: it is the end of what the peer sends to that user. */
export interface LinkSettings {
  readonly window?: number;
  readonly windowBytes?: number;
  readonly durable?: boolean;
  readonly user?: string;
  /** Default: only the one through the server. */
  readonly paths?: PathChoice | undefined;
}

/** Return the key of a link to a peer, or of what that peer sends to a user. */
export function keyOf(peer: string, user: string): string {
  return user ? `${peer}\n${user}` : peer; // no name contains a newline
}

/** One client's end of a link to one peer. The peer may be a user (`@bob`): then it only sends. With `user`
 * it is the end of what the peer sends to that user, whose client this is: then it only receives. */
export class Link {
  window: number;
  windowBytes: number;
  durable: boolean;
  readonly user: string;
  readonly paths: PathChoice;
  state: PeerState = "away";
  /** The peer's run, as the server last told it. */
  peerProcess = 0;
  private _connection = ""; // its generation and attachment
  private _opened = false; // the peer has acknowledged something of this run
  private readonly _sending = new Map<string, Sending>();
  private readonly _granted = new Map<string, number>(); // path and lane → highest number the peer takes
  private _peerRun = 0;
  private readonly _inbound = new Map<string, Inbound>();
  private readonly _former = new Former();
  private readonly _arrived = new Map<string, string>(); // lane → path by which the newest message came
  private _reportAt = Infinity;
  private _events: LinkEvent[] = [];
  private _out: [path: string, message: Message][] = [];

  constructor(
    readonly peer: string,
    readonly run: number,
    settings: LinkSettings = {},
  ) {
    this.window = settings.window ?? WINDOW;
    this.windowBytes = settings.windowBytes ?? WINDOW_BYTES;
    this.durable = settings.durable ?? false;
    this.user = settings.user ?? "";
    this.paths = settings.paths ?? new ServerPath();
  }

  /** What tells it from a client's other links. */
  get key(): string {
    return keyOf(this.peer, this.user);
  }

  // --- the application ------------------------------------------------------------------------------

  /** Whether `submit` would take a body of that many bytes now. */
  hasRoom(size: number, lane = "messages"): boolean {
    return this._lane(lane).outbound.hasRoom(size);
  }

  /** Number a body for sending; it leaves with the next `take`. Throws `NoRoom` when the lane has no room,
   * `RangeError` for an unknown lane. */
  submit(data: unknown, how: Submission = {}): Outgoing {
    const { lane = "messages", binary, expires, context, ...wire } = how;
    const entry = this._lane(lane).outbound.submit(data, binary, expires);
    entry.wire = wire;
    entry.context = context;
    return entry;
  }

  /** The application has finished with a received message: it is delivered. */
  finish(message: LinkMessage, now: number): void {
    const inbound = this._inbound.get(message.lane);
    if (inbound && inbound.run === message.run) inbound.finish(message.seq, now);
    else this._former.get(message.run, message.lane)?.finish(message.seq, now);
  }

  /** This process gives up its link: what is not settled ends as lost. */
  abandon(reason: string): Settled[] {
    return [...this._sending.values()].flatMap((sending) => sending.outbound.abandon(reason));
  }

  /** How many numbers, over all lanes, are neither delivered nor lost. */
  get unsettled(): number {
    let count = 0;
    for (const sending of this._sending.values()) count += sending.outbound.unsettled;
    return count;
  }

  /** Whether something that is finished has not been acknowledged yet. */
  get owesAcks(): boolean {
    return this._receivers().some((inbound) => inbound.ackAt < Infinity);
  }

  /** Do not let acknowledgements wait for company: this end is about to leave, or its timers are slow. */
  hurry(now: number): void {
    for (const inbound of this._receivers()) {
      if (inbound.ackAt < Infinity) inbound.ackAt = now;
    }
  }

  /** What may have something to acknowledge. */
  private _receivers(): Inbound[] {
    return [...this._inbound.values(), ...this._former.lanes];
  }

  // --- paths ----------------------------------------------------------------------------------------

  /** A path is open (again): what the receiver has not got goes out on it, if it is chosen. */
  pathUp(path: string, kind: PathKind, now: number): void {
    this.paths.open(path, kind, now);
    for (const sending of this._sending.values()) {
      if (path === SERVER) sending.reconnected(now);
      else sending.rewind(path);
    }
  }

  /** The server grants another credit than before (numbers already given stay), or has a disk now. */
  adapt(window: number, windowBytes: number, durable: boolean): void {
    this.window = window;
    this.windowBytes = windowBytes;
    this.durable = durable;
    const halves = [...[...this._sending.values()].map((each) => each.outbound), ...this._inbound.values()];
    for (const half of halves) {
      half.window = window;
      half.windowBytes = windowBytes;
    }
  }

  /** A path is gone. */
  pathDown(path: string): void {
    this.paths.close(path);
    for (const sending of this._sending.values()) sending.rewind(path);
    for (const lane of LANES) this._granted.delete(grantKey(path, lane));
  }

  /** The server tells the peer's state. A new run closes the paths to the old process; a new connection may
   * have lost what was under way to the earlier one. */
  peerChanged(peer: Peer, now: number): void {
    const state = peer.state;
    if (!isPeerState(state)) return; // a newer server's word
    // Another run, not a higher one: an engine without memory lets an older process come back.
    const restarted = this.peerProcess > 0 && peer.run > 0 && this.peerProcess !== peer.run;
    if (restarted) {
      this._opened = false;
      for (const path of this.paths.names()) {
        if (path !== SERVER) this.fail(path, "another process");
      }
    }
    if (peer.run) {
      this.peerProcess = peer.run;
      for (const sending of this._sending.values()) sending.outbound.meet(peer.run);
    }
    if (state !== this.state || restarted) this._events.push({ kind: "peer", state, restarted });
    this.state = state;
    if (state !== "here") return;
    const connection = `${peer.generation} ${peer.attachment}`;
    for (const sending of this._sending.values()) {
      if (connection !== this._connection && (sending.heldUntil || this._connection)) sending.rewind(SERVER);
      sending.release(now);
    }
    this._connection = connection;
  }

  // --- messages -------------------------------------------------------------------------------------

  /** Take a link message that came on a path. The driver knows whose it is: on a direct path a name in the
   * message is a forgery. */
  receive(message: Message, path: string, now: number): void {
    if (path !== SERVER && "from" in message && message.from) {
      this.fail(path, "forged");
      return;
    }
    switch (message.type) {
      case "message":
        return this._receiveMessage(message, path, now);
      case "ack":
        return this._receiveAck(message, path, now);
      case "skip":
      case "probe":
        return this._receiveControl(message, path, now);
      case "ping":
        this._out.push([path, make("pong", { id: message.id })]);
        return;
      case "pong":
        this.paths.pong(path, message.id, now);
        return;
    }
    if (path === SERVER) this._receiveVerdict(message, now);
    else this.fail(path, message.type);
  }

  private _receiveMessage(message: LinkMessage, path: string, now: number): void {
    const inbound = this._receiving(message.run, message.base, message.lane, path);
    if (!inbound) return this._former.again(message.run, message.lane, now);
    this._arrived.set(message.lane, path);
    if (!this._granting(path, () => inbound.message(message, now, path !== SERVER))) return;
    if (!message.ack_run || message.ack_run !== this.run) return;
    const sending = this._sending.get(message.lane);
    if (!sending) return;
    const received = sending.outbound.received;
    const settled = sending.outbound.acknowledgeCursor(message.ack_run, message.ack);
    this._acknowledged(sending, settled, received, now);
  }

  private _receiveControl(message: Skip | Probe, path: string, now: number): void {
    const start = message.type === "probe" ? message.start : 0;
    const known = this._inbound.has(message.lane) && message.run === this._peerRun;
    const inbound = this._receiving(message.run, start || message.base, message.lane, path);
    if (!inbound) return this._former.again(message.run, message.lane, now);
    this._arrived.set(message.lane, path);
    if (message.type === "probe") {
      if (!known) inbound.inherit(message.lost);
      this._events.push(...inbound.begin(start, now), ...inbound.probe(message.seq, message.base, now));
    } else this._granting(path, () => inbound.skip(message, now, path !== SERVER));
  }

  /** Take what comes; a number beyond the credit costs the path. */
  private _granting(path: string, take: () => (Received | Lost)[]): boolean {
    try {
      this._events.push(...take());
    } catch (error) {
      if (!(error instanceof BeyondCredit)) throw error;
      this.fail(path, error.message);
      return false;
    }
    return true;
  }

  /** The half that takes a lane's numbers of that run; null if they are to be dropped. */
  private _receiving(run: number, base: number, lane: string, path: string): Inbound | null {
    if (!LANES.includes(lane) || run < this._peerRun) return null;
    if (run > this._peerRun) {
      if (path !== SERVER) return null; // a new run is opened by the server, behind what it has of the old one
      for (const ended of this._inbound.values()) this._events.push(...ended.end());
      this._former.end(this._inbound.values());
      this._inbound.clear();
      this._peerRun = run;
    }
    return obtain(this._inbound, lane, () => new Inbound(lane, run, base, this.window, this.windowBytes));
  }

  private _receiveAck(ack: Ack, path: string, now: number): void {
    const sending = this._sending.get(ack.lane);
    if (!sending || ack.run !== this.run) return;
    const outbound = sending.outbound;
    const received = outbound.received;
    const opened = this._opened;
    this._acknowledged(sending, outbound.acknowledge(ack), received, now);
    if (path === SERVER) {
      if (ack.kept !== undefined) this._events.push(...outbound.forgotten(ack.kept));
      if (ack.want) this._opened = opened; // a mailbox asks, too, for a process that knows nothing of this run
    }
    if (ack.limit && path !== SERVER) {
      const key = grantKey(path, ack.lane);
      this._granted.set(key, Math.max(this._granted.get(key) ?? 0, ack.limit));
    }
    if (ack.want) {
      sending.rewind();
      sending.release(now); // who asks is there
    }
  }

  /** What the server says of numbers it was sent. */
  private _receiveVerdict(message: Message, now: number): void {
    if (message.type === "peer") return this.peerChanged(message, now);
    if (message.type !== "wait" && message.type !== "stored" && message.type !== "error") return;
    const sending = this._sending.get(message.lane || "messages");
    if (!sending || message.run !== this.run) return;
    const outbound = sending.outbound;
    if (message.type === "wait") {
      const last = Math.max(message.last, message.seq);
      if (!message.probe) this._events.push(...outbound.dropped(message.seq, last));
      if (message.code && !sending.heldUntil) {
        this._events.push({ kind: "storage_trouble", code: message.code });
      }
      sending.hold(message.seq, now);
    } else if (message.type === "stored") {
      const before = outbound.stored;
      this._events.push(...outbound.store(message.seq));
      if (sending.held && message.seq >= sending.held) {
        sending.held = 0;
        sending.release(now);
      }
      if (outbound.stored > before) this._progress(sending, now);
    } else if (message.seq) this._refused(sending, message, now);
  }

  private _refused(sending: Sending, error: ErrorMessage, now: number): void {
    if (error.code === "credit") sending.hold(error.seq, now);
    else if (error.code === "mailbox_full") {
      // Where its place is, it is known to be lost.
      this._events.push(...sending.outbound.refuse(error.seq, "mailbox_full"));
    } else {
      this._events.push(...sending.outbound.refuse(error.seq));
      sending.backTo(error.seq); // a skip takes the refused number's place
    }
  }

  private _acknowledged(sending: Sending, settled: Settled[], received: number, now: number): void {
    this._events.push(...settled);
    if (!settled.length && sending.outbound.received === received) return;
    this._opened = true;
    if (sending.held && sending.outbound.received >= sending.held) sending.release(now);
    this._progress(sending, now);
  }

  private _progress(sending: Sending, now: number): void {
    sending.probeWait = PROBE_AFTER;
    sending.probeAt = sending.outbound.unsettled ? now + sending.probeWait : Infinity;
  }

  /** What came on this path broke the protocol: it is not used any more, and the driver closes it. */
  fail(path: string, reason: string): void {
    this.pathDown(path);
    this._events.push({ kind: "path_failed", path, reason });
  }

  // --- what leaves ----------------------------------------------------------------------------------

  /** Return, and forget, what happened since the last call. */
  events(): LinkEvent[] {
    const events = this._events;
    this._events = [];
    return events;
  }

  /** Return the messages to send now, as [path, message]. */
  take(now: number): [path: string, message: Message][] {
    for (const ping of this.paths.poll(now)) this._out.push([ping.path, make("ping", { id: ping.id })]);
    for (const sending of this._sending.values()) {
      this._events.push(...sending.outbound.expire(now));
      this._transmit(sending, now);
    }
    this._acknowledge(now);
    const out = this._out;
    this._out = [];
    return out;
  }

  /** When `take` has something to do, if nothing happens before. */
  nextTimer(now: number): number {
    const open = this.paths.some;
    const server = this.paths.has(SERVER);
    let timer = this.paths.nextTimer(now);
    if (server) timer = Math.min(timer, this._reportAt, ...this._former.lanes.map((ended) => ended.ackAt));
    if (open) {
      for (const inbound of this._inbound.values()) timer = Math.min(timer, inbound.ackAt, inbound.pullAt);
    }
    for (const sending of this._sending.values()) {
      timer = Math.min(timer, sending.outbound.nextExpiry());
      if (!open) continue;
      timer = Math.min(timer, sending.probeAt);
      if (this.durable && server && !sending.heldUntil) timer = Math.min(timer, sending.storeAt);
      if (sending.heldUntil > now) timer = Math.min(timer, sending.heldUntil);
    }
    return timer;
  }

  private _lane(lane: string): Sending {
    return obtain(this._sending, lane, () => {
      if (!LANES.includes(lane)) throw impossible("lane", lane);
      const outbound = new Outbound(this.peer, lane, this.run, this.window, this.windowBytes);
      outbound.process = this.peerProcess;
      return new Sending(outbound);
    });
  }

  private _ways(lane: string, now: number): readonly string[] {
    const ways = this.paths.choose(lane, now);
    // The peer takes a run it does not know only from the server.
    return !this._opened && this.paths.has(SERVER) ? [SERVER] : ways;
  }

  private _transmit(sending: Sending, now: number): void {
    const outbound = sending.outbound;
    if (!outbound.unsettled) {
      sending.probeAt = sending.storeAt = Infinity;
      return;
    }
    const ways = this._ways(outbound.lane, now);
    for (const path of sending.cursors.keys()) {
      // Left: should it be chosen again, it starts from what has arrived.
      if (!ways.includes(path)) sending.cursors.delete(path);
    }
    for (const [index, path] of ways.entries()) {
      if (path === SERVER && sending.heldUntil) this._knock(sending, now);
      else this._sendOn(path, index > 0, sending, now);
    }
    const server = this.paths.has(SERVER);
    if (this.durable && now >= sending.storeAt && server && !sending.heldUntil) {
      for (const [seq, store] of sending.overdue(now)) {
        for (const message of outbound.transmit(seq, seq, now, true, store))
          this._out.push([SERVER, message]);
      }
    }
    if (ways.length && now >= sending.probeAt) this._probe(sending, ways, now);
  }

  private _sendOn(path: string, again: boolean, sending: Sending, now: number): void {
    const outbound = sending.outbound;
    let first = sending.cursors.get(path) ?? outbound.received + 1;
    let last = outbound.nextSeq - 1;
    if (path !== SERVER) last = Math.min(last, this._limit(path, outbound));
    else if (sending.held) {
      first = Math.min(first, sending.held);
      sending.held = 0;
    }
    first = Math.max(first, outbound.base);
    if (last < first) return;
    sending.cursors.set(path, last + 1);
    for (const message of outbound.transmit(first, last, now, path === SERVER)) {
      if (message.type === "message") {
        if (again && sizeOf(message.data) > SMALL) continue;
        this._ride(message, path, now);
      }
      this._out.push([path, message]);
    }
    sending.top = Math.max(sending.top, last);
    sending.storeAt = Math.min(sending.storeAt, now + STORE_AFTER);
    if (sending.probeAt === Infinity) sending.probeAt = now + sending.probeWait;
  }

  private _knock(sending: Sending, now: number): void {
    if (now < sending.heldUntil) return;
    sending.knock = Math.min(2 * sending.knock, KNOCK_CAP);
    sending.heldUntil = now + sending.knock;
    const outbound = sending.outbound;
    const seq = Math.max(Math.min(sending.held, outbound.nextSeq - 1), outbound.base);
    sending.top = Math.max(sending.top, seq);
    for (const message of outbound.transmit(seq, seq, now, true)) this._out.push([SERVER, message]);
  }

  private _limit(path: string, outbound: Outbound): number {
    const granted = this._granted.get(grantKey(path, outbound.lane)) ?? 0;
    return Math.max(granted, outbound.base - 1 + this.window);
  }

  private _probe(sending: Sending, ways: readonly string[], now: number): void {
    const outbound = sending.outbound;
    sending.probeWait = Math.min(2 * sending.probeWait, PROBE_CAP);
    sending.probeAt = now + sending.probeWait;
    const paths = new Set(ways);
    if (sending.probeWait > 2 * PROBE_AFTER && this.paths.has(SERVER)) paths.add(SERVER);
    for (const path of [...paths].sort()) {
      if (path === SERVER && sending.heldUntil) {
        this._knock(sending, now); // the other ways may lead to one who does not know this run
        continue;
      }
      const seq = Math.min(sending.top, outbound.nextSeq - 1);
      const { base, lane } = outbound;
      this._out.push([path, make("probe", { run: this.run, seq, base, to: this.peer, lane })]);
    }
  }

  private _ride(message: LinkMessage, path: string, now: number): void {
    const inbound = this._inbound.get(message.lane);
    if (!inbound?.finished || !inbound.mayRide()) return;
    message.ack_run = inbound.run;
    message.ack = inbound.finished;
    inbound.rode();
    if (path !== SERVER) this._reportAt = Math.min(this._reportAt, now + REPORT);
  }

  private _acknowledge(now: number): void {
    for (const inbound of this._inbound.values()) {
      if (!inbound.poll(now)) continue;
      let path = this._arrived.get(inbound.lane) ?? SERVER;
      if (!this.paths.has(path)) path = this._ways(inbound.lane, now)[0] ?? "";
      if (!path) continue;
      this._out.push([path, inbound.ack(this.peer, this.run, this.user, path !== SERVER)]);
      if (path !== SERVER) this._reportAt = Math.min(this._reportAt, now + REPORT);
    }
    if (!this.paths.has(SERVER)) return;
    for (const inbound of this._former.lanes) {
      if (now >= inbound.ackAt) this._out.push([SERVER, inbound.ack(this.peer, this.run, this.user)]);
    }
    if (now < this._reportAt) return;
    this._reportAt = Infinity;
    for (const inbound of this._inbound.values()) {
      this._out.push([SERVER, inbound.ack(this.peer, this.run, this.user)]);
    }
  }
}

function grantKey(path: string, lane: string): string {
  return `${lane} ${path}`;
}
