/** Requests and their answers: those this client waits for, and those it serves. */

import type { Client } from "./client.js";
import { Deferred } from "./deferred.js";
import { InvalidData, RequestFailed } from "./errors.js";
import { Message, valueIn } from "./message.js";
import { MAX_REASON } from "./protocol/limits.js";
import type { LinkMessage } from "./protocol/messages.js";
import type { MessageHandler } from "./stream.js";

/** A client's requests. An answer is an ordinary message of the reverse link. */
export class Requests {
  private readonly _waiting = new Map<string, Deferred<unknown>>();

  constructor(private readonly _client: Client) {}

  // --- asking ---------------------------------------------------------------------------------------

  /** Return a name for a request, and where its answer will be. */
  begin(): [name: string, answer: Deferred<unknown>] {
    const name = this._client._newName();
    const answer = new Deferred<unknown>();
    this._waiting.set(name, answer);
    return [name, answer];
  }

  /** Nobody waits for this answer any more. */
  forget(name: string): void {
    this._waiting.delete(name);
  }

  /** Take an answer; one that nobody waits for is dropped. */
  answered(raw: LinkMessage): void {
    const answer = this._waiting.get(raw.reply);
    if (raw.failed) answer?.reject(new RequestFailed(String(raw.data)));
    else answer?.resolve(valueIn(raw.data));
  }

  /** The client is closed. */
  end(ending: Error): void {
    for (const answer of this._waiting.values()) answer.reject(ending);
  }

  // --- serving --------------------------------------------------------------------------------------

  /** Take the requests of a peer that came before their handler. */
  serveHeld(peer: string, handler: MessageHandler): void {
    const inbox = this._client._post.inbox(peer);
    const held = inbox.items.filter((item): item is Message => item instanceof Message && item.wantsAnswer);
    inbox.items = inbox.items.filter((item) => !(held as unknown[]).includes(item));
    for (const message of held) this.serve(message, handler);
  }

  /** Have a request answered by a handler. */
  serve(message: Message, handler: MessageHandler): void {
    if (message.overdue) return message.ack();
    let result: unknown;
    try {
      result = handler(message);
    } catch (error) {
      return this._failed(message, error);
    }
    if (typeof (result as PromiseLike<unknown> | null)?.then !== "function")
      return this._done(message, result);
    (result as PromiseLike<unknown>).then(
      (answer) => this._done(message, answer),
      (error) => this._failed(message, error),
    );
  }

  private _done(message: Message, answer: unknown): void {
    if (this._client._ended) return;
    try {
      if (message.wantsAnswer) message.reply(answer === undefined ? null : answer);
    } catch (error) {
      if (!(error instanceof InvalidData)) throw error;
      return this._failed(message, error);
    }
    message.ack();
  }

  private _failed(message: Message, error: unknown): void {
    // What a handler means for the peer it says by throwing `RequestFailed`; other texts may hold secrets.
    const meant = error instanceof RequestFailed;
    if (!meant) this._client._report("request handler", error);
    if (message.wantsAnswer)
      message.fail(meant ? error.message.slice(0, MAX_REASON).replace(/\p{Cs}/gu, "") : "the handler failed");
    message.ack();
  }
}
