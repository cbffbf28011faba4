/** Where a page of the playground is: `?room=x7k2m&as=carol` (or `as=carol,dave`: two in one page). A room is a name of its own for the clients of
 * one visit, so that two visitors of a server do not meet by accident. */

/** The names of clients, in the order in which they come; each has a colour of its own. */
export const NAMES = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"] as const;

/** Characters of a room's name: none that is taken for another one. */
const LETTERS = "abcdefghjkmnpqrstuvwxyz23456789";
const ROOM_LENGTH = 5;

/** Clients of one page. */
const MOST_PANES = 2;

/** The first part of every client id: with tokens, the user that they are for. */
const USER = "playground";

export interface Address {
  readonly room: string;
  /** Who lives in this page. */
  readonly names: readonly string[];
  /** Whether the room is new: the address did not name one. */
  readonly fresh: boolean;
}

/** Read an address's query. What is not there, or cannot be, is chosen. */
export function readAddress(query: string, newRoom: () => string = makeRoom): Address {
  const parameters = new URLSearchParams(query);
  const room = parameters.get("room") ?? "";
  const asked = (parameters.get("as") ?? "").split(",");
  const names = NAMES.filter((name) => asked.includes(name)).slice(0, MOST_PANES);
  const good = /^[a-z0-9]{1,16}$/.test(room);
  return {
    room: good ? room : newRoom(),
    names: names.length ? names : NAMES.slice(0, MOST_PANES),
    fresh: !good,
  };
}

/** Return the query of a page in a room with these clients; none named: the first two. */
export function queryOf(room: string, ...names: string[]): string {
  return names.length ? `?room=${room}&as=${names.join(",")}` : `?room=${room}`;
}

function makeRoom(): string {
  const random = crypto.getRandomValues(new Uint8Array(ROOM_LENGTH));
  return Array.from(random, (byte) => LETTERS[byte % LETTERS.length]).join("");
}

/** Return the channel of a room. */
export function channelOf(room: string): string {
  return `${USER}:${room}`;
}

/** Return the client id of a name in a room. */
export function clientIdOf(room: string, name: string): string {
  return `${USER}:${room}:${name}`;
}

/** Return how a client is called on the page: its name, or, for a stranger, its id. */
export function displayName(clientId: string): string {
  const name = clientId.slice(clientId.lastIndexOf(":") + 1);
  return NAMES.some((each) => each === name) ? name.charAt(0).toUpperCase() + name.slice(1) : clientId;
}

/** Return the number of a client's colour, 1 … 8. */
export function colourOf(clientId: string): number {
  const index = NAMES.findIndex((name) => clientId.endsWith(`:${name}`));
  return index < 0 ? NAMES.length : index + 1;
}

/** Return the first name that nobody has; the last one where all are taken. */
export function freeName(taken: Iterable<string>): string {
  const names = new Set(Array.from(taken, (id) => id.slice(id.lastIndexOf(":") + 1)));
  return NAMES.find((name) => !names.has(name)) ?? (NAMES.at(-1) as string);
}
