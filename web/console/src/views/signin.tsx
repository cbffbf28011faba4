/** Asks for an operator's token. */

import { useState } from "preact/hooks";
import { Title } from "../parts/facts.js";

interface SignInProps {
  /** 401: a token is needed, or this one is not valid; 403: it is valid, and not an operator's. */
  status: number;
  detail: string;
  /** A token was given. */
  held: boolean;
  signIn: (token: string, keep: boolean) => void;
}

export function SignIn({ status, detail, held, signIn }: SignInProps) {
  const [token, setToken] = useState("");
  const [keep, setKeep] = useState(false);
  const trouble = reason(status, held);
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
          <strong>{trouble}</strong> {detail ? `The server says: ${detail}.` : ""}
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
        <button type="submit" class="primary">
          Open the console
        </button>
      </form>
      <p class="muted small">
        It stays in the memory of this page, or of this tab, and is sent to this server alone.
      </p>
    </section>
  );
}

function reason(status: number, held: boolean): string {
  if (status === 403) return "This is not allowed.";
  return held ? "This token is not accepted." : "";
}
