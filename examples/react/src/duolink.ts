/**
 * Hooks for duolink: a client, a link and a channel as parts of a component.
 *
 *     const client = useClient("ws://127.0.0.1:8080", { clientId: "alice" });
 *     const { messages, peer, send } = useLink<string>(client, "bob");
 *     const { state, present } = useChannel(client, "doc");
 *
 * React may mount, unmount and mount a component again in one go (StrictMode does it always, to show what an
 * effect forgets), and several components may want the same client or channel. So what a hook needs is shared
 * by its users, and ends a turn after the last of them has gone: one connection, one subscription, whatever
 * React does.
 */

import {
  Client,
  type ClientOptions,
  type Entry,
  type Event,
  type Message,
  type PeerState,
  type Subscription,
} from "duolink";
import { useEffect, useMemo, useState, useSyncExternalStore } from "react";

/** Messages and entries that are kept for showing; the oldest go. */
const KEPT = 200;

/** Things that several users share under one name. */
class Shared<T> {
  private readonly _things = new Map<string, { readonly thing: T; users: number }>();

  constructor(private readonly _end: (thing: T) => void) {}

  /** Return the thing of that name, made where there is none, and what its user calls when it goes. */
  use(name: string, make: () => T): readonly [thing: T, leave: () => void] {
    const entry = this._things.get(name) ?? { thing: make(), users: 0 };
    this._things.set(name, entry);
    entry.users += 1;
    const leave = () => {
      entry.users -= 1;
      setTimeout(() => {
        if (entry.users || this._things.get(name) !== entry) return;
        this._things.delete(name);
        this._end(entry.thing);
      });
    };
    return [entry.thing, leave];
  }
}

const clients = new Shared<Client>((client) => {
  client.close().catch((error) => console.warn(`duolink: ${error}`)); // messages that were not safe in time
});

/** Return a client, connected or on its way; null before the first effect has run. Its state is
 * `useClientState`'s. Another `url` or `clientId` is another client; the other options count when it is made. */
export function useClient(url: string, options: ClientOptions): Client | null {
  const [client, setClient] = useState<Client | null>(null);
  useEffect(() => {
    const [shared, leave] = clients.use(`${options.clientId} ${url}`, () => {
      const made = new Client(url, options);
      made.open().catch(() => {}); // `client.ending` says why; its state is `closed`
      return made;
    });
    setClient(shared);
    return () => {
      setClient(null);
      leave();
    };
  }, [url, options.clientId]);
  return client;
}

/** Return the state of a client's connection: connecting, online, reconnecting … */
export function useClientState(client: Client | null): Client["state"] {
  const subscribe = useMemo(
    () => (changed: () => void) =>
      client?.onEvent((event) => {
        if (event.kind === "state") changed();
      }) ?? (() => {}),
    [client],
  );
  return useSyncExternalStore(subscribe, () => client?.state ?? "idle");
}

/** Whether a client has been online: only then it has links. */
function useOpen(client: Client | null): boolean {
  useClientState(client);
  return Boolean(client?.welcome && client.state !== "closed");
}

/** A link as a component sees it. */
export interface LinkView<T> {
  /** What came, in order, each once; the newest 200. */
  readonly messages: readonly Message<T>[];
  /** Whether the peer is here, reconnecting or away. */
  readonly peer: PeerState;
  /** Send; the promise resolves when the peer's application has it, and rejects with `Lost`. */
  send(data: T): Promise<void>;
}

/** Follow the link to a peer. One component at a time reads a link: a message goes to one reader. */
export function useLink<T = unknown>(client: Client | null, peer: string): LinkView<T> {
  const open = useOpen(client);
  const [messages, setMessages] = useState<readonly Message<T>[]>([]);
  const [state, setState] = useState<PeerState>("away");
  useEffect(() => {
    if (!client || !open) return;
    const link = client.link(peer);
    setState(link.state);
    // Without a handler messages wait in the link: nothing is missed between two mounts.
    link.onMessage((message) => setMessages((kept) => [...kept, message as Message<T>].slice(-KEPT)));
    const stop = client.onEvent((event) => {
      if (event.kind === "peer" && event.peer === peer) setState(event.state);
    });
    return () => {
      stop();
      link.onMessage(null);
      setMessages([]);
    };
  }, [client, open, peer]);
  return {
    messages,
    peer: state,
    send: async (data) => {
      if (!client) throw new Error("no client yet");
      await (await client.link(peer).send(data)).delivered();
    },
  };
}

/** A subscription that components share: it has a copy of what it knows for each change. */
class Following {
  view: ChannelSnapshot = { entries: [], state: new Map(), present: new Set(), error: null };
  private readonly _listeners = new Set<() => void>();
  private readonly _stop: () => void;
  private _subscription: Subscription | null = null;
  private _ended = false;

  constructor(client: Client, name: string) {
    this._stop = client.onEvent((event) => this._happened(event, name));
    void this._follow(client, name);
  }

  private async _follow(client: Client, name: string): Promise<void> {
    try {
      const subscription = await client.channel(name).subscribe({ state: true, presence: true });
      this._subscription = subscription;
      if (this._ended) return subscription.close();
      this._changed({ state: valuesOf(subscription), present: subscription.present });
      for await (const item of subscription) {
        const entries =
          item.kind === "publication" ? [...this.view.entries, item].slice(-KEPT) : this.view.entries;
        this._changed({ entries, state: valuesOf(subscription) });
      }
    } catch (error) {
      if (!this._ended) this._changed({ error: error as Error });
    }
  }

  private _happened(event: Event, name: string): void {
    if (event.kind === "presence" && event.channel === name) this._changed({ present: event.present });
  }

  private _changed(change: Partial<ChannelSnapshot>): void {
    this.view = { ...this.view, ...change };
    for (const listener of this._listeners) listener();
  }

  readonly subscribe = (listener: () => void) => {
    this._listeners.add(listener);
    return () => void this._listeners.delete(listener);
  };

  end(): void {
    this._ended = true;
    this._stop();
    this._subscription?.close();
  }
}

function valuesOf(subscription: Subscription): ReadonlyMap<string, unknown> {
  return new Map(Array.from(subscription.state, ([name, set]) => [name, set.value]));
}

const channels = new WeakMap<Client, Shared<Following>>();

/** A channel as a component sees it. */
export interface ChannelSnapshot {
  /** What was published since the subscription stands; the newest 200. */
  readonly entries: readonly Entry[];
  /** The shared state: name → value. */
  readonly state: ReadonlyMap<string, unknown>;
  /** Who is subscribed. */
  readonly present: ReadonlySet<string>;
  /** Why there is no subscription (any more). */
  readonly error: Error | null;
}

const NOTHING: ChannelSnapshot = { entries: [], state: new Map(), present: new Set(), error: null };

/** Follow a channel: publications, shared state, presence. To write, use `client.channel(name)`. */
export function useChannel(client: Client | null, name: string): ChannelSnapshot {
  const open = useOpen(client);
  const [following, setFollowing] = useState<Following | null>(null);
  useEffect(() => {
    if (!client || !open) return;
    const shared = channels.get(client) ?? new Shared<Following>((each) => each.end());
    channels.set(client, shared);
    const [mine, leave] = shared.use(name, () => new Following(client, name));
    setFollowing(mine);
    return () => {
      setFollowing(null);
      leave();
    };
  }, [client, open, name]);
  return useSyncExternalStore(following?.subscribe ?? NEVER, () => following?.view ?? NOTHING);
}

const NEVER = () => () => {};
