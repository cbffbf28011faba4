/** A channel, as an application sees it: publish, subscribe, history, presence, shared state. */

import type { Client } from "./client.js";
import { CommandTimeout } from "./errors.js";
import type { ChannelGap } from "./events.js";
import { checkKey, compareIds, impossible, isCount, isId } from "./protocol/codec.js";
import { MAX_HISTORY_PAGE, MAX_STATE_NAME } from "./protocol/limits.js";
import { type MessageOf, make, type HistoryPage as Page } from "./protocol/messages.js";
import type { Position } from "./publication.js";
import { type Entry, entryOf, type StateSet } from "./state.js";
import { type SubscribeOptions, Subscription } from "./subscription.js";

/** Seconds a command waits for the server's answer, connections lost and regained included. */
const COMMAND_TIMEOUT = 60;

/** `timeout`: seconds a command waits for the server's answer. */
export interface CommandOptions {
  readonly timeout?: number;
}

/** `key`: one's own, that makes repeated calls (for 5 minutes) one. */
export interface PublishOptions extends CommandOptions {
  readonly key?: string;
}

/** `expect`: it counts only if the name has that version now (0: is not there). */
export interface SetOptions extends PublishOptions {
  readonly expect?: number | undefined;
}

/** Which part of the log: those after `since`, else the newest; up to `limit`. */
export interface HistoryOptions extends CommandOptions {
  readonly limit?: number;
  readonly since?: Position | undefined;
}

/** A piece of a channel's log. `top` is its newest position, `gap` what was asked for and is gone. */
export interface HistoryPage {
  readonly publications: readonly Entry[];
  readonly top: Position;
  readonly gap: ChannelGap | null;
}

/** Takes the data of what was sent outside the log, and who sent it. */
export type ChannelHandler = (data: unknown, sender: string) => unknown;

/** A named publish/subscribe topic. Made by `client.channel(name)`.
 *
 *     const channel = client.channel("doc");
 *     await channel.publish({ text: "hi" });
 *     for await (const item of channel) console.log(item);
 *
 * It may have shared state, names with values; `subscribe({ state: true })` follows it:
 *
 *     const version = await channel.set("title", { text: "Plan" });       // the last write counts
 *     await channel.set("title", { text: "B" }, { expect: version });     // Conflict if another was faster
 *     await channel.set("lock", "alice", { expect: 0 });                  // Conflict if it is there
 *     await channel.delete("lock"); */
export class Channel implements AsyncIterable<Entry | ChannelGap> {
  /** @internal */
  _onEphemeral: ChannelHandler | null = null;

  /** @internal */
  constructor(
    private readonly _client: Client,
    readonly name: string,
  ) {}

  /** Append to the channel; return where. It is appended once, over as many connections as it takes. Throws
   * `CommandFailed` (`uncertain`: nobody knows whether it was), `CommandTimeout`, `InvalidData`,
   * `ClientClosed`. */
  async publish(data: unknown, options: PublishOptions = {}): Promise<Position> {
    const message = make("publish", {
      id: 0,
      channel: this.name,
      key: this._key(options),
      ...this._body(data),
    });
    const { answer } = await this._client._command(message, options.timeout ?? COMMAND_TIMEOUT);
    const { epoch, offset } = answer as MessageOf<"published">;
    return { epoch, offset };
  }

  private _key({ key = "" }: PublishOptions): string {
    return checkKey(key) || this._client._newName();
  }

  private _body(value: unknown): { data: unknown; binary: boolean } {
    const data = this._client._encode(value);
    return { data, binary: data instanceof Uint8Array };
  }

  /** Give a name of the shared state a value; return its version. It is done once, as a publication is
   * appended. Throws `Conflict` (another version is there, and nothing was done), `CommandFailed`
   * (`state_full`: no room for it), `CommandTimeout`, `InvalidData`, `ClientClosed`, `RangeError` for an
   * impossible name. */
  async set(name: string, value: unknown, options: SetOptions = {}): Promise<number> {
    return this._write(name, this._body(value), options);
  }

