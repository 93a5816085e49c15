// `ws` with the broadcast loop of its README.
const { WebSocketServer, WebSocket } = require("ws");

const channels = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.env.PORT) });

server.on("connection", (socket) => {
  const subscribed = new Set();
  socket.on("message", (message) => {
    const text = message.toString();
    const verb = text.slice(0, 3);
    if (verb === "sub") {
      const channel = text.slice(4);
      subscribed.add(channel);
      if (!channels.has(channel)) channels.set(channel, new Set());
      channels.get(channel).add(socket);
      socket.send("ok");
    } else if (verb === "pub") {
      const end = text.indexOf(":", 4);
      const payload = text.slice(end + 1);
      for (const client of channels.get(text.slice(4, end)) ?? []) {
        if (client.readyState === WebSocket.OPEN) client.send(payload);
      }
    }
  });
  socket.on("close", () => subscribed.forEach((channel) => channels.get(channel).delete(socket)));
});
