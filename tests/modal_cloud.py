"""Modal's control plane as far as a deployment needs it: a real gRPC server on this machine.

The real client talks to it. It remembers every request and says yes to everything; an object's id
is its kind and its name. Calls that are not listed here are unknown to it, which fails the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib.const import Cardinality, Handler
from grpclib.server import Server, Stream
from modal_proto import api_pb2

IMAGE_BUILDER = "2025.06"  # version that the workspace of a real account names

_GOODBYE_S = 20  # for clients that are ending

Reply = Callable[[Any], Any]


class ControlPlane:
    """Remembers requests by the name of the call."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self._images: list[Any] = []

    def of(self, call: str) -> list[Any]:
        """Return the requests of one call, in order."""
        return [request for name, request in self.requests if name == call]

    def image(self, image_id: str) -> Any:
        """Return the definition of the image that got this id."""
        return self._images[int(image_id.removeprefix("im-"))]

    def __mapping__(self) -> dict[str, Handler]:
        return {
            f"/modal.client.ModalClient/{call}": Handler(
                self._handler(call, reply), Cardinality.UNARY_UNARY, request_type, reply_type
            )
            for call, (request_type, reply_type, reply) in self._calls().items()
        }

    def _handler(self, call: str, reply: Reply) -> Callable[[Stream[Any, Any]], Any]:
        async def handle(stream: Stream[Any, Any]) -> None:
            request = await stream.recv_message()
            self.requests.append((call, request))
            await stream.send_message(reply(request))

        return handle

    def _calls(self) -> dict[str, tuple[Any, Any, Reply]]:
        a = api_pb2
        named = {
            "AppCreate": lambda r: a.AppCreateResponse(app_id="ap-1"),
            "AppGetByDeploymentName": lambda r: a.AppGetByDeploymentNameResponse(),
            "AppPublish": lambda r: a.AppPublishResponse(url="https://modal.example/app"),
            "ClassCreate": lambda r: a.ClassCreateResponse(class_id="cs-1"),
            "EnvironmentGetOrCreate": _environment,
            "FunctionCreate": _function,
            "FunctionPrecreate": lambda r: a.FunctionPrecreateResponse(
                function_id=f"fu-{r.function_name}"
            ),
            "ImageGetOrCreate": self._build_image,
            "MountGetOrCreate": lambda r: a.MountGetOrCreateResponse(mount_id="mo-1"),
            "MountBatchedCheckExistence": lambda r: a.MountBatchedCheckExistenceResponse(),
            "SecretGetOrCreate": lambda r: a.SecretGetOrCreateResponse(
                secret_id=f"st-{r.deployment_name or 'from_dict'}"
            ),
            "VolumeCommit": lambda r: a.VolumeCommitResponse(),
            "VolumeGetOrCreate": lambda r: a.VolumeGetOrCreateResponse(
                volume_id=f"vo-{r.deployment_name}",
                metadata=a.VolumeMetadata(version=r.version, name=r.deployment_name),
            ),
        }
        calls = {
            call: (getattr(a, f"{call}Request"), getattr(a, f"{call}Response"), reply)
            for call, reply in named.items()
        }
        return {
            "ClientHello": (Empty, a.ClientHelloResponse, lambda r: a.ClientHelloResponse()),
            "AppClientDisconnect": (a.AppClientDisconnectRequest, Empty, lambda r: Empty()),
            "AppHeartbeat": (a.AppHeartbeatRequest, Empty, lambda r: Empty()),
            "VolumeReload": (a.VolumeReloadRequest, Empty, lambda r: Empty()),
            **calls,
        }

    def _build_image(self, request: Any) -> Any:
        self._images.append(request.image)
        return api_pb2.ImageGetOrCreateResponse(
            image_id=f"im-{len(self._images) - 1}",
            result=api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS),
        )


def _environment(_request: Any) -> Any:
    settings = api_pb2.EnvironmentSettings(image_builder_version=IMAGE_BUILDER)
    return api_pb2.EnvironmentGetOrCreateResponse(
        environment_id="en-1", metadata=api_pb2.EnvironmentMetadata(name="main", settings=settings)
    )


def _function(request: Any) -> Any:
    function, data = request.function, api_pb2.FunctionData()
    resources = api_pb2.Function(resources=function.resources, timeout_secs=function.timeout_secs)
    data.ranked_functions.add(rank=0, function=resources)
    return api_pb2.FunctionCreateResponse(
        function_id=f"fu-{function.function_name}",
        function_data=data,
        handle_metadata=api_pb2.FunctionHandleMetadata(
            function_name=function.function_name,
            function_type=function.function_type,
            definition_id=f"de-{function.function_name}",
            supported_input_formats=function.supported_input_formats,
            supported_output_formats=function.supported_output_formats,
        ),
    )


@contextlib.contextmanager
def control_plane(plane: ControlPlane | None = None) -> Iterator[tuple[ControlPlane, str]]:
    """Serve a control plane from a thread; yields it and its address."""
    plane = plane or ControlPlane()
    listener = socket.create_server(("127.0.0.1", 0))
    selector = selectors.DefaultSelector()
    loop, stop = asyncio.SelectorEventLoop(selector), asyncio.Event()
    idle = len(selector.get_map())  # what a loop listens to without any connection

    async def serve() -> None:
        server = Server([plane])
        await server.start(sock=listener)
        await stop.wait()
        server.close()
        await server.wait_closed()
        async with asyncio.timeout(_GOODBYE_S):
            while len(selector.get_map()) > idle:  # connections end when their clients end them
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)  # in which closed connections release their sockets

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        yield plane, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()
