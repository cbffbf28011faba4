/** Messages packed into payloads: as few as the limits allow, in order. */

import { encode, encodeBinary, utf8Length } from "./codec.js";
import { MAX_BATCH, MAX_PAYLOAD } from "./limits.js";
import { isCarrier, type Message } from "./messages.js";

/** Send a payload on the transport: a text is one text payload, bytes are a binary one. */
export interface Send {
  readonly kind: "send";
  readonly payload: string | Uint8Array;
}

/** Pack messages into as few payloads as their limits allow, in order. */
export function payloads(messages: readonly Message[]): Send[] {
  const sends: Send[] = [];
  let lines: string[] = [];
  let size = 0;
  const end = () => {
    if (lines.length) sends.push({ kind: "send", payload: lines.join("\n") });
    lines = [];
    size = 0;
  };
  for (const message of messages) {
    if (isCarrier(message) && message.binary) {
      end();
      sends.push({ kind: "send", payload: encodeBinary(message) });
      continue;
    }
    const line = encode(message);
    const length = utf8Length(line);
    if (size + length >= MAX_PAYLOAD || lines.length >= MAX_BATCH) end();
    lines.push(line);
    size += length + 1;
  }
  end();
  return sends;
}
