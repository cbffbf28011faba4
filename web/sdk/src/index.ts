/**
 * duolink: a real-time link between clients. Every message arrives once, in order, or is named as lost.
 *
 *     const client = await connect("ws://127.0.0.1:8080", { clientId: "alice" });
 *     const link = client.link("bob");
 *     await link.send({ hi: 1 });
 *     for await (const message of link) console.log(message.data);
 *
 * Times are seconds, except where a name says `time`: those are milliseconds since 1970.
 */

export {
  Channel,
  type ChannelHandler,
  type CommandOptions,
  type HistoryOptions,
  type HistoryPage,
  type PublishOptions,
  type SetOptions,
} from "./channel.js";
export { Client, type ClientOptions, connect } from "./client.js";
export type { Token } from "./driver.js";
export {
  Busy,
  ClientClosed,
  CommandFailed,
  CommandTimeout,
  Conflict,
  DuolinkError,
  InvalidData,
  Lost,
  Refused,
  RequestFailed,
  RequestTimeout,
  Unreachable,
  Unsettled,
  WindowFull,
} from "./errors.js";
export type {
  ChannelGap,
  Event,
  HandlerFailed,
  MessagesLost,
  PeerChanged,
  PresenceChanged,
  State,
  StateChanged,
  SubscriptionEnded,
  Trouble,
} from "./events.js";
export { type DataHandler, Link, type RequestOptions, type SendOptions } from "./link.js";
export { type Fate, Message, Sent } from "./message.js";
export type { LossReason, PeerState } from "./protocol/codes.js";
export type { Options } from "./protocol/options.js";
export { type Position, Publication } from "./publication.js";
export { type Entry, StateDeleted, StateSet } from "./state.js";
export { EventStream, type Item, type MessageHandler, MessageStream, type ReadOptions } from "./stream.js";
export { type SubscribeOptions, Subscription } from "./subscription.js";
export type { WebSocketConstructor, WebSocketLike } from "./transport.js";
