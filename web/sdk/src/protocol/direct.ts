/** What a session hears of data channels: functions beside it, so that who has none does not load them. */

import { Malformed, PEER } from "./codec.js";
import type { PathKind } from "./paths.js";
import type { Session } from "./session.js";

/** A data channel to a peer is open: one more path of its link. Names are the driver's. The session's links
 * need paths that know of others than the server's: `paths: () => new Paths()`. */
export function pathUp(session: Session, peer: string, path: string, kind: PathKind, now: number): void {
  const link = session.link(peer);
  link.pathUp(path, kind, now);
  session.touch(link);
}

/** It is gone. */
export function pathDown(session: Session, peer: string, path: string): void {
  const link = session.links.get(peer);
  if (!link) return;
  link.pathDown(path);
  session.touch(link);
}

/** A payload came on a path other than the server's. Whose it is, is the driver's knowledge; a peer that
 * claims a name, or sends what only a server may, loses the path. */
export function receivedOn(
  session: Session,
  peer: string,
  path: string,
  payload: string | Uint8Array,
  now: number,
): void {
  const link = session.links.get(peer);
  if (!link?.paths.has(path)) return;
  session.touch(link);
  for (const message of typeof payload === "string" ? PEER.text(payload) : PEER.binary(payload)) {
    if (message instanceof Malformed) return link.fail(path, message.reason);
    link.receive(message, path, now);
  }
}
