/** How a client connects, as far as it is the client's to decide. */

import { FIRST_TRIES, HELLO_TIMEOUT, RESUME_WINDOW } from "./limits.js";

/** How a client connects. Times in seconds. */
export interface Options {
  readonly firstTries: number;
  readonly backoffInitial: number;
  readonly backoffFactor: number;
  readonly backoffCap: number;
  readonly helloTimeout: number;
  readonly resumeWindow: number;
}

export const DEFAULTS: Options = {
  firstTries: FIRST_TRIES,
  backoffInitial: 1,
  backoffFactor: 2,
  backoffCap: 30,
  helloTimeout: HELLO_TIMEOUT,
  resumeWindow: RESUME_WINDOW,
};
