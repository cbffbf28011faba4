/** How far an outbound lane has been sent on each path, and when the sender asks what became of it. */

import { PROBE_AFTER, STORE_AFTER } from "./limits.js";
import { NEVER, type Outbound } from "./outbound.js";
import type { PathChoice } from "./paths.js";

/** The name of the path through the server; others are named by their driver. */
export const SERVER = "server";

/** The paths of a link that has only this one: it is trusted while it stands, and needs no pings. */
export class ServerPath implements PathChoice {
  some = false;

  has(name: string): boolean {
    return this.some && name === SERVER;
  }

  names(): string[] {
    return this.some ? [SERVER] : [];
  }

  open(): void {
    this.some = true;
  }

  close(): void {
    this.some = false;
  }

  pong(): void {}

  choose(): string[] {
    return this.names();
  }

  poll(): [] {
    return [];
  }

  nextTimer(): number {
    return Infinity;
  }
}

/** Seconds after which a sender that was told to wait tries again unasked, with one number: an answer to an
 * earlier copy may have overtaken `peer`. Doubled each time, up to the cap. */
const KNOCK_AFTER = 2;
export const KNOCK_CAP = 30;

/** An outbound lane and how far it has been sent on each path. */
export class Sending {
  /** Path → next number to send. */
  readonly cursors = new Map<string, number>();
  /** The server said wait for this number: it is the first to be sent there again … */
  held = 0;
  /** … not before this time, and then alone; 0: nothing is held. */
  heldUntil = 0;
  knock = KNOCK_AFTER;
  probeAt = Infinity;
  probeWait = PROBE_AFTER;
  /** Highest number sent on any path. */
  top = 0;
  /** When something will not have been acknowledged in time: a mailbox is to have it. */
  storeAt = Infinity;
  /** Up to where this connection's server was asked to store. */
  kept = 0;

  constructor(readonly outbound: Outbound) {}

  /** Send again, on one path or all, what the receiver has not got. */
  rewind(path?: string): void {
    if (path === undefined) this.cursors.clear();
    else this.cursors.delete(path);
  }

  /** The server did not take `seq`: go on from there. */
  backTo(seq: number): void {
    const cursor = this.cursors.get(SERVER);
    if (cursor !== undefined) this.cursors.set(SERVER, Math.min(cursor, seq));
  }

  /** Another connection to the server: it has refused nothing yet, and nothing has left on it. */
  reconnected(now: number): void {
    this.rewind(SERVER);
    this.release(now);
    this.outbound.sure = false;
    this.outbound.forgetRelayed();
    this.held = this.kept = 0;
    this.storeAt = Infinity;
  }

  /** The numbers that a server should have by now and does not, as [number, to be stored]: those that have
   * not left to it yet, and those that have and were not acknowledged. Sets `storeAt` for the next. */
  overdue(now: number): [seq: number, store: boolean][] {
    const due: [number, boolean][] = [];
    const outbound = this.outbound;
    this.storeAt = Infinity;
    const first = Math.max(outbound.base, outbound.stored + 1, this.kept + 1);
    for (const entry of outbound.between(first, this.top)) {
      const relayed = entry.relayed !== NEVER;
      const since = relayed ? entry.relayed : entry.sent;
      if (since + STORE_AFTER > now) {
        this.storeAt = since + STORE_AFTER;
        break;
      }
      due.push([entry.seq, relayed]);
      if (!relayed) this.storeAt = now + STORE_AFTER;
      else if (this.storeAt === Infinity) this.kept = entry.seq;
    }
    return due;
  }

  /** Send nothing to the server until it says that the peer is here, then go on from `seq`. */
  hold(seq: number, now: number): void {
    this.backTo(seq);
    this.held = Math.min(this.held || seq, seq);
    this.kept = Math.min(this.kept, seq - 1); // it may have to be asked for again
    if (!this.heldUntil) this.heldUntil = now + this.knock;
  }

  /** The server may be sent to again; what then leaves is probed for in good time. */
  release(now: number): void {
    if (!this.heldUntil) return;
    this.heldUntil = 0;
    this.knock = KNOCK_AFTER;
    this.probeWait = PROBE_AFTER;
    this.probeAt = now + this.probeWait;
  }
}
