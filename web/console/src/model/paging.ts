/** Order and pages of a list that the server gives page by page, by name. */

/** Rows of a page: few enough to draw in one go. */
export const PAGE_ROWS = 100;

/** Cursors of the pages one came through: the API's cursors lead forward only. */
export class Trail {
  private readonly _before = new Map<string, string>();

  /** Going from the page at `after` to the one at `next`. Cursors that are forgotten lead to the first page. */
  forward(after: string, next: string): void {
    if (this._before.size >= 1000) this._before.clear();
    this._before.set(next, after);
  }

  /** The cursor of the page before the one at `after`: "" is the first page, null: there is none before. */
  back(after: string): string | null {
    return after === "" ? null : (this._before.get(after) ?? "");
  }
}

/** The order of a table: a column's key and its direction. */
export interface Order {
  key: string;
  descending: boolean;
}

/** From an address: "-sent" is the column "sent", largest first. */
export const parseOrder = (text: string): Order | null =>
  text === "" ? null : { key: text.replace(/^-/, ""), descending: text.startsWith("-") };

export const orderText = (order: Order | null): string =>
  order ? (order.descending ? "-" : "") + order.key : "";

/** The order after a click on a column's head: text begins with its smallest, numbers with their largest;
 * another click turns it around, the third returns to the order of the list. */
export function nextOrder(order: Order | null, key: string, numeric: boolean): Order | null {
  if (order?.key !== key) return { key, descending: numeric };
  return order.descending === numeric ? { key, descending: !numeric } : null;
}

type Value = string | number | boolean | null | undefined;

/** A sorted copy; what has no value comes last in either direction, equal rows stay in the list's order. */
export function sorted<T>(rows: readonly T[], value: (row: T) => Value, descending: boolean): T[] {
  const sign = descending ? -1 : 1;
  return [...rows].sort((left, right) => {
    const [a, b] = [value(left), value(right)];
    if (a === b) return 0;
    if (a === null || a === undefined) return 1;
    if (b === null || b === undefined) return -1;
    if (typeof a === "string" && typeof b === "string") return sign * (a < b ? -1 : 1);
    return sign * (Number(a) - Number(b));
  });
}
