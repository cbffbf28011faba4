/** On a narrow screen the panes become tabs (WAI-ARIA, tabs with automatic activation). */

import { displayName } from "./address.js";
import { make } from "./elements.js";
import type { Pane } from "./pane.js";

/** Where the style sheet, too, makes them tabs. */
const NARROW = "(max-width: 52rem)";

/** Show the tabs of the panes there are; call it again when they are others. */
export function showTabs(list: HTMLElement, panes: readonly Pane[]): void {
  const tabs = panes.map((pane) =>
    make(
      "button",
      { type: "button", role: "tab", class: "tab", id: `tab-${pane.name}`, "aria-controls": pane.element.id },
      displayName(`:${pane.name}`),
    ),
  );
  const narrow = matchMedia(NARROW);
  let chosen = 0;

  function show(): void {
    const asTabs = narrow.matches && panes.length > 1;
    list.hidden = !asTabs;
    for (const [index, tab] of tabs.entries()) {
      const pane = panes[index]?.element as HTMLElement;
      tab.setAttribute("aria-selected", String(index === chosen));
      tab.tabIndex = index === chosen ? 0 : -1;
      pane.hidden = asTabs && index !== chosen;
      if (asTabs) pane.setAttribute("role", "tabpanel");
      else pane.removeAttribute("role");
    }
  }

  for (const [index, tab] of tabs.entries()) {
    const choose = (which: number) => {
      chosen = (which + tabs.length) % tabs.length;
      show();
      tabs[chosen]?.focus();
    };
    tab.addEventListener("click", () => choose(index));
    tab.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight") choose(index + 1);
      else if (event.key === "ArrowLeft") choose(index - 1);
    });
  }
  narrow.onchange = show; // one listener, whatever was shown before
  list.replaceChildren(...tabs);
  show();
}
