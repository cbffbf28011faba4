/** Asks for an operator's token. */

import { useEffect, useRef, useState } from "preact/hooks";
import type { Connection, Refusal } from "../feed.js";
import { Title } from "../parts/facts.js";

interface SignInProps {
  /** 401: a token is needed, or this one is not valid; 403: it is valid, and not an operator's. */
  refusal: Refusal;
  /** How the newest attempt stands. */
  standing: Connection;
  /** A token was given. */
  held: boolean;
  signIn: (token: string, keep: boolean) => void;
}

export function SignIn({ refusal, standing, held, signIn }: SignInProps) {
  const [token, setToken] = useState("");
  const [keep, setKeep] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const busy = standing.state === "connecting";
  const trouble = busy ? null : reason(refusal, standing, held);
  return (
    <section class="card signin" aria-labelledby="signin">
      <Title>
        <span id="signin">Operator token</span>
      </Title>
      <p>
        This server answers operators only. Its token is the setting <code>http.operator_token</code>, or a
        JWT with the claim <code>operator</code>.
      </p>
      {trouble ? (
        <p class="notice" data-level="bad" role="alert">
          <strong>{trouble[0]}</strong> {trouble[1]}
        </p>
      ) : null}
      {isSecureContext ? null : (
        <p class="notice" data-level="warning">
          <strong>This connection is not encrypted.</strong> Whoever sits between could read the token: use{" "}
          <code>https</code>, or a tunnel to this machine.
        </p>
      )}
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (token.trim()) signIn(token.trim(), keep);
        }}
      >
        <label>
          Token
          <input
            ref={field}
            class="field mono"
            type="password"
            autocomplete="off"
            spellcheck={false}
            required
            value={token}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
        </label>
        <label class="check">
          <input type="checkbox" checked={keep} onChange={(event) => setKeep(event.currentTarget.checked)} />
          Keep it for reloads of this tab
        </label>
        <button type="submit" class="primary" disabled={busy}>
          Open the console
        </button>
      </form>
      <p class="muted small">
        It stays in the memory of this page, or of this tab, and is sent to this server alone.
      </p>
    </section>
  );
}

function reason(refusal: Refusal, standing: Connection, held: boolean): [title: string, text: string] | null {
  if (standing.state === "lost") return ["The server does not answer.", `${standing.reason}.`];
  const text = refusal.detail ? `The server says: ${refusal.detail}.` : "";
  if (refusal.status === 403) return ["This is not allowed.", text];
  return held ? ["This token is not accepted.", text] : null;
}
