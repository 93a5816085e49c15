"""python-socketio on uvicorn (uvloop, httptools): rooms, WebSocket transport only."""

import os

import socketio
import uvicorn

sio = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])


@sio.event
async def sub(sid: str, channel: str) -> str:
    await sio.enter_room(sid, channel)
    return "ok"


@sio.event
async def pub(sid: str, channel: str, payload: str) -> None:
    await sio.emit("msg", payload, room=channel)


uvicorn.run(
    socketio.ASGIApp(sio),
    host="127.0.0.1",
    port=int(os.environ["PORT"]),
    log_level="warning",
    ws_per_message_deflate=False,
)
