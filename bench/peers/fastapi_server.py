"""FastAPI on uvicorn (uvloop, httptools), with the connection manager of its documentation."""

import os
from collections import defaultdict

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()


class ConnectionManager:
    def __init__(self) -> None:
        self.channels: defaultdict[str, list[WebSocket]] = defaultdict(list)

    def subscribe(self, channel: str, websocket: WebSocket) -> None:
        self.channels[channel].append(websocket)

    def disconnect(self, channel: str, websocket: WebSocket) -> None:
        self.channels[channel].remove(websocket)

    async def broadcast(self, channel: str, message: str) -> None:
        for websocket in self.channels[channel]:
            await websocket.send_text(message)


manager = ConnectionManager()


@app.websocket("/ws")
async def endpoint(websocket: WebSocket) -> None:
    await websocket.accept()
    subscribed: set[str] = set()
    try:
        while True:
            verb, channel, *rest = (await websocket.receive_text()).split(":", 2)
            if verb == "sub":
                subscribed.add(channel)
                manager.subscribe(channel, websocket)
                await websocket.send_text("ok")
            elif verb == "pub":
                await manager.broadcast(channel, rest[0])
    except WebSocketDisconnect:
        for channel in subscribed:
            manager.disconnect(channel, websocket)


uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", ws_per_message_deflate=False)
