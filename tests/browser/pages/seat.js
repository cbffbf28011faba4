// What a test has in a page: a client, and what it has heard.
import * as duolink from "/sdk/duolink.js";

let heard = () => {};

const seat = {
  duolink,
  client: null,
  states: [], // of the client, each with its close code
  messages: [], // of all peers
  peers: [],
  shown: [], // whether each `pageshow` brought the page back from the cache

  /** Connect, and take what comes; `channels` are subscribed to before. */
  async sit(url, clientId, { channels = [], ...options } = {}) {
    const client = new duolink.Client(url, { clientId, backoffInitial: 0.05, backoffCap: 0.2, ...options });
    this.client = client;
    client.onEvent((event) => {
      if (event.kind === "state") this.states.push(event.state);
      if (event.kind === "peer") this.peers.push([event.peer, event.state]);
      heard();
    });
    const standing = channels.map((name) => client.channel(name).subscribe());
    await client.open();
    await Promise.all(standing);
    client.onMessage((message) => {
      this.messages.push(message.data instanceof Uint8Array ? [...message.data] : message.data);
      heard();
    });
    return client.welcome;
  },

  /** Wait until what happens to the client makes a function true. */
  async until(enough) {
    while (!enough(this)) {
      await new Promise((resolve) => {
        heard = resolve;
      });
    }
  },
};

addEventListener("pageshow", (event) => seat.shown.push(event.persisted));
globalThis.seat = seat;
