// Two pages of the same work: COUNT messages {"n": …, "text": 40 bytes}, one way. Both return messages per second.
import { connect } from "/sdk/duolink.js";

const TEXT = "x".repeat(40);

/** On a bare WebSocket, `perFrame` messages to a frame. Sent means: the far end has had all. */
async function bare(url, count, perFrame, sending) {
  const socket = new WebSocket(url);
  await new Promise((resolve) => {
    socket.onopen = resolve;
  });
  const start = performance.now();
  await new Promise((resolve) => {
    let got = 0;
    if (!sending) {
      socket.onmessage = ({ data }) => {
        for (const line of data.split("\n")) if (JSON.parse(line).text) got += 1;
        if (got === count) resolve();
      };
      socket.send(`flood ${perFrame}`);
      return;
    }
    socket.onmessage = resolve;
    (async () => {
      for (let n = 0; n < count; ) {
        const lines = [];
        while (lines.length < perFrame) lines.push(JSON.stringify({ n: n++, text: TEXT }));
        socket.send(lines.join("\n"));
        while (socket.bufferedAmount > 1024 * 1024) await new Promise((resolve) => setTimeout(resolve));
      }
    })();
  });
  const seconds = (performance.now() - start) / 1000;
  socket.close();
  return count / seconds;
}

let client;

/** With the SDK. Received and sent mean: acknowledged, each. */
async function sdk(url, count, sending) {
  client ??= await connect(url, { clientId: "alice" });
  const link = client.link("bob");
  const start = performance.now();
  if (sending) {
    let last;
    for (let n = 0; n < count; n++) last = await link.send({ n, text: TEXT });
    await last.delivered();
  } else await receive("flood", count);
  return count / ((performance.now() - start) / 1000);
}

function receive(command, count) {
  return new Promise((resolve) => {
    let got = 0;
    client.onMessage((message) => {
      if (message.data.text) got += 1;
      if (got === count) resolve();
    });
    client.link("bob").send(command);
  });
}

/** 1,000 messages a second, both ways: return the tasks that took longer than 50 ms, and how many were sent. */
async function pace(url, count) {
  client ??= await connect(url, { clientId: "alice" });
  const tasks = [];
  await new Promise((seen) => {
    new PerformanceObserver((list) => {
      for (const { duration } of list.getEntries()) tasks.push(duration);
      seen();
    }).observe({ type: "longtask" });
    setTimeout(() => {
      for (const start = performance.now(); performance.now() < start + 80; ); // one that must be seen
    });
  });
  tasks.length = 0;
  let sent = 0;
  const sending = setInterval(() => {
    for (let n = 0; n < 10; n++) client.link("bob").send({ n: sent++, text: TEXT });
  }, 10);
  await receive("pace", count);
  clearInterval(sending);
  await new Promise((resolve) => setTimeout(resolve, 100)); // what was observed is told late
  return { tasks, sent };
}

globalThis.speed = { bare, sdk, pace };
