/**
 * The receiving half of a link: every number once, in order, or as lost.
 *
 * One `Inbound` per lane of a sender's run. `expected` is the next number for the application, `finished` the
 * highest up to which it has finished with everything. What comes early is held, at most a window's worth.
 */

import { sizeOf } from "./codec.js";
import { ACK_DELAY, ACK_EVERY, GAP_PULL, MAX_LOST, PROBE_CAP } from "./limits.js";
import { type Ack, type LinkMessage, type LostRange, make, type Skip } from "./messages.js";

/** A number for the application, which says `finish(seq)` when it has finished with it. */
export interface Received {
  readonly kind: "received";
  readonly lane: string;
  readonly message: LinkMessage;
}

/** Numbers `first` … `last` of a lane's run that will never come, in their place of the sequence. */
export interface Lost {
  readonly kind: "lost";
  readonly lane: string;
  readonly run: number;
  readonly first: number;
  readonly last: number;
  readonly reason: string;
}

/** A number beyond the window granted: a protocol error on a path whose credit the receiver grants. */
export class BeyondCredit extends Error {}

/** One lane's numbers of one run, from the receiver's side. */
export class Inbound {
  expected: number;
  finished: number;
  /** When an acknowledgement is due. */
  ackAt = Infinity;
  /** When the hole is asked for. */
  pullAt = Infinity;
  want = false;
  private readonly _held = new Map<number, LinkMessage | Skip>();
  private _heldBytes = 0;
  private _first: number; // where it began
  private _done = new Set<number>();
  private _lost: LostRange[] = [];
  private _ask = 0; // an acknowledgement is wanted once this number is finished
  private _unacknowledged = 0;
  private _pullWait = GAP_PULL;

  constructor(
    readonly lane: string,
    readonly run: number,
    base: number,
    public window: number,
    public windowBytes: number,
  ) {
    this.expected = this._first = base;
    this.finished = base - 1;
  }

  /** An earlier process of this receiver has told these as lost, and the sender may not have heard. */
  inherit(lost: readonly LostRange[]): void {
    const known = new Set(this._lost.map(([first]) => first));
    this._lost.push(...lost.filter(([first, last]) => last <= this.finished && !known.has(first)));
    this._lost.sort(([one], [other]) => one - other);
    this._boundLost();
  }

  // --- what comes ---------------------------------------------------------------------------------

  /** Take a message. Returns what the application gets now, in order: nothing for a repeat or what lies
   * beyond a hole. `granting`: it came by a path whose credit this receiver grants, and a number beyond it
   * throws `BeyondCredit`. Elsewhere, what lies beyond the window is dropped: it comes again. */
  message(message: LinkMessage, now: number, granting = false): (Received | Lost)[] {
    const seq = message.seq;
    if (seq === this.expected && !this._held.size && message.base <= seq) {
      this.expected = seq + 1;
      this._forgetLost(message.base);
      this._count(seq, message.ask);
      return [{ kind: "received", lane: this.lane, message }];
    }
    const admitted = this._admit(seq, message.base, granting);
    const items = this._rebase(message.base);
    if (seq < this.expected || this._held.has(seq)) {
      this.ackAt = now; // a repeat: its sender has not heard of the first
      return this._release(now, items);
    }
    const size = sizeOf(message.data);
    const crowded = seq > this.expected && this._heldBytes + size > this.windowBytes;
    if (crowded || !admitted) return this._release(now, items);
    this._held.set(seq, message);
    this._heldBytes += size;
    this._count(seq, message.ask);
    return this._release(now, items);
  }

  /** Take numbers that will not come. Those that have come already stay what they are. */
  skip(skip: Skip, now: number, granting = false): (Received | Lost)[] {
    const last = Math.min(skip.last, skip.seq + this.window); // no sender skips more than its window at once
    const admitted = this._admit(last, skip.base, granting);
    const items = this._rebase(skip.base);
    if (!admitted) return this._release(now, items);
    for (let seq = Math.max(skip.seq, this.expected); seq <= last; seq++) {
      if (!this._held.has(seq)) this._held.set(seq, skip);
    }
    this.ackAt = now;
    return this._release(now, items);
  }

  /** The sender has sent up to `seq` and wants to know. */
  probe(seq: number, base: number, now: number): (Received | Lost)[] {
    const items = this._release(now, this._rebase(base));
    this.want = seq >= this.expected;
    this.ackAt = now;
    return items;
  }

  /** A durable server begins to hand over at `start`: what is below and has not come will not come. That is
   * told as lost, since the sender may not know it; not by a lane to which nothing has come yet: it begins
   * there, as an earlier process of this receiver has finished with what is below. */
  begin(start: number, now: number): (Received | Lost)[] {
    if (this.expected === this._first && this._first < start && !this._held.size) {
      this.expected = this._first = start;
      this.finished = start - 1;
    }
    const items: (Received | Lost)[] = [];
    this._pass(start, items, true);
    return this._release(now, items);
  }

  /** The sender's next run begins: hand over what is held, and the holes as lost. */
  end(): (Received | Lost)[] {
    const items: (Received | Lost)[] = [];
    while (this._held.size) {
      const first = this.expected;
      this.expected = Math.min(...this._held.keys());
      items.push(this._lose(first, this.expected - 1, "sender_restarted"));
      this._release(0, items);
    }
    return items;
  }

  private _admit(seq: number, base: number, granting: boolean): boolean {
    const limit = Math.max(this.finished, base - 1) + this.window;
    if (granting && seq > limit) {
      throw new BeyondCredit("a number beyond the credit");
    }
    return seq < Math.max(this.expected, base) + this.window;
  }

