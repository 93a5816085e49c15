"""Connections that take little at a time, and end at once."""

from __future__ import annotations

import asyncio
import socket


async def connect(
    host: str, port: int | None, *, buffer: int | None, limit: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """`buffer`: bytes the kernel keeps of what is not read (None: what it likes); `limit`: what asyncio keeps."""
    connection = socket.socket()
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, port))
    return await asyncio.open_connection(sock=connection, limit=limit)


async def abort(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass
