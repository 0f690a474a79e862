"""TLS in front of a server that speaks plain TCP, as a server with TLS of its own would look to its clients."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A client of PostgreSQL asks for TLS before it speaks it: length 8, code 80877103.
_ASKS_FOR_TLS = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


@contextmanager
def tls_before(target: str | tuple[str, int], certificate: Path, key: Path, *, asked: bool = False) -> Iterator[int]:
    """Yield the port on 127.0.0.1 that leads by TLS to `target`: a unix socket's path, or host and port.

    `asked`: clients ask for it first, as PostgreSQL's do.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(65536):
                sink.write(piece)
                await sink.drain()
        sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            if asked:
                assert await reader.readexactly(8) == _ASKS_FOR_TLS, "not a client that asks for TLS"
                writer.write(b"S")
                await writer.start_tls(context)
            opened = (
                asyncio.open_unix_connection(target) if isinstance(target, str) else asyncio.open_connection(*target)
            )
            far_reader, far_writer = await opened
            await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    start = asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if asked else context)
    server = asyncio.run_coroutine_threadsafe(start, loop).result(10)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        asyncio.run_coroutine_threadsafe(_close(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close(server: asyncio.Server) -> None:
    server.close()
    mine = asyncio.current_task()
    open_now = [task for task in asyncio.all_tasks() if task is not mine]
    for task in open_now:
        task.cancel()
    await asyncio.gather(*open_now, return_exceptions=True)
