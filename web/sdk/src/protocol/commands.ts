/** A client's commands that wait for an answer, over as many connections as it takes. */

import type { Answered } from "./events.js";
import { MAX_PENDING } from "./limits.js";
import { type HistoryPage, type Message, type MessageOf, make, type Publication } from "./messages.js";

export type Command = MessageOf<"publish" | "set" | "history" | "presence" | "refresh">;

class Pending {
  since: number | null = null; // when it was first sent
  page: HistoryPage | null = null;
  publications: Publication[] = [];

  constructor(
    readonly message: Command,
    readonly context: unknown,
  ) {}
}

/** The commands without an answer. All of them may be sent again: a publish and a set by their key, the
 * others because they change nothing. */
export class Commands {
  private readonly _pending = new Map<number, Pending>();

  /** Whether a command has no answer yet. */
  has(id: number): boolean {
    return this._pending.has(id);
  }

  /** Remember a command by its id. Throws `RangeError` where `MAX_PENDING` have no answer yet. */
  add(message: Command, context: unknown): void {
    if (this._pending.size >= MAX_PENDING) throw new RangeError();
    this._pending.set(message.id, new Pending(message, context));
  }

  /** The commands to send: one, or on a new connection all. A retry says how old it is. */
  send(now: number, id?: number): Message[] {
    const messages: Message[] = [];
    for (const [each, pending] of this._pending) {
      if (id !== undefined && each !== id) continue;
      const message = pending.message;
      if (pending.since === null) pending.since = now;
      else if ("age" in message) message.age = Math.max(Math.trunc((now - pending.since) * 1000), 1);
      pending.page = null;
      pending.publications = [];
      messages.push(message);
    }
    return messages;
  }

  /** Nobody waits for this command's answer any more. */
  forget(context: unknown): void {
    for (const [id, pending] of this._pending) if (pending.context === context) this._pending.delete(id);
  }

  /** Take an answer; null if nobody waits for it. */
  answer(id: number, answer: Message): Answered | null {
    const pending = this._pending.get(id);
    if (!pending) return null;
    this._pending.delete(id);
    return { kind: "answered", context: pending.context, answer, publications: pending.publications };
  }

  /** Take the head of a history answer. */
  page(page: HistoryPage): Answered | null {
    const pending = this._pending.get(page.id);
    if (!pending) return null;
    pending.page = page;
    return page.count ? null : this.answer(page.id, page);
  }

  /** Take one publication of it. */
  entry(publication: Publication): Answered | null {
    const pending = this._pending.get(publication.page);
    if (!pending?.page) return null;
    pending.publications.push(publication);
    if (pending.publications.length < pending.page.count) return null;
    return this.answer(publication.page, pending.page);
  }

  /** The client is closed: whoever still waits hears that. */
  abandon(reason: string): Answered[] {
    const answer = make("error", { code: "closed", message: reason || "the client was closed" });
    const ended = [...this._pending.values()].map(
      (pending): Answered => ({ kind: "answered", context: pending.context, answer, publications: [] }),
    );
    this._pending.clear();
    return ended;
  }
}
