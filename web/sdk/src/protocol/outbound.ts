/**
 * The sending half of one lane of a link: numbers, bodies, and what became of them.
 *
 * Every number ends `delivered` or `lost`, and its sender is told which, once. What is known of a number
 * is its entry here, from `submit` until the receiver's cursor has passed it:
 *
 *     pending ── stored by a mailbox ──▶ stored ──┐
 *        │                                        ├── cursor passed, not listed as lost ──▶ delivered
 *        └── expired, refused ──▶ skipped ────────┴── cursor passed, listed as lost ──────▶ lost
 *
 * An entry counts the copies of it that left and were not answered by `wait`. A skipped entry without
 * copies is lost for certain, at once; with copies, the receiver's acknowledgement says what it was.
 */

import { sizeOf } from "./codec.js";
import type { LossReason } from "./codes.js";
import { type Ack, type LinkMessage, make, type Skip } from "./messages.js";

/** There is no room for another number before something is stored or settled. */
export class NoRoom extends Error {}

/** A time before all others. */
export const NEVER = -Infinity;

const NOBODY = -1;
const SEVERAL = -2;

/** One number of a lane, from its sender's side. `context` is the driver's own. */
export class Outgoing {
  size: number;
  /** What its message says besides. */
  wire: Partial<LinkMessage> = {};
  ask = false;
  context: unknown = undefined;
  copies = 0;
  /** The receiver's process that may have the body, if it is one. */
  process = NOBODY;
  stored = false;
  /** When it first left. */
  sent = NEVER;
  /** When it first left on this connection to the server, and was not refused there. */
  relayed = NEVER;
  /** Why it is skipped; empty: it is not. */
  reason = "";
  /** The application knows its end. */
  told = false;

  constructor(
    readonly seq: number,
    public data: unknown,
    readonly binary: boolean,
    readonly expires: number,
  ) {
    this.size = sizeOf(data);
  }

  /** The body is not needed any more. */
  empty(): void {
    this.data = undefined;
    this.size = 0;
  }

  /** Whether copies are out with several processes, or nobody knows with which. */
  left(process: number): void {
    if (this.process !== process) this.process = this.process === NOBODY ? process : SEVERAL;
  }

  /** Whether a receiver's word that the number was lost speaks for all who may have the body. */
  unseen(ack: Ack | null, reason: string): boolean {
    if (reason === "unclear") return false;
    return this.process === NOBODY || (ack !== null && this.process > 0 && this.process === ack.by);
  }
}

/** The end of a number. `reason` is empty for delivered. A loss that is not `certain` may have been
 * delivered all the same: copies are out and no acknowledgement can come any more, or the receiver that
 * says it was lost may not be the process that had the copies. */
export interface Settled {
  readonly kind: "settled";
  readonly entry: Outgoing;
  readonly reason: string;
  readonly certain: boolean;
}

/** A mailbox has the number now. */
export interface StoredNumber {
  readonly kind: "stored";
  readonly entry: Outgoing;
}

/** One lane's numbers of one run, in order, from `base` on. */
export class Outbound {
  nextSeq = 1;
  /** The receiver's process (its run), as last told. */
  process = 0;
  /** Told on this connection. */
  sure = false;
  /** The receiver's cursor of arrival, as far as acknowledged. */
  received = 0;
  /** The mailbox's. */
  stored = 0;
  private _entries: Outgoing[] = []; // those before `_head` are gone
  private _head = 0;
  private _unsafeBytes = 0;
  private _expires = Infinity;

  constructor(
    readonly peer: string,
    readonly lane: string,
    readonly run: number,
    public window: number,
    public windowBytes: number,
  ) {}

  // --- what is there ------------------------------------------------------------------------------

  private get _first(): Outgoing | undefined {
    return this._entries[this._head];
  }

  private _drop(): void {
    this._head += 1;
    if (this._head === this._entries.length || this._head >= 512) {
      this._entries = this._entries.slice(this._head);
      this._head = 0;
    }
  }

  /** Lowest number not yet settled. */
  get base(): number {
    return this._first?.seq ?? this.nextSeq;
  }

  /** How many numbers are not settled. */
  get unsettled(): number {
    return this._entries.length - this._head;
  }

  /** When the next entry expires. */
  nextExpiry(): number {
    return this._expires;
  }

