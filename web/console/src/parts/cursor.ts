/** The moment that is pointed at in any of the plots: all of them show their values of it. */

import { useEffect, useState } from "preact/hooks";
import { paint } from "./painter.js";

let index: number | null = null;
const listeners = new Set<(index: number | null) => void>();

function tell(): void {
  for (const listener of [...listeners]) listener(index);
}

/** Point at a row of the timeline, or nowhere. */
export function point(at: number | null): void {
  if (at === index) return;
  index = at;
  paint(tell);
}

export function usePointed(): number | null {
  const [at, setAt] = useState(index);
  useEffect(() => {
    listeners.add(setAt);
    return () => {
      listeners.delete(setAt);
    };
  }, []);
  return at;
}
