/** What every implementation must do: the recorded histories of `spec/vectors`. */

import { describe, expect, test } from "vitest";
import * as replay from "../replay.js";

describe("messages", () => {
  test.each(replay.cases("messages").map((each) => [each.name, each]))("%s", (_, each) => {
    const items = replay.decode(each);
    if (each.kinds) expect(items.map((item) => item.error ?? item.type)).toEqual(each.kinds);
    else expect(items).toEqual(each.messages);
  });
});

const { heartbeat, backoff, link, session } = replay;
const PLAY = { heartbeat, backoff, link, session };

for (const name of ["heartbeat", "backoff", "link", "session"] as const) {
  describe(name, () => {
    test.each(replay.cases(name).map((each) => [each.name, each]))("%s", (_, each) => {
      const played = PLAY[name](each);
      each.steps.forEach((step: replay.Case, index: number) => {
        expect(played[index], `step ${index}: ${step.do} at ${step.at}`).toEqual(replay.wanted(step.then));
      });
    });
  });
}
