/**
 * A network that can be switched off, for one client: the WebSocket class that is handed to the SDK.
 *
 * Off, what is open ends as a broken connection does (1006, at once, and what is under way does not arrive),
 * and what is opened fails. A page cannot break TCP off: underneath, the socket is closed with a close frame
 * without a code. The server takes that for a lost connection, too: no goodbye came before it.
 */

import type { WebSocketConstructor, WebSocketLike } from "duolink";

// biome-ignore lint/suspicious/noExplicitAny: as in the SDK, the events of implementations differ
type Listener = (event: any) => void;

/** What the SDK is told of a connection that broke off. */
const BROKEN = { code: 1006, reason: "the network is off" };

/** Switches the network of whoever uses its `WebSocket`. */
export class NetworkSwitch {
  /** To be passed to the SDK. */
  readonly WebSocket: WebSocketConstructor;
  private _on = true;
  private readonly _sockets = new Set<SwitchedSocket>();

  /** `Platform`: the class that opens real ones. */
  constructor(Platform: WebSocketConstructor) {
    const open = (url: string, protocols: string) => (this._on ? new Platform(url, protocols) : null);
    const sockets = this._sockets;
    this.WebSocket = class extends SwitchedSocket {
      constructor(url: string, protocols: string) {
        super(open(url, protocols), sockets);
      }
    };
  }

  get on(): boolean {
    return this._on;
  }

  set on(on: boolean) {
    if (on === this._on) return;
    this._on = on;
    if (!on) for (const socket of [...this._sockets]) socket.breakOff();
  }
}

/** States of a WebSocket (HTML, WebSocket.readyState). */
const CONNECTING = 0;
const CLOSED = 3;

/** A WebSocket behind the switch; without a real one it fails. */
class SwitchedSocket implements WebSocketLike {
  private readonly _listeners = new Map<string, Listener[]>();
  private _broken = false;

  constructor(
    private readonly _real: WebSocketLike | null,
    private readonly _open: Set<SwitchedSocket>,
  ) {
    if (!_real) {
      setTimeout(() => this.breakOff());
      return;
    }
    _open.add(this);
    for (const type of ["open", "message", "error", "close"]) {
      _real.addEventListener(type, (event: unknown) => {
        if (this._broken) return;
        if (type === "close") this._open.delete(this);
        this._tell(type, event);
      });
    }
  }

  /** End as a connection that breaks off. */
  breakOff(): void {
    if (this._broken) return;
    this._broken = true;
    this._open.delete(this);
    this._real?.close();
    this._tell("error", {});
    this._tell("close", BROKEN);
  }

  get binaryType(): string {
    return this._real?.binaryType ?? "arraybuffer";
  }

  set binaryType(type: string) {
    if (this._real) this._real.binaryType = type;
  }

  get readyState(): number {
    return this._broken ? CLOSED : (this._real?.readyState ?? CONNECTING);
  }

  get bufferedAmount(): number {
    return this._real?.bufferedAmount ?? 0;
  }

  send(data: string | Uint8Array<ArrayBuffer>): void {
    if (!this._broken) this._real?.send(data);
  }

  close(code?: number, reason?: string): void {
    if (!this._broken) this._real?.close(code, reason);
  }

  addEventListener(type: string, listener: Listener): void {
    this._listeners.set(type, [...(this._listeners.get(type) ?? []), listener]);
  }

  private _tell(type: string, event: unknown): void {
    for (const listener of this._listeners.get(type) ?? []) listener(event);
  }
}