  private _rebase(base: number): (Received | Lost)[] {
    this._forgetLost(base);
    const items: (Received | Lost)[] = [];
    this._pass(base, items, false); // the sender has settled these and forgotten them: nothing to tell it
    return items;
  }

  /** Go on at `next`: hand over what is held below, and the holes as gone; `tell` the sender of these. */
  private _pass(next: number, items: (Received | Lost)[], tell: boolean): void {
    if (next <= this.expected) return;
    const below = [...this._held.keys()].filter((held) => held < next).sort((one, other) => one - other);
    for (const seq of [...below, next]) {
      if (this.expected < seq) items.push(this._lose(this.expected, seq - 1, "gone", tell));
      if (seq < next) this._take(seq, items);
    }
  }

  private _release(now: number, items: (Received | Lost)[]): (Received | Lost)[] {
    const before = items.length;
    while (this._held.has(this.expected)) this._take(this.expected, items);
    if (!this._held.size) {
      this.pullAt = Infinity;
      this._pullWait = GAP_PULL;
    } else if (items.length > before || this.pullAt === Infinity) this.pullAt = now + this._pullWait;
    return items;
  }

  private _take(seq: number, items: (Received | Lost)[]): void {
    const held = this._held.get(seq) as LinkMessage | Skip;
    this._held.delete(seq);
    this.expected = seq + 1;
    if (held.type === "message") {
      this._heldBytes -= sizeOf(held.data);
      items.push({ kind: "received", lane: this.lane, message: held });
    } else items.push(this._lose(seq, seq, held.reason));
  }

  /** The oldest ranges too many become one: to leave them out would call all of them delivered. */
  private _boundLost(): void {
    const spare = this._lost.length - MAX_LOST;
    if (spare <= 0) return;
    const oldest = this._lost.splice(0, spare + 1);
    const last = Math.max(...oldest.map((lost) => lost[1]));
    this._lost.unshift([(oldest[0] as LostRange)[0], last, "unclear"]);
  }

  private _lose(first: number, last: number, reason: string, tell = true): Lost {
    const before = this._lost.at(-1);
    if (!tell) {
      // not to be told
    } else if (before && before[1] === first - 1 && before[2] === reason) {
      this._lost[this._lost.length - 1] = [before[0], last, reason];
    } else {
      this._lost.push([first, last, reason]);
      this._boundLost();
    }
    this.expected = last + 1;
    if (last - first < this.window) this._finishAll(first, last);
    else {
      // So far ahead that nothing before it can be of interest to the sender.
      this.finished = last;
      this._done = new Set([...this._done].filter((seq) => seq > last));
    }
    return { kind: "lost", lane: this.lane, run: this.run, first, last, reason };
  }

  private _forgetLost(base: number): void {
    const oldest = this._lost[0];
    if (oldest && oldest[1] < base) this._lost = this._lost.filter(([, last]) => last >= base);
  }

  // --- what the application does --------------------------------------------------------------------

  /** The application has finished with a number it was handed; in any order, repeats are harmless. */
  finish(seq: number, now: number): void {
    if (!(this.finished < seq && seq < this.expected)) return;
    this._finishAll(seq, seq);
    if (this._unacknowledged >= ACK_EVERY || (this._ask > 0 && this._ask <= this.finished)) this.ackAt = now;
    else this.ackAt = Math.min(this.ackAt, now + ACK_DELAY);
  }

  private _finishAll(first: number, last: number): void {
    for (let seq = first; seq <= last; seq++) this._done.add(seq);
    while (this._done.delete(this.finished + 1)) this.finished += 1;
  }

  private _count(seq: number, ask: boolean): void {
    this._unacknowledged += 1;
    if (ask) this._ask = Math.max(this._ask, seq);
  }

  // --- acknowledgements -----------------------------------------------------------------------------

  /** The highest number this receiver takes: its credit on a direct path. */
  get limit(): number {
    return this.finished + this.window;
  }

  /** Whether an acknowledgement is due. A hole that is old enough makes it one that asks. */
  poll(now: number): boolean {
    if (now >= this.pullAt) {
      this._pullWait = Math.min(2 * this._pullWait, PROBE_CAP);
      this.pullAt = now + this._pullWait;
      this.want = true;
      this.ackAt = now;
    }
    return now >= this.ackAt;
  }

  /** Whether the cursor alone says everything, so that it can ride on a message. */
  mayRide(): boolean {
    return !this._lost.length && !this.want;
  }

  /** The cursor has left on a message: no acknowledgement of its own is due. */
  rode(): void {
    this.ackAt = Infinity;
    this.want = false;
    this._unacknowledged = 0;
    if (this._ask <= this.finished) this._ask = 0;
  }

  /** Make this process's (its run's) acknowledgement, which is no longer due then. `user`: of what was sent
   * to that user. `granting` adds the credit. */
  ack(peer: string, process: number, user = "", granting = false): Ack {
    const received = this.expected - 1;
    const cursor = this.finished;
    const lost = this._lost
      .filter(([first]) => first <= cursor)
      .map(([first, last, reason]): LostRange => [first, Math.min(last, cursor), reason]);
    const ack = make("ack", {
      run: this.run,
      seq: cursor,
      to: peer,
      lane: this.lane,
      received: received > cursor ? received : 0,
      want: this.want,
      limit: granting ? this.limit : 0,
      lost,
      by: lost.length ? process : 0,
      user,
    });
    this.rode();
    return ack;
  }
}
