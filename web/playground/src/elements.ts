/** Making elements. Whatever comes from outside becomes text: nothing here parses HTML. */

type Tags = HTMLElementTagNameMap;

/** Make an element with attributes; `true` sets one without a value, `false` leaves it out. */
export function make<K extends keyof Tags>(
  tag: K,
  attributes: { readonly [name: string]: string | boolean } = {},
  ...children: (Node | string)[]
): Tags[K] {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  element.append(...children);
  return element;
}

/** Make an element of SVG. */
export function draw<K extends keyof SVGElementTagNameMap>(
  tag: K,
  attributes: { readonly [name: string]: string } = {},
): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  setAttributes(element, attributes);
  return element;
}

function setAttributes(element: Element, attributes: { readonly [name: string]: string | boolean }): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false) element.setAttribute(name, value);
  }
}

/** Return the element of the page with an id, which must be there. */
export function byId<T extends HTMLElement>(id: string): T {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element as T;
}

/** Return a time of day, with milliseconds. */
export function clock(at: number): string {
  const date = new Date(at);
  const two = (value: number) => String(value).padStart(2, "0");
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  return `${time}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}