  /** Take a name out of the shared state. What is not there may be deleted. Throws as `set` does. */
  async delete(name: string, options: SetOptions = {}): Promise<void> {
    await this._write(name, { deleted: true }, options);
  }

  private async _write(name: string, what: object, options: SetOptions): Promise<number> {
    const { expect } = options;
    if (!isId(name, MAX_STATE_NAME)) throw impossible("name", name);
    if (expect !== undefined && !isCount(expect)) {
      throw impossible("version", expect);
    }
    const message = make("set", {
      id: 0,
      channel: this.name,
      name,
      key: this._key(options),
      expect,
      ...what,
    });
    const { answer } = await this._client._command(message, options.timeout ?? COMMAND_TIMEOUT);
    return (answer as MessageOf<"published">).offset;
  }

  /** Return the shared state as it is now, by a subscription that is gone again afterwards. Throws
   * `CommandFailed`, `CommandTimeout`, `ClientClosed`, and `Busy` where there is a subscription: use its
   * `state`. */
  async state({ timeout = COMMAND_TIMEOUT }: CommandOptions = {}): Promise<ReadonlyMap<string, StateSet>> {
    const subscription = new Subscription(this._client, this.name, { state: true });
    await subscription._open((joined) => joined.expire(timeout, () => timedOut(timeout)));
    subscription.close();
    return subscription.state;
  }

  /** Return a piece of the log. Throws `CommandFailed`, `CommandTimeout`, `ClientClosed`, `RangeError` for
   * an impossible limit. */
  async history(options: HistoryOptions = {}): Promise<HistoryPage> {
    const { limit = 100, since, timeout = COMMAND_TIMEOUT } = options;
    if (!isCount(limit, MAX_HISTORY_PAGE)) {
      throw impossible("limit", limit);
    }
    const where = since ? { epoch: since.epoch, offset: since.offset } : { last: true };
    const message = make("history", { id: 0, channel: this.name, limit, ...where });
    const { answer, publications } = await this._client._command(message, timeout);
    const { epoch, offset, gap } = answer as Page;
    return {
      publications: publications.map((each) => entryOf(each, epoch)),
      top: { epoch, offset },
      gap: gap && { kind: "gap", channel: this.name, ...gap, epoch, offset },
    };
  }

  /** Return who is subscribed; of very many (thousands) as many as fit into one message. Throws
   * `CommandFailed`, `CommandTimeout`, `ClientClosed`. */
  async presence({ timeout = COMMAND_TIMEOUT }: CommandOptions = {}): Promise<string[]> {
    const { answer } = await this._client._command(make("presence", { id: 0, channel: this.name }), timeout);
    return [...(answer as MessageOf<"presence_list">).clients].sort(compareIds);
  }

  /** Send to the subscribers at most once, outside the log. Returns whether it left. */
  ephemeral(data: unknown): boolean {
    return this._client._sendOnce(make("ephemeral", { channel: this.name, ...this._body(data) }));
  }

  /** Hand (data, sender) of what is sent outside the log to a function. */
  onEphemeral(handler: ChannelHandler | null): void {
    this._onEphemeral = handler;
  }

  /** Subscribe; resolves when the subscription stands. It may be asked for before the client is opened, and
   * then goes with the first hello. Throws `CommandFailed`, `ClientClosed`, `Busy` where there is one
   * already. */
  async subscribe(options: SubscribeOptions = {}): Promise<Subscription> {
    return new Subscription(this._client, this.name, options)._open();
  }

  /** Iterate over the subscription there is, or over one for the length of the loop. */
  [Symbol.asyncIterator](): Subscription {
    return this._client._subscriptions.get(this.name) ?? new Subscription(this._client, this.name, {});
  }
}

/** What a command ends with that has no answer. */
export function timedOut(seconds: number): CommandTimeout {
  return new CommandTimeout(`no answer within ${seconds} s`);
}
