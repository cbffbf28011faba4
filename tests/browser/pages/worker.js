// A client in a worker: classic or module, dedicated or shared. It sends a line to bob and says what he answered.
async function talk({ url, clientId }, answer) {
  const { connect } = await import("/sdk/duolink.js");
  const client = await connect(url, { clientId });
  const link = client.link("bob");
  await (await link.send("from a worker")).delivered();
  const said = await link.request("?");
  await client.close();
  answer({ said, scope: globalThis.constructor.name });
}

function serve(port) {
  port.onmessage = ({ data }) =>
    talk(data, (answer) => port.postMessage(answer)).catch((error) => port.postMessage(String(error)));
}

globalThis.onconnect = ({ ports }) => serve(ports[0]);
if (!globalThis.SharedWorkerGlobalScope) serve(globalThis);
