/** Names and values, and other small things that pages are made of. */

import type { ComponentChildren } from "preact";

export type Fact = [name: string, value: ComponentChildren, hint?: string];

export function Facts({ facts }: { facts: Fact[] }) {
  return (
    <dl class="facts">
      {facts.map(([name, value, hint]) => (
        <div key={name} title={hint}>
          <dt>{name}</dt>
          <dd class="numbers">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

/** What went wrong, with what to do about it. */
export function Trouble({ error, doing, retry }: { error: Error; doing: string; retry?: () => void }) {
  return (
    <p class="notice" data-level="bad" role="alert">
      <strong>{doing} failed.</strong> {error.message}
      {retry ? (
        <button type="button" onClick={retry}>
          Try again
        </button>
      ) : null}
    </p>
  );
}

/** A heading that takes the focus when its page opens. */
export function Title({ children, kind }: { children: ComponentChildren; kind?: string }) {
  return (
    <h1 tabIndex={-1}>
      {kind ? <span class="kind">{kind} </span> : null}
      {children}
    </h1>
  );
}

export function Panel({
  title,
  children,
  aside,
}: {
  title: string;
  children: ComponentChildren;
  aside?: ComponentChildren;
}) {
  return (
    <section class="card panel">
      <div class="panel-head">
        <h2>{title}</h2>
        {aside}
      </div>
      {children}
    </section>
  );
}
