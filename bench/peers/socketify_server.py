"""socketify: uWebSockets (C++) with its native publish/subscribe, called from Python."""

import os

from socketify import App, AppListenOptions, CompressOptions, OpCode

app = App()


def on_message(ws, message, opcode) -> None:  # type: ignore[no-untyped-def]
    verb, channel, *rest = message.split(":", 2)
    if verb == "sub":
        ws.subscribe(channel)
        ws.send("ok", OpCode.TEXT)
    elif verb == "pub":
        app.publish(channel, rest[0], OpCode.TEXT)


app.ws(
    "/ws",
    {
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 65536,
        "idle_timeout": 60,
        "max_backpressure": 1048576,  # as much as Waterspout buffers; above it uWebSockets drops messages
        "message": on_message,
    },
)
app.listen(AppListenOptions(port=int(os.environ["PORT"]), host="127.0.0.1"))
app.run()
