/** The newest happenings, each once, newest first on demand. */

import type { Happening } from "../api/shapes.js";
import { Ring } from "./ring.js";

/** As many as the server keeps. */
export const MOST_HAPPENINGS = 1000;

export interface HappeningFilter {
  kind?: string | undefined;
  /** Part of a client's name; exact with `exactly`. */
  client?: string | undefined;
  exactly?: boolean;
}

export class Happenings {
  private readonly _ring: Ring<Happening>;
  private _newest = 0;

  constructor(capacity: number = MOST_HAPPENINGS) {
    this._ring = new Ring(capacity);
  }

  /** Returns false for one that is known already: ids rise, over restarts of the server too. */
  add(happening: Happening): boolean {
    if (happening.id <= this._newest) return false;
    this._newest = happening.id;
    this._ring.push(happening);
    return true;
  }

  /** The newest `limit` that match, newest first. */
  matching(filter: HappeningFilter, limit: number): Happening[] {
    const found: Happening[] = [];
    const client = filter.client?.toLowerCase();
    for (let index = this._ring.length - 1; index >= 0 && found.length < limit; index -= 1) {
      const each = this._ring.at(index);
      if (!each || (filter.kind && each.kind !== filter.kind)) continue;
      if (
        filter.exactly
          ? each.client !== filter.client
          : client && !each.client?.toLowerCase().includes(client)
      )
        continue;
      found.push(each);
    }
    return found;
  }

  /** The kinds there are, sorted. */
  kinds(): string[] {
    return [...new Set(this._ring.toArray().map((each) => each.kind))].sort();
  }
}
