/** Light or dark: as the system says, until the reader of the page says otherwise. */

export type Theme = "auto" | "light" | "dark";

const THEMES: readonly Theme[] = ["auto", "light", "dark"];

/** The name in `localStorage`; the pages of one server share it. */
const KEY = "duolink theme";

const WORDS: Record<Theme, string> = { auto: "Theme: auto", light: "Theme: light", dark: "Theme: dark" };

/** Return the theme that was chosen in this browser. */
export function chosenTheme(): Theme {
  try {
    const kept = localStorage.getItem(KEY);
    return THEMES.find((theme) => theme === kept) ?? "auto";
  } catch {
    return "auto"; // no storage here: a choice lasts as long as the page
  }
}

/** Show the page in a theme. */
export function showTheme(theme: Theme): void {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

/** Make a button go through the themes: auto, light, dark. Shows the chosen one at once. */
export function themeButton(button: HTMLButtonElement): void {
  let theme = chosenTheme();
  const show = () => {
    showTheme(theme);
    button.textContent = WORDS[theme];
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "auto";
    try {
      localStorage.setItem(KEY, theme);
    } catch {}
    show();
  });
  show();
}
