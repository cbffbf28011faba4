/** The right end of the header: which server this is, how it is, and how we stand with it. */

import { themeButton } from "duolink-style/theme";
import { useEffect, useRef } from "preact/hooks";
import { duration } from "../format.js";
import type { Operations } from "../operations.js";
import { useLive } from "./live.js";

export function Standing() {
  const operations = useLive();
  const { facts, timeline } = operations;
  const uptime = timeline.sample?.uptime_s ?? facts?.uptime_s;
  const [state, word] = condition(operations);
  return (
    <div class="standing">
      {facts && !operations.refusal ? (
        <>
          <span class="node" title="Name of the node">
            {facts.node}
          </span>
          <span class="muted small" title="Version">
            {facts.version}
          </span>
          <span class="muted small numbers" title={`Started ${new Date(facts.started).toLocaleString()}`}>
            up {duration(uptime)}
          </span>
          {facts.development ? <span class="badge">development</span> : null}
        </>
      ) : null}
      <span class="badge" data-state={state}>
        <span class="dot" data-state={state} aria-hidden="true" />
        {word}
      </span>
      {operations.credentials.token !== null && !operations.refusal ? (
        <button type="button" class="plain" onClick={() => operations.signOut()}>
          Sign out
        </button>
      ) : null}
      <ThemeButton />
    </div>
  );
}

function ThemeButton() {
  const button = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    if (button.current) themeButton(button.current);
  }, []);
  return <button type="button" class="plain theme" ref={button} />;
}

function condition({ standing, facts, refusal }: Operations): ["good" | "warn" | "bad" | undefined, string] {
  if (refusal) return ["warn", "signed out"];
  if (standing.state === "lost") return ["bad", "disconnected"];
  if (standing.state === "connecting" || !facts) return [undefined, "connecting"];
  if (facts.draining) return ["warn", "draining"];
  return facts.ready ? ["good", "ready"] : ["bad", "not ready"];
}
