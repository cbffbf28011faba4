/** From page to page of a list. */

interface PagerProps {
  /** What is shown, in words: "100 clients". */
  what: string;
  first: string | null;
  previous: string | null;
  next: string | null;
}

/** Links, so that pages can be opened beside each other; null: there is no such page. */
export function Pager({ what, first, previous, next }: PagerProps) {
  return (
    <nav class="pager" aria-label="Pages of the list">
      <span class="muted small numbers">{what}</span>
      <span class="spring" />
      {first === null && next === null ? null : (
        <>
          <Step title="First" to={first} />
          <Step title="Previous" to={previous} />
          <Step title="Next" to={next} />
        </>
      )}
    </nav>
  );
}

function Step({ title, to }: { title: string; to: string | null }) {
  return to === null ? (
    <span class="button off" aria-hidden="true">
      {title}
    </span>
  ) : (
    <a class="button" href={to}>
      {title}
    </a>
  );
}
