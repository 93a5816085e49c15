// Socket.IO on Node: rooms, WebSocket transport only.
const { createServer } = require("http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, { transports: ["websocket"], serveClient: false });

io.on("connection", (socket) => {
  socket.on("sub", (channel, acknowledge) => {
    socket.join(channel);
    acknowledge("ok");
  });
  socket.on("pub", (channel, payload) => io.to(channel).emit("msg", payload));
});

http.listen(Number(process.env.PORT), "127.0.0.1");
