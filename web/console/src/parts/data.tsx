/** Data of a message: shown as it is, and written as text or as JSON. */

import { useId } from "preact/hooks";
import { line } from "../format.js";

export type DataKind = "text" | "json";

/** Returns what is to be sent. Raises SyntaxError with a sentence for whoever wrote it. */
export function dataOf(kind: DataKind, text: string): unknown {
  if (kind === "text") return text;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SyntaxError(`this is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

interface DataFieldProps {
  kind: DataKind;
  text: string;
  onKind: (kind: DataKind) => void;
  onText: (text: string) => void;
}

export function DataField({ kind, text, onKind, onText }: DataFieldProps) {
  const id = useId();
  return (
    <div class="data-field">
      <div class="label-row">
        <label for={id}>Data</label>
        <fieldset class="choices">
          <legend class="unseen">The data is</legend>
          {(["text", "json"] as const).map((each) => (
            <label key={each}>
              <input type="radio" name={`${id}-kind`} checked={kind === each} onChange={() => onKind(each)} />
              {each === "text" ? "text" : "JSON"}
            </label>
          ))}
        </fieldset>
      </div>
      <textarea
        id={id}
        class="field mono"
        rows={3}
        spellcheck={false}
        required
        value={text}
        onInput={(event) => onText(event.currentTarget.value)}
      />
    </div>
  );
}

/** Characters of data that need no opening, of data in a row of a table, and of data that is opened. */
const PLAIN = 80;
const IN_ROW = 160;
const OPENED = 20_000;

/** A value in one line; a long one can be opened. */
export function Data({ value, binary }: { value: unknown; binary?: string | undefined }) {
  if (binary !== undefined) return <code class="data">binary, base64: {line(binary, IN_ROW)}</code>;
  const row = line(value, IN_ROW);
  if (row.length <= PLAIN && !row.includes("\n")) return <code class="data">{row}</code>;
  const whole = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return (
    <details class="data">
      <summary>
        <code>{row}</code>
      </summary>
      <pre>{line(whole, OPENED)}</pre>
    </details>
  );
}
