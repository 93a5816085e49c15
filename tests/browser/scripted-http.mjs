// A client on a scripted HTTP server.

import { once } from "node:events";
import { createServer } from "node:http";
import { Waterspout } from "../../static/waterspout.js";

/** `answer(call)` may answer a request; what it does not is answered as by a server on which nothing happens. */
export async function begin(t, answer, options = {}) {
  const calls = [];
  const server = createServer(async (request, response) => {
    const { pathname, searchParams } = new URL(request.url, "http://localhost");
    let body = "";
    for await (const chunk of request) body += chunk;
    const { authorization } = request.headers;
    const call = { method: request.method, path: decodeURIComponent(pathname), response, authorization };
    Object.assign(call, { after: searchParams.getAll("after"), body: body && JSON.parse(body) });
    call.channels = searchParams.getAll("channel");
    call.threads = searchParams.get("threads");
    Object.assign(call, { before: searchParams.get("before"), limit: Number(searchParams.get("limit")) });
    call.json = (value, status = 200, headers = {}) => {
      response.writeHead(status, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
    };
    call.html = (status, headers = {}) => response.writeHead(status, headers).end("<h1>Sorry</h1>");
    call.stream = (text = "retry: 1000\n\n") => {
      response.writeHead(200, { "Content-Type": "text/event-stream" }).write(text);
    };
    calls.push(call);
    if (await answer(call, calls.filter(({ path }) => path === call.path).length)) return;
    if (call.path === "/healthz") call.json({ status: "ok" });
    else if (call.path === "/v1/events") call.stream();
    else if (call.path === "/v1/poll") setTimeout(() => call.json({ messages: [], gaps: [], cursor: "x" }), 20);
    else if (call.method === "POST") call.json({ offset: 1, key: call.body.key }, 201);
    else if (call.path.startsWith("/v1/documents")) call.json({ documents: [], page: null });
    else call.json({ messages: [], cursor: "e:0", head: "e:0", more: false, gap: null });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = new Waterspout(`ws://127.0.0.1:${server.address().port}/v1/ws`, {
    transports: ["sse", "poll"],
    minDelay: 0.01,
    maxDelay: 0.02,
    ...options,
  });
  const states = [];
  client.on("state", (event) => states.push(event));
  t.after(() => {
    client.close();
    server.closeAllConnections();
    server.close();
  });
  const to = (path) => calls.filter((call) => call.path === path);
  return { client, calls, states, to };
}
