/** What components see of the operations. */

import { createContext } from "preact";
import { useContext, useEffect, useReducer } from "preact/hooks";
import type { Operations } from "../operations.js";

export const OperationsContext = createContext<Operations>(null as unknown as Operations);

/** The operations; the component is drawn again when they change: with each sample, hence once a second. */
export function useLive(): Operations {
  const operations = useContext(OperationsContext);
  const [, redraw] = useReducer((times: number) => times + 1, 0);
  const { published } = operations;
  useEffect(() => {
    // An effect runs a moment after its component was drawn: what came in between is not to be missed.
    if (operations.published !== published) redraw(undefined);
    return operations.subscribe(() => redraw(undefined));
  }, [operations]);
  return operations;
}
