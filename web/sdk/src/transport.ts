/** The border between a client and its sockets: what a transport can do, what it tells its user, and how a
 * WebSocket is one. */

import { ABNORMAL, MESSAGE_TOO_BIG, NORMAL } from "./protocol/codes.js";
import { MAX_PAYLOAD, MAX_REASON } from "./protocol/limits.js";

/** Bytes unsent above which a transport is congested, and applications wait: one full payload. */
const WRITE_HIGH = 1024 * 1024;

/** Bytes unsent below which it is not any more. */
const WRITE_LOW = 256 * 1024;

/** One open transport that carries whole payloads: texts, and bytes. No method throws because the far end
 * has gone. */
export interface Transport {
  /** Whether more is unsent than is good. Once it was, it is until most has left; nobody tells when. */
  readonly congested: boolean;
  /** Send a payload; nothing happens once the transport is closing. */
  send(payload: string | Uint8Array): void;
  /** Close in order: what was sent goes out first. Of what comes then, only `gone` is told. */
  close(code: number, reason: string): void;
  /** Cut the connection off now. */
  abort(): void;
}

/** Who listens to transports. Every call names its transport, so that an earlier one's are known. */
export interface TransportUser {
  opened(transport: Transport): void;
  /** A whole payload came. */
  received(transport: Transport, payload: string | Uint8Array): void;
  /** The connection has ended, or could not be opened; `code` is the far end's close code, or 1006. */
  closed(transport: Transport, code: number, reason: string): void;
  /** Nothing is left of it, or nobody waits for it any more. It may be said again when the socket has closed. */
  gone(transport: Transport): void;
}

/** Opens a transport: `opened` follows, or `closed`. May throw instead. */
export type Dial = (user: TransportUser) => Transport;

/** As much of a WebSocket as is used; the browser's, Node's, and that of the package `ws` are such. */
export interface WebSocketLike {
  binaryType: string;
  readonly readyState: number;
  readonly bufferedAmount: number;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number, reason?: string): void;
  // biome-ignore lint/suspicious/noExplicitAny: the event types of the implementations differ
  addEventListener(type: any, listener: (event: any) => void): void;
  /** Only the package `ws` has it. */
  terminate?(): void;
}

export type WebSocketConstructor = new (url: string, protocols: string) => WebSocketLike;

/** The subprotocol of docs/protocol.md §1. */
const SUBPROTOCOL = "duolink";

/** WebSocket.OPEN; those that end are above it. */
const OPEN = 1;

/** A WebSocket as a transport. */
class WebSocketTransport implements Transport {
  private readonly _socket: WebSocketLike;
  private _open = false; // it was
  private _ended = false; // the user has heard `closed`, or asked for it
  private _congested = false;
  private _trouble = "";

  constructor(
    url: string,
    Socket: WebSocketConstructor,
    private readonly _user: TransportUser,
  ) {
    const socket = new Socket(url, SUBPROTOCOL);
    this._socket = socket;
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => {
      this._open = true;
      if (!this._ended) this._user.opened(this);
    });
    socket.addEventListener("message", ({ data }) => this._received(data));
    // A browser does not say what went wrong; others do.
    socket.addEventListener("error", ({ message }) => {
      this._trouble = message ?? "";
      if (this._open) return;
      // `close` should follow, but of a socket that could not be opened Node's tells only this.
      this._end(ABNORMAL, this._trouble);
    });
    socket.addEventListener("close", ({ code, reason }) => {
      this._end(code || ABNORMAL, reason || this._trouble);
    });
  }

  get congested(): boolean {
    this._congested = this._socket.bufferedAmount > (this._congested ? WRITE_LOW : WRITE_HIGH);
    return this._congested;
  }

  send(payload: string | Uint8Array): void {
    // A browser complains of what is sent to a socket that it has closed but not yet told of: on waking, say.
    if (!(this._ended || this._socket.readyState > OPEN)) this._socket.send(payload as string);
  }

  close(code: number, reason: string): void {
    this._ended = true;
    // A browser takes 1000 and those from 3000 on only (HTML, WebSocket.close).
    if (code === NORMAL || code >= 3000) this._socket.close(code, reason.slice(0, MAX_REASON / 3));
    else this._socket.close();
  }

  abort(): void {
    if (this._socket.terminate) this._socket.terminate();
    else this._socket.close();
    // A browser would wait for the far end's answer, which may never come.
    this._end(ABNORMAL, "cut off");
  }

  private _received(data: string | ArrayBuffer): void {
    if (this._ended) return;
    const payload = typeof data === "string" ? data : new Uint8Array(data);
    if (payload.length > MAX_PAYLOAD) {
      this._socket.close();
      this._end(MESSAGE_TOO_BIG, "too large");
    } else this._user.received(this, payload);
  }

  private _end(code: number, reason: string): void {
    if (!this._ended) {
      this._ended = true;
      this._user.closed(this, code, reason);
    }
    this._user.gone(this);
  }
}

/** Return what opens WebSockets to a URL. */
export function dialler(url: string, Socket: WebSocketConstructor): Dial {
  return (user) => new WebSocketTransport(url, Socket, user);
}
