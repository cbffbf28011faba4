/** Loading from the API, again and again while it is looked at. */

import { useCallback, useContext, useEffect, useRef, useState } from "preact/hooks";
import { Problem } from "../api/api.js";
import type { Operations } from "../operations.js";
import { OperationsContext } from "./live.js";

/** Milliseconds between two loads of what is shown. */
export const LIST_REFRESH = 3000;

export interface Loaded<T> {
  /** The newest answer; kept while the next one is awaited, and when it fails. */
  value: T | null;
  error: Error | null;
  /** It is not yet what was asked for last. */
  pending: boolean;
  reload: () => void;
}

/**
 * Load now, when `key` changes, and every so many ms (0: once) after an answer, while the tab is visible. What is no
 * longer asked for is aborted.
 */
export function useLoaded<T>(
  key: string,
  load: (signal: AbortSignal, operations: Operations) => Promise<T>,
  every: number = LIST_REFRESH,
): Loaded<T> {
  const operations = useContext(OperationsContext);
  const [state, setState] = useState<{ value: T | null; error: Error | null; key: string | null }>({
    value: null,
    error: null,
    key: null,
  });
  const [turn, setTurn] = useState(0);
  const newest = useRef(load);
  newest.current = load;

  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const again = () => {
      if (every && !stop.signal.aborted) timer = setTimeout(round, every);
    };
    const round = async () => {
      if (document.hidden) return; // `looked` goes on
      try {
        const value = await newest.current(stop.signal, operations);
        if (!stop.signal.aborted) setState({ value, error: null, key });
      } catch (thrown) {
        if (stop.signal.aborted) return;
        const error = thrown instanceof Error ? thrown : new Error(String(thrown));
        if (error instanceof Problem && error.status === 401) operations.refused(401, error.detail);
        setState((state) => ({ ...state, error, key }));
      }
      again();
    };
    const looked = () => {
      clearTimeout(timer);
      if (!document.hidden) void round();
    };
    void round();
    document.addEventListener("visibilitychange", looked);
    return () => {
      stop.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", looked);
    };
  }, [key, every, operations, turn]);

  const reload = useCallback(() => setTurn((turn) => turn + 1), []);
  return { value: state.value, error: state.error, pending: state.key !== key, reload };
}
