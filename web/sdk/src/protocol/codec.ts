/**
 * The only parser of outside bytes: payloads to messages and back.
 *
 * A text payload is split at newlines before anything is decoded, so that no data can pose as a second
 * message. A parser never throws to its driver: what cannot be decoded comes out as `Malformed`, in its
 * place among the messages. User data is parsed once, together with its message; on the way out it is a
 * `Raw`, the text an application's value had when it was given.
 */

import { MAX_BATCH, MAX_CLIENT_ID, MAX_DEPTH, MAX_INTEGER, MAX_KEY, MAX_MESSAGE } from "./limits.js";
import {
  type Carrier,
  Invalid,
  isCarrier,
  type Message,
  OF_CLIENT,
  OF_PEER,
  OF_SERVER,
  read,
  type Type,
  write,
} from "./messages.js";

/** A line that is no message: which error it deserves, and a sentence for people. A message that is merely
 * too large comes along, so that the answer can name it. */
export class Malformed {
  constructor(
    readonly code: "malformed" | "unknown_type" | "too_large" | "limit",
    readonly reason: string,
    readonly message: Message | null = null,
  ) {}
}

function malformed(reason: string): Malformed {
  return new Malformed("malformed", reason);
}

/** User data that may not travel: not JSON, too deep, half a character. */
export class DataError extends Error {}

/** A JSON text, and how many bytes it has. */
export class Raw {
  constructor(
    readonly text: string,
    readonly size: number,
  ) {}
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const encoder = new TextEncoder();

const LINE_DEPTH = MAX_DEPTH + 1; // its data, within the message
const NEWLINE = 10;
const SURROGATE_ESCAPE = /\\u[dD][89a-fA-F]/;
/** In a text that JSON.stringify made: it escapes halves of a character, and nothing else, like this. */
const LONE_SURROGATE = /(?<!\\)(?:\\\\)*\\ud[89a-f]/;
const NOT_JSON = "not JSON";
const TOO_DEEP = "too deep";
const HALF = "half a character";

/** Decodes payloads of one kind of far end. */
export class Decoder {
  /** `types`: which the far end may send. */
  constructor(
    private readonly _known: ReadonlySet<string>,
    private readonly _maximum = MAX_MESSAGE,
  ) {}

  /** Decode a text payload: one item for each line, in order, the message or a `Malformed`; one `Malformed`
   * for the whole payload if it is not UTF-8 or has too many lines. */
  text(payload: string | Uint8Array): (Message | Malformed)[] {
    const text = typeof payload === "string" ? payload : decodeUtf8(payload);
    if (!text.includes("\n")) return [this._line(text)];
    const lines = text.split("\n", MAX_BATCH + 1);
    if (lines.length > MAX_BATCH) {
      return [new Malformed("limit", "too many messages")];
    }
    return lines.map((line) => this._line(line));
  }

  private _line(line: string): Message | Malformed {
    const message = this._decode(line, LINE_DEPTH);
    if (message instanceof Malformed) return message;
    if (longer(line, this._maximum)) return this._tooLarge(message);
    if (isCarrier(message) && message.binary) {
      return malformed("binary");
    }
    return message;
  }

  private _tooLarge(message: Message): Malformed {
    return new Malformed("too_large", "too large", message);
  }

  /** Decode a binary payload: a header line, a newline, raw bytes. */
  binary(payload: Uint8Array): (Message | Malformed)[] {
    const end = payload.indexOf(NEWLINE);
    const message = this._decode(decodeUtf8(payload.subarray(0, Math.max(end, 0))), MAX_DEPTH);
    if (message instanceof Malformed) return [message];
    if (!isCarrier(message) || !message.binary || message.data !== undefined) {
      return [malformed("binary")];
    }
    if (payload.length > this._maximum) return [this._tooLarge(message)];
    message.data = payload.slice(end + 1);
    return [message];
  }

