/** What can go wrong for a user of the client: one class per ending, all of them `DuolinkError`. */

import { NORMAL } from "./protocol/codes.js";

/** The base of everything this package throws on its own account (besides `RangeError` for impossible
 * names). */
export class DuolinkError extends Error {
  override get name(): string {
    return "DuolinkError";
  }
}

/** The client is closed: by its user, or for good by the server. `code` is the close code. */
export class ClientClosed extends DuolinkError {
  override get name(): string {
    return "ClientClosed";
  }

  constructor(
    readonly reason: string = "closed",
    readonly code: number = NORMAL,
    message: string = reason,
  ) {
    super(message);
  }
}

/** The server does not want this client, and coming back would not help. `error` is the server's error code
 * (`duplicate`, `superseded`, `unauthorized`, …) where it gave one. */
export class Refused extends ClientClosed {
  override get name(): string {
    return "Refused";
  }

  constructor(
    code: number,
    reason = "",
    readonly error = "",
  ) {
    super(reason, code, `refused: ${error || code} ${reason}`);
  }
}

/** A first connect has been tried in vain as often as its options say. */
export class Unreachable extends DuolinkError {
  override get name(): string {
    return "Unreachable";
  }

  constructor(
    readonly url: string,
    readonly reason: string,
  ) {
    super(`cannot reach ${url}: ${reason}`);
  }
}

/** The client left before `count` of its messages were stored or settled: their end is not known. */
export class Unsettled extends DuolinkError {
  override get name(): string {
    return "Unsettled";
  }

  constructor(readonly count: number) {
    super(`messages not safe: ${count}`);
  }
}

/** A message was not delivered, and will not be. `reason` is a `LossReason`, or the error code that ended
 * the client. Without `certain` it may have been delivered all the same: a copy was out when its end
 * became unknowable. */
export class Lost extends DuolinkError {
  override get name(): string {
    return "Lost";
  }

  constructor(
    readonly reason: string,
    readonly certain = true,
  ) {
    super(`lost: ${reason}${certain ? "" : " (or delivered)"}`);
  }
}

/** There is no room for another message before something is stored or settled. */
export class WindowFull extends DuolinkError {
  override get name(): string {
    return "WindowFull";
  }
}

/** Data that cannot travel. */
export class InvalidData extends DuolinkError {
  override get name(): string {
    return "InvalidData";
  }
}

/** The other side answered that it failed; the text is its own. Thrown by a request handler, it is the
 * answer, with its text; any other error is reported here, and the peer hears only that it failed. */
export class RequestFailed extends DuolinkError {
  override get name(): string {
    return "RequestFailed";
  }
}

/** No answer came in time. The request may have been handled all the same. */
export class RequestTimeout extends DuolinkError {
  override get name(): string {
    return "RequestTimeout";
  }
}

/** The server refused a command; `code` is an error code of docs/protocol.md §5. */
export class CommandFailed extends DuolinkError {
  override get name(): string {
    return "CommandFailed";
  }

  constructor(
    readonly code: string,
    readonly detail = "",
  ) {
    super(detail ? `${code}: ${detail}` : code);
  }
}

/** A write to the shared state expected another version than the name has: `version` (0: it is not there).
 * Nothing was done. */
export class Conflict extends CommandFailed {
  override get name(): string {
    return "Conflict";
  }

  constructor(readonly version: number) {
    super("conflict", `version ${version}`);
  }
}

/** The server has not answered a command in time; whether it did it is not known. */
export class CommandTimeout extends DuolinkError {
  override get name(): string {
    return "CommandTimeout";
  }
}

/** Somebody reads this stream already: messages go to one reader at a time. */
export class Busy extends DuolinkError {
  override get name(): string {
    return "Busy";
  }
}
