"""Modal's control plane as far as calls need it: a deployed class whose method really runs."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError, Status
from modal_proto import api_pb2 as a

from tests.modal_cloud import ControlPlane, Reply

Predict = Callable[..., Any]
_ARGUMENTS_BYTES = 2 * 1024 * 1024
_Status = a.GenericResult.GenericStatus


class RunningPlane(ControlPlane):
    """Runs ``predict`` in a thread for every call, and keeps the results.

    Attributes:
        predict: what the deployed method does with its keyword arguments. An exception that is
            raised becomes the call's, a GenericResult that is returned becomes the call's end.
        forgotten: ids of calls whose results are kept no more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.predict: Predict = dict
        self.forgotten: set[str] = set()
        self._results: dict[str, a.GenericResult | None] = {}

    def _calls(self) -> dict[str, tuple[Any, Any, Reply]]:
        own: dict[str, Reply] = {
            "ClassGet": _deployed_class,
            "FunctionGet": lambda r: a.FunctionGetResponse(
                function_id="fu-1", handle_metadata=_service(), function=_one_function()
            ),
            "FunctionMap": self._begin,
            "FunctionGetOutputs": self._outputs,
            "FunctionGetCallGraph": self._graph,
        }
        calls = {
            call: (getattr(a, f"{call}Request"), getattr(a, f"{call}Response"), reply)
            for call, reply in own.items()
        }
        cancel = (a.FunctionCallCancelRequest, Empty, self._cancel)
        return {**super()._calls(), **calls, "FunctionCallCancel": cancel}

    def _begin(self, request: a.FunctionMapRequest) -> a.FunctionMapResponse:
        call_id = f"fc-{len(self._results)}"
        self._results[call_id] = None
        _, fields = pickle.loads(request.pipelined_inputs[0].input.args)
        threading.Thread(target=self._run, args=(call_id, fields), daemon=True).start()
        answered = a.FunctionPutInputsResponseItem(idx=0, input_id="in-1", input_jwt="jwt")
        return a.FunctionMapResponse(function_call_id=call_id, pipelined_inputs=[answered])

    def _run(self, call_id: str, fields: dict[str, Any]) -> None:
        try:
            answer = self.predict(**fields)
            result = answer if isinstance(answer, a.GenericResult) else _success(answer)
        except Exception as error:
            result = a.GenericResult(
                status=_Status.GENERIC_STATUS_FAILURE, exception="", data=pickle.dumps(error)
            )
        if self._results[call_id] is None:
            self._results[call_id] = result

    def _outputs(self, request: a.FunctionGetOutputsRequest) -> a.FunctionGetOutputsResponse:
        call_id = request.function_call_id
        if call_id in self.forgotten or call_id not in self._results:
            return a.FunctionGetOutputsResponse(num_unfinished_inputs=0)
        until = time.monotonic() + min(request.timeout, 0.2)  # then the client asks again
        while self._results[call_id] is None and time.monotonic() < until:
            time.sleep(0.01)
        result = self._results[call_id]
        if result is None:
            return a.FunctionGetOutputsResponse(num_unfinished_inputs=1)
        item = a.FunctionGetOutputsItem(result=result, data_format=a.DATA_FORMAT_PICKLE)
        return a.FunctionGetOutputsResponse(outputs=[item])

    def _cancel(self, request: a.FunctionCallCancelRequest) -> Empty:
        ended = a.GenericResult(
            status=_Status.GENERIC_STATUS_TERMINATED, exception="Input was cancelled"
        )
        self._results[request.function_call_id] = ended
        return Empty()

    def _graph(self, request: a.FunctionGetCallGraphRequest) -> a.FunctionGetCallGraphResponse:
        call_id = request.function_call_id
        result = self._results[call_id]
        status = _Status.GENERIC_STATUS_UNSPECIFIED if result is None else result.status
        return a.FunctionGetCallGraphResponse(
            inputs=[
                a.InputCallGraphInfo(
                    input_id="in-1", status=status, function_call_id=call_id, task_id="ta-1"
                )
            ],
            function_calls=[a.FunctionCallCallGraphInfo(function_call_id=call_id)],
        )


def _deployed_class(request: a.ClassGetRequest) -> a.ClassGetResponse:
    if request.app_name != "latentsync":
        raise GRPCError(Status.NOT_FOUND, "No such app")
    return a.ClassGetResponse(class_id="cs-1")


def _service() -> a.FunctionHandleMetadata:
    """Return what Modal says of a class's function with one method."""
    method = a.FunctionHandleMetadata(
        function_name="LatentSync.predict",
        function_type=a.Function.FUNCTION_TYPE_FUNCTION,
        is_method=True,
        use_method_name="predict",
        # Larger arguments go to a store of their own, which is not here.
        max_object_size_bytes=_ARGUMENTS_BYTES,
        max_async_object_size_bytes=_ARGUMENTS_BYTES,
    )
    return a.FunctionHandleMetadata(
        function_name="LatentSync.*",
        function_type=a.Function.FUNCTION_TYPE_FUNCTION,
        method_handle_metadata={"predict": method},
    )


def _one_function() -> a.FunctionData:
    data = a.FunctionData(function_name="LatentSync.*")
    data.ranked_functions.add(rank=0, function=a.Function())
    return data


def _success(answer: object) -> a.GenericResult:
    return a.GenericResult(status=_Status.GENERIC_STATUS_SUCCESS, data=pickle.dumps(answer))