  private _decode(line: string, bound: number): Message | Malformed {
    if (deeper(line, bound)) return malformed(TOO_DEEP);
    let object: Record<string, unknown>;
    try {
      object = JSON.parse(line);
    } catch {
      return malformed(NOT_JSON);
    }
    if (SURROGATE_ESCAPE.test(line) && LONE_SURROGATE.test(JSON.stringify(object))) {
      return malformed(HALF);
    }
    const type = object?.type;
    if (typeof type !== "string") return malformed("no type");
    if (!this._known.has(type)) {
      return new Malformed("unknown_type", type.slice(0, 32));
    }
    try {
      return read(type as Type, object);
    } catch (error) {
      if (error instanceof Invalid) return malformed(type);
      throw error;
    }
  }
}

/** What a client sends. */
export const CLIENT = /* @__PURE__ */ new Decoder(OF_CLIENT);
/** What a server sends. */
export const SERVER = /* @__PURE__ */ new Decoder(OF_SERVER);
/** What a peer sends over a data channel. */
export const PEER = /* @__PURE__ */ new Decoder(OF_PEER);

/** Message → one line of a text payload. Binary data goes through `encodeBinary`. */
export function encode(message: Message): string {
  const head = JSON.stringify(write(message));
  const data = "data" in message ? message.data : undefined;
  if (data === undefined) return head;
  return `${head.slice(0, -1)},"data":${data instanceof Raw ? data.text : JSON.stringify(data)}}`;
}

/** Return the binary payload of a message with bytes as its data. */
export function encodeBinary(message: Carrier): Uint8Array {
  const header = encoder.encode(`${JSON.stringify(write(message))}\n`);
  const data = message.data as Uint8Array;
  const payload = new Uint8Array(header.length + data.length);
  payload.set(header);
  payload.set(data, header.length);
  return payload;
}

/** Encode an application's value as `data`. Throws `DataError` for a value that is no JSON, nests too deep or
 * holds half a character. */
export function encodeJson(value: unknown): Raw {
  let text: string | undefined;
  try {
    text = JSON.stringify(value);
  } catch (error) {
    throw new DataError(
      error instanceof RangeError ? TOO_DEEP : String((error as Error | null)?.message ?? error),
    );
  }
  if (text === undefined) throw new DataError(NOT_JSON);
  if (deeper(text, MAX_DEPTH)) throw new DataError(TOO_DEEP);
  if (text.includes("\\ud") && LONE_SURROGATE.test(text)) throw new DataError(HALF);
  return new Raw(text, utf8Length(text));
}

/** How many bytes user data has, as it travels. */
export function sizeOf(data: unknown): number {
  if (data === undefined) return 0;
  if (data instanceof Raw) return data.size;
  if (data instanceof Uint8Array) return data.length;
  return utf8Length(JSON.stringify(data));
}

/** How many bytes a text has in UTF-8. */
export function utf8Length(text: string): number {
  return encoder.encode(text).length;
}

function longer(text: string, bytes: number): boolean {
  return text.length * 3 > bytes && utf8Length(text) > bytes;
}

/** How deep the brackets of a JSON text nest; those in strings do not count. */
export function depth(text: string): number {
  let deepest = 0;
  let level = 0;
  let quoted = false;
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index);
    if (quoted) {
      if (unit === 0x5c) index++;
      else if (unit === 0x22) quoted = false;
    } else if (unit === 0x22) quoted = true;
    else if (unit === 0x7b || unit === 0x5b) deepest = Math.max(deepest, ++level);
    else if (unit === 0x7d || unit === 0x5d) level--;
  }
  return deepest;
}

function deeper(text: string, bound: number): boolean {
  return text.length > bound && depth(text) > bound;
}

/** Return the text; of what is not UTF-8 an empty one, which is no message. */
function decodeUtf8(bytes: Uint8Array): string {
  try {
    return strict.decode(bytes);
  } catch {
    return "";
  }
}

/** Return what to throw at who gives something impossible. */
export function impossible(what: string, value: unknown): RangeError {
  return new RangeError(`impossible ${what}: ${value}`);
}

/** Return a key, which may be empty. Throws `RangeError` for what cannot be one. */
export function checkKey(key: string): string {
  if (key && !isId(key, MAX_KEY)) throw impossible("key", key);
  return key;
}

/** Whether something is a whole number of the wire: 0 … `maximum`. */
export function isCount(value: unknown, maximum = MAX_INTEGER): boolean {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= maximum;
}

/** Whether a name may be a client id or a channel: 1 … `maximum` UTF-8 bytes, no control characters, no
 * halves of a character. */
export function isId(name: string, maximum: number): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
  return typeof name === "string" && /^[^\0-\x1f\x7f\p{Cs}]+$/u.test(name) && !longer(name, maximum);
}

/** Whether a name may be a client's: `@` begins a user's name and `$` the server's own. */
export function isClientId(name: string): boolean {
  return isId(name, MAX_CLIENT_ID) && !/^[@$]/.test(name);
}

/** Whether a name may be a user's, as messages are addressed to it: `@` and what the user is called. */
export function isUser(name: string): boolean {
  return isId(name, MAX_CLIENT_ID) && /^@./su.test(name);
}

/** Compare two ids as UTF-8 bytes, that is by code points (which UTF-16 does not). */
export function compareIds(a: string, b: string): number {
  const [one, other] = [[...a], [...b]];
  const at = one.findIndex((character, index) => character !== other[index]);
  return at < 0 ? one.length - other.length : rank(one[at]) - rank(other[at]);
}

/** Of a character; none comes before all. */
function rank(character = ""): number {
  return character.codePointAt(0) ?? -1;
}
