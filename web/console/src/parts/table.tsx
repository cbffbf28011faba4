/** A table with a caption for those who do not see it, heads that sort, and rows that are addressed by name. */

import type { ComponentChildren } from "preact";
import { nextOrder, type Order, sorted } from "../model/paging.js";

export interface Column<T> {
  key: string;
  title: string;
  /** What the head means, where its word alone does not say it. */
  hint?: string;
  cell: (row: T) => ComponentChildren;
  /** What it is sorted by; without, it is not sortable. */
  value?: (row: T) => string | number | boolean | null | undefined;
  numeric?: boolean;
}

interface TableProps<T> {
  caption: string;
  columns: Column<T>[];
  rows: readonly T[];
  name: (row: T) => string;
  /** Said when there are no rows. */
  empty: string;
  order?: Order | null;
  onOrder?: (order: Order | null) => void;
  busy?: boolean;
}

export function Table<T>({
  caption,
  columns,
  rows,
  name,
  empty,
  order = null,
  onOrder,
  busy,
}: TableProps<T>) {
  const by = order && columns.find(({ key }) => key === order.key);
  const shown = by?.value && order ? sorted(rows, by.value, order.descending) : rows;
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached without a mouse
    <section class="scroll" tabIndex={0} aria-label={caption}>
      <table aria-busy={busy ? "true" : undefined}>
        <caption class="unseen">{caption}</caption>
        <thead>
          <tr>
            {columns.map((column) => (
              <Head key={column.key} column={column} order={order} onOrder={onOrder} />
            ))}
          </tr>
        </thead>
        <tbody>
          {shown.map((row) => (
            <tr key={name(row)}>
              {columns.map(({ key, cell, numeric }, index) =>
                index === 0 ? (
                  <th key={key} scope="row">
                    {cell(row)}
                  </th>
                ) : (
                  <td key={key} class={numeric ? "number" : undefined}>
                    {cell(row)}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
      {rows.length ? null : <p class="empty muted">{empty}</p>}
    </section>
  );
}

interface HeadProps<T> {
  column: Column<T>;
  order: Order | null;
  onOrder: ((order: Order | null) => void) | undefined;
}

function Head<T>({ column: { key, title, hint, value, numeric }, order, onOrder }: HeadProps<T>) {
  const sort = order?.key === key ? (order.descending ? "descending" : "ascending") : undefined;
  return (
    <th scope="col" class={numeric ? "number" : undefined} aria-sort={sort} title={hint}>
      {value && onOrder ? (
        <button type="button" class="sort" onClick={() => onOrder(nextOrder(order, key, numeric ?? false))}>
          {title}
          <span class="arrow" aria-hidden="true">
            {sort === "ascending" ? "▲" : sort === "descending" ? "▼" : ""}
          </span>
        </button>
      ) : (
        title
      )}
    </th>
  );
}
