/** How another client comes: in a window, or on a phone. */

import { generate } from "lean-qr";
import { toSvg } from "lean-qr/extras/svg";
import { displayName } from "./address.js";
import { byId } from "./elements.js";

/** Hosts that mean the machine itself: nobody else can reach them. */
const LOOPBACK = /^(localhost|.*\.localhost|127\.\d+\.\d+\.\d+|\[::1\])$/;

/** Make the page's buttons open windows and show codes. `next`: name and address of the next client. */
export function invite(next: () => { readonly name: string; readonly url: string }): void {
  const dialog = byId<HTMLDialogElement>("invitation");
  byId("window").addEventListener("click", () => {
    open(next().url, "_blank", "popup,width=560,height=860,noopener");
  });
  byId("phone").addEventListener("click", () => {
    const { name, url } = next();
    byId("invited").textContent = displayName(`:${name}`);
    const link = byId<HTMLAnchorElement>("address");
    link.href = url;
    link.textContent = url;
    const code = toSvg(generate(url), document, { width: null, height: null });
    code.setAttribute("role", "img");
    code.setAttribute("aria-label", `QR code of ${url}`);
    byId("code").replaceChildren(code);
    byId("only-here").hidden = !LOOPBACK.test(location.hostname);
    byId("forward").textContent = `adb reverse tcp:${location.port || 80} tcp:${location.port || 80}`;
    dialog.showModal();
  });
  byId("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(next().url);
      byId("copied").textContent = "Copied.";
    } catch {
      byId("copied").textContent = "Not possible here: mark the address and copy it.";
    }
  });
  dialog.addEventListener("close", () => {
    byId("copied").textContent = "";
  });
}
