/** The operator's token: in memory, and in this tab's `sessionStorage` if the operator wants it to survive a
 * reload. Never in `localStorage`, a cookie or an address. */

const KEY = "duolink operator token";

export class Credentials {
  private _token: string | null;

  /** `storage`: null in a page that has none (sandboxed, or storage is forbidden). */
  constructor(private readonly _storage: Storage | null) {
    this._token = this._storage?.getItem(KEY) ?? null;
  }

  get token(): string | null {
    return this._token;
  }

  /** Use this token from now on; `keep` it until the tab closes, else until the page goes. */
  use(token: string, keep: boolean): void {
    this._token = token;
    this._storage?.removeItem(KEY);
    try {
      if (keep) this._storage?.setItem(KEY, token);
    } catch {
      // Full, or forbidden: the token lives as long as the page.
    }
  }

  forget(): void {
    this._token = null;
    this._storage?.removeItem(KEY);
  }
}

/** Returns this tab's storage, or null where a page may not have one. */
export function tabStorage(): Storage | null {
  try {
    return globalThis.sessionStorage ?? null;
  } catch {
    return null;
  }
}
