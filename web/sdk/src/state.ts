/**
 * A channel's shared state, as a subscription sees it: names with values and versions.
 *
 *     const subscription = await client.channel("doc").subscribe({ state: true });
 *     console.log(subscription.state.get("title")?.value); // what is there now
 *     for await (const item of subscription) {             // and then what becomes of it
 *       if (item.kind === "set") console.log(item.name, item.value, item.version, item.sender);
 *       else if (item.kind === "deleted") console.log(item.name, "is not there any more");
 *       else if (item.kind === "gap") console.log(subscription.state); // missed too much: another map
 *     }
 *
 * The map is as of the item that was taken last: who does not iterate keeps what was there at the beginning.
 */

import type { Publication as Wire } from "./protocol/messages.js";
import { Publication } from "./publication.js";

/** A name was given a value: an item of a subscription when it happens, and what its `state` holds under
 * that name until the next write to it. */
export class StateSet<T = unknown> extends Publication<T> {
  override readonly kind = "set";

  /** The value. */
  get value(): T {
    return this.data;
  }

  /** What `expect` names to replace exactly this value. A later write has a higher one. */
  get version(): number {
    return this.offset;
  }
}

/** A name was deleted: it is not there any more. It has no data. */
export class StateDeleted extends Publication<null> {
  override readonly kind = "deleted";

  /** Higher than that of the value it took away; a name that is not there has version 0. */
  get version(): number {
    return this.offset;
  }
}

/** Any entry of a channel's log. */
export type Entry = (Publication & { readonly kind: "publication" }) | StateSet | StateDeleted;

/** The names that are there. */
export class SharedState {
  readonly values = new Map<string, StateSet>();

  /** Take one publication: most change nothing. */
  apply(item: Entry): void {
    if (item.kind === "set") this.values.set(item.name, item);
    else if (item.kind === "deleted") this.values.delete(item.name);
  }

  /** Take a snapshot for everything there was. */
  replace(snapshot: readonly Wire[], epoch: string): void {
    this.values.clear();
    for (const wire of snapshot) this.values.set(wire.name, new StateSet(wire, epoch));
  }
}

/** Return what came as what it is. */
export function entryOf(wire: Wire, epoch: string): Entry {
  if (!wire.name) return new Publication(wire, epoch) as Entry;
  return wire.deleted ? new StateDeleted(wire, epoch) : new StateSet(wire, epoch);
}
