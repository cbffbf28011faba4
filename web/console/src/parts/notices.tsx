/** What an operator must know at once, above every page. */

import { duration } from "../format.js";
import { notices } from "../model/notices.js";
import { useLive } from "./live.js";

export function NoticeBoard() {
  const operations = useLive();
  const { standing, facts } = operations;
  const now = Date.now();
  const found = notices(standing, facts, now);
  return (
    <div class="notices">
      <div role="status">
        {found.map((notice) => (
          <p key={notice.name} class="notice" data-level={notice.level}>
            <strong>{notice.title}.</strong> {notice.text}
          </p>
        ))}
      </div>
      {standing.state === "lost" ? (
        <NextAttempt at={standing.retryAt} retry={() => operations.retry()} />
      ) : null}
    </div>
  );
}

/** Outside of the live region: nobody wants a countdown read aloud. */
function NextAttempt({ at, retry }: { at: number; retry: () => void }) {
  const seconds = Math.ceil((at - Date.now()) / 1000);
  return (
    <p class="attempt small muted">
      <span>Next attempt {seconds > 0 ? `within ${duration(seconds)}` : "now"}.</span>
      <button type="button" onClick={retry}>
        Try now
      </button>
    </p>
  );
}
