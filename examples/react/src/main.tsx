/** A small page with the hooks: a conversation, a title that both can change, and who is here. Open it twice,
 * the second time with `#bob`. */

import { type FormEvent, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useChannel, useClient, useClientState, useLink } from "./duolink";

const SERVER = "ws://127.0.0.1:8080";

function App({ me, other }: { me: string; other: string }) {
  const client = useClient(SERVER, { clientId: me });
  const state = useClientState(client);
  const { messages, peer, send } = useLink<string>(client, other);
  const { state: shared, present } = useChannel(client, "react-example");
  const [text, setText] = useState("");
  const [sent, setSent] = useState("");

  async function submit(event: FormEvent) {
    event.preventDefault();
    setText("");
    setSent(`${text} …`);
    try {
      await send(text);
      setSent(`${text} ✓✓`);
    } catch (error) {
      setSent(`${text}: ${error}`);
    }
  }

  return (
    <main>
      <h1>{String(shared.get("title") ?? "No title")}</h1>
      <p>
        I am {me} ({state}), {other} is {peer}. In the channel: {[...present].sort().join(", ")}.
      </p>
      <button
        type="button"
        disabled={state !== "online"}
        onClick={() => void client?.channel("react-example").set("title", `Titled by ${me}`)}
      >
        Put my title
      </button>
      <form onSubmit={submit}>
        <input aria-label="Message" value={text} onChange={(event) => setText(event.target.value)} />
        <button type="submit" disabled={!client?.welcome}>
          Send to {other}
        </button>
      </form>
      <output>{sent}</output>
      <ul>
        {messages.map((message) => (
          <li key={`${message.run} ${message.seq}`}>{String(message.data)}</li>
        ))}
      </ul>
    </main>
  );
}

const [me, other] = location.hash === "#bob" ? (["bob", "alice"] as const) : (["alice", "bob"] as const);
const root = document.getElementById("root");
if (!root) throw new Error("no #root");
createRoot(root).render(
  <StrictMode>
    <App me={me} other={other} />
  </StrictMode>,
);