  /** Whether a body of that many bytes may be numbered now; one always may. */
  hasRoom(size: number): boolean {
    const firstUnsafe = Math.max(this.base, this.stored + 1);
    if (this.nextSeq === firstUnsafe) return true;
    return this.nextSeq < firstUnsafe + this.window && this._unsafeBytes + size <= this.windowBytes;
  }

  /** The entries numbered `first` … `last` that are still there. */
  between(first: number, last: number): Outgoing[] {
    const base = this.base;
    const start = this._head + Math.max(first - base, 0);
    return last < first ? [] : this._entries.slice(start, this._head + Math.max(last - base + 1, 0));
  }

  private _all(): Outgoing[] {
    return this._entries.slice(this._head);
  }

  // --- what the application does --------------------------------------------------------------------

  /** Number a body. Throws `NoRoom`; nothing is numbered then. */
  submit(data: unknown, binary = false, expires = Infinity): Outgoing {
    const entry = new Outgoing(this.nextSeq, data, binary, expires);
    if (!this.hasRoom(entry.size)) throw new NoRoom();
    this.nextSeq += 1;
    this._entries.push(entry);
    this._unsafeBytes += entry.size;
    this._expires = Math.min(this._expires, expires);
    return entry;
  }

  // --- what the network says ------------------------------------------------------------------------

  /** Take a receiver's cursors. Returns the numbers that are settled by them. Acknowledgements of another
   * run, or of numbers never sent, change nothing. */
  acknowledge(ack: Ack): Settled[] {
    const received = Math.max(ack.received, ack.seq);
    if (ack.run !== this.run || received >= this.nextSeq) return [];
    this.received = ack.want ? received : Math.max(this.received, received);
    return this._settle(ack.seq, ack);
  }

  /** Take a cursor that rode on a message: everything up to `seq` is delivered, nothing lost. */
  acknowledgeCursor(run: number, seq: number): Settled[] {
    if (run !== this.run || !this.unsettled || seq < this.base || seq >= this.nextSeq) return [];
    this.received = Math.max(this.received, seq);
    return this._settle(seq, null);
  }

  private _settle(seq: number, ack: Ack | null): Settled[] {
    const settled: Settled[] = [];
    for (let entry = this._first; entry && entry.seq <= seq; entry = this._first) {
      this._drop();
      if (!entry.stored) this._unsafeBytes -= entry.size;
      if (entry.told) continue;
      entry.told = true;
      const reason = lossOf(ack, entry.seq);
      settled.push({ kind: "settled", entry, reason, certain: !reason || entry.unseen(ack, reason) });
    }
    if (!this.unsettled) this._expires = Infinity;
    this._advance();
    return settled;
  }

  /** A mailbox has everything up to `seq`: bodies are forgotten, the window moves on. */
  store(seq: number): StoredNumber[] {
    if (seq >= this.nextSeq || seq <= this.stored) return [];
    const first = this.stored + 1;
    this.stored = seq;
    const stored: StoredNumber[] = [];
    for (const entry of this.between(first, seq)) {
      if (entry.reason) continue;
      entry.stored = true;
      this._unsafeBytes -= entry.size;
      entry.empty();
      stored.push({ kind: "stored", entry });
    }
    return stored;
  }

  /** The mailbox has everything up to `kept`, though it has had more: its database is another one, or an older
   * one. Those bodies are gone; what their receiver has not got, it will hear, is lost. */
  forgotten(kept: number): Settled[] {
    const settled: Settled[] = [];
    for (const entry of this.between(kept + 1, this.stored)) {
      if (!entry.stored || entry.reason) continue;
      entry.reason = "storage_lost";
      this._conclude(entry, settled);
    }
    return settled;
  }

  /** The server handed one copy of each of these numbers to nobody (`wait`). */
  dropped(first: number, last: number): Settled[] {
    const settled: Settled[] = [];
    for (const entry of this.between(first, last)) {
      entry.relayed = NEVER;
      if (!entry.copies) continue;
      entry.copies -= 1;
      this._conclude(entry, settled);
    }
    this._advance();
    return settled;
  }

  /** The server tells which process answers for the receiver. What another one had received it does not
   * have. */
  meet(process: number): void {
    if (this.process && process !== this.process) this.received = this.base - 1;
    this.process = process;
    this.sure = true;
  }

