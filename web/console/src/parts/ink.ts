/** The colours of the style for a canvas, which knows no custom properties; looked up again when the theme changes. */

let known = new Map<string, string>();
const listeners = new Set<() => void>();

/** The colour of a token: "--client-1" → "rgb(43, 91, 199)". */
export function ink(token: string): string {
  let color = known.get(token);
  if (color === undefined) {
    const probe = document.createElement("span");
    probe.style.color = `var(${token})`;
    document.body.append(probe);
    color = getComputedStyle(probe).color;
    probe.remove();
    known.set(token, color);
  }
  return color;
}

/** `listener` is called when colours have become others. */
export function onTheme(listener: () => void): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function changed(): void {
  known = new Map();
  for (const listener of [...listeners]) listener();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
new MutationObserver(changed).observe(document.documentElement, { attributeFilter: ["data-theme"] });