  /** The server will never take this number: it is skipped. The copy it refused went nowhere. */
  refuse(seq: number, reason: LossReason = "refused"): Settled[] {
    const settled: Settled[] = [];
    for (const entry of this.between(seq, seq)) {
      entry.copies = Math.max(entry.copies - 1, 0);
      this._skip(entry, reason, settled);
    }
    this._advance();
    return settled;
  }

  /** Skip what has outlived its time. A stored number's time is the mailbox's matter. */
  expire(now: number): Settled[] {
    const settled: Settled[] = [];
    if (now < this._expires) return settled;
    this._expires = Infinity;
    for (const entry of this._all()) {
      if (entry.reason || entry.stored) continue;
      if (entry.expires <= now) this._skip(entry, "expired", settled);
      else this._expires = Math.min(this._expires, entry.expires);
    }
    this._advance();
    return settled;
  }

  /** The process gives up: every number not settled ends as lost, as certain as its copies say. */
  abandon(reason: string): Settled[] {
    const settled = this._all()
      .filter((entry) => !entry.told)
      .map((entry): Settled => {
        const certain = !entry.copies && !entry.stored;
        return { kind: "settled", entry, reason: entry.reason || reason, certain };
      });
    this._entries = [];
    this._head = this._unsafeBytes = 0;
    this._expires = Infinity;
    return settled;
  }

  private _skip(entry: Outgoing, reason: LossReason, settled: Settled[]): void {
    if (entry.reason || entry.stored) return;
    entry.reason = reason;
    this._unsafeBytes -= entry.size;
    entry.empty();
    this._conclude(entry, settled);
  }

  private _conclude(entry: Outgoing, settled: Settled[]): void {
    if (entry.copies || !entry.reason || entry.told) return;
    entry.told = true;
    settled.push({ kind: "settled", entry, reason: entry.reason, certain: true });
  }

  private _advance(): void {
    // Skipped numbers of which nobody has a copy need no acknowledgement: a receiver learns from `base` that they
    // are gone. Else an absent receiver would let them fill the window.
    for (let entry = this._first; entry?.told && !entry.copies; entry = this._first) this._drop();
  }

  // --- what leaves ----------------------------------------------------------------------------------

  /** Return what is to be sent of the numbers `first` … `last`, counting the copies. Stored numbers are the
   * mailbox's to send. `server`: it goes to the server; `store`: to be kept there. */
  transmit(first: number, last: number, now: number, server: boolean, store = false): (LinkMessage | Skip)[] {
    const messages: (LinkMessage | Skip)[] = [];
    const base = this.base;
    let run: Outgoing[] = [];
    const endRun = () => {
      const [from, to] = [run[0], run.at(-1)];
      if (from && to) messages.push(this._skips(from, to, store));
      run = [];
    };
    for (const entry of this.between(first, last)) {
      const safe = entry.stored && !entry.reason;
      if (run[0] && (entry.reason !== run[0].reason || safe)) endRun();
      if (safe) continue;
      entry.copies += 1;
      if (entry.sent === NEVER) entry.sent = now;
      if (server && entry.relayed === NEVER) entry.relayed = now;
      if (entry.reason) {
        // The skip may overtake a copy, which another process then gets.
        if (!server && entry.process !== NOBODY) entry.process = SEVERAL;
        run.push(entry);
        continue;
      }
      // Where a path other than the server's leads, the server has told at another time.
      entry.left(this.sure && server ? this.process : 0);
      messages.push(
        make("message", {
          ...entry.wire,
          run: this.run,
          seq: entry.seq,
          base,
          to: this.peer,
          lane: this.lane,
          ask: entry.ask,
          store,
          ttl: entry.expires === Infinity ? 0 : Math.max(Math.trunc((entry.expires - now) * 1000), 1),
          binary: entry.binary,
          data: entry.data,
        }),
      );
    }
    endRun();
    return messages;
  }

  /** A connection to the server begins: nothing has left on it. */
  forgetRelayed(): void {
    for (const entry of this._all()) entry.relayed = NEVER;
  }

  private _skips(first: Outgoing, last: Outgoing, store: boolean): Skip {
    return make("skip", {
      run: this.run,
      seq: first.seq,
      last: last.seq,
      base: this.base,
      reason: first.reason,
      to: this.peer,
      lane: this.lane,
      store,
    });
  }
}

function lossOf(ack: Ack | null, seq: number): string {
  return ack?.lost.find(([first, last]) => first <= seq && seq <= last)?.[2] ?? "";
}
