"""A Siphon server without a game: it shows a recorded fight and writes down every key.

The client's waits for menus are shortened by `quicken`. As a command, it is another command with
them shortened: python -m tests.support.fake_siphon BC_training.rollout --checkpoint ...
"""

import contextlib
import importlib
import sys
import threading
import time
from concurrent import futures

import cv2
import eldengym.env
import grpc
import gymnasium
import numpy as np
from eldengym.client import elden_client
from pysiphon.generated import siphon_service_pb2 as pb
from pysiphon.generated import siphon_service_pb2_grpc as rpc

from gameplay_pipeline.environments import live

POSITIONS = {f"HeroLocalPos{axis}": 1.5 for axis in "XYZ"}


def recorded_fight(ticks=40, size=(256, 144)):
    """BGR frames and attributes of a fight in the arena."""
    env = gymnasium.make("boss_arena:BossArena-v0", width=size[0], height=size[1])
    observation, _ = env.reset(seed=3)
    frames, attributes = [], []
    for _ in range(ticks):
        values = {name: value.item() for name, value in observation.items() if name != "frame"}
        frames.append(np.ascontiguousarray(observation["frame"][..., ::-1]))
        attributes.append(values)
        observation, *_ = env.step(np.array([0, 0, 0, 0, 0, 0, 1], np.int8))
    return frames, attributes


class FakeSiphon(rpc.SiphonServiceServicer):
    """The server, and the levers by which a test breaks it."""

    def __init__(self, frames, attributes, port=0):
        self.jpegs = [cv2.imencode(".jpg", each)[1].tobytes() for each in frames]
        self.attributes = attributes
        self.keys: list[tuple[int, str, bool]] = []
        """Tick, key, whether it went down. A tick is a read of the hero's health since the fight
        began."""
        self.down: set[str] = set()
        self.taps: list[tuple[str, ...]] = []
        self.tick = 0
        self.fps = 200.0
        self.overrides: dict[str, float] = {}
        self.unreadable: set[str] = set()
        self.read_seconds = 0.0
        self.garbage = self.silent = self.keys_refused = self.memory_missing = False
        self.streams = 0
        self._end_streams = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        rpc.add_SiphonServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.host = f"127.0.0.1:{self.port}"
        self._server.start()

    def stop(self):
        self._end_streams.set()
        self._server.stop(0).wait()

    def cut_stream(self):
        """Ends the streams that run now."""
        self._end_streams.set()

    def wait_for(self, what, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not what() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert what(), "the server waited in vain"

    def SetProcessConfig(self, request, context):  # noqa: N802 - the service's own names
        assert {"HeroHp", "NpcAnimId"} <= {each.name for each in request.attributes}
        return pb.SetProcessConfigResponse(success=True)

    def InitializeMemory(self, request, context):  # noqa: N802
        if self.memory_missing:
            return pb.InitializeMemoryResponse(success=False, message="no process eldenring.exe")
        return pb.InitializeMemoryResponse(success=True, process_id=7)

    def InitializeInput(self, request, context):  # noqa: N802
        return pb.InitializeInputResponse(success=True)

    def InitializeCapture(self, request, context):  # noqa: N802
        return pb.InitializeCaptureResponse(success=True, window_width=3840, window_height=2160)

    def GetServerStatus(self, request, context):  # noqa: N802
        return pb.GetServerStatusResponse(
            success=True, memory_initialized=True, input_initialized=True, capture_initialized=True
        )

    def ExecuteCommand(self, request, context):  # noqa: N802
        return pb.ExecuteCommandResponse(success=True)

    def GetAttribute(self, request, context):  # noqa: N802
        time.sleep(self.read_seconds)
        name = request.attributeName
        if name in self.unreadable:
            return pb.GetSiphonResponse(success=False, message="a null pointer on the way")
        if name == "HeroHp":
            self.tick += 1
        row = self.attributes[min(self.tick, len(self.attributes) - 1)]
        value = {**POSITIONS, **row, **self.overrides}[name]
        if isinstance(value, int):
            return pb.GetSiphonResponse(success=True, int_value=value)
        return pb.GetSiphonResponse(success=True, float_value=value)

    def SetAttribute(self, request, context):  # noqa: N802
        return pb.SetSiphonResponse(success=True)

    def MoveMouse(self, request, context):  # noqa: N802
        return pb.MoveMouseResponse(success=True)

    def InputKeyTap(self, request, context):  # noqa: N802
        self.taps.append(tuple(request.keys))
        return pb.InputKeyTapResponse(success=True)

    def InputKeyToggle(self, request, context):  # noqa: N802
        if self.keys_refused:
            return pb.InputKeyToggleResponse(success=False, message="no window")
        self.keys.append((self.tick, request.key, request.toggle))
        (self.down.add if request.toggle else self.down.discard)(request.key)
        return pb.InputKeyToggleResponse(success=True)

    def StreamFrames(self, request, context):  # noqa: N802
        assert request.format == "jpeg"
        self.streams += 1
        self._end_streams.clear()
        number = 0
        while context.is_active() and not self._end_streams.wait(1 / self.fps):
            if self.silent:
                continue
            jpeg = self.jpegs[min(self.tick, len(self.jpegs) - 1)]
            yield pb.FrameData(
                data=b"no jpeg" if self.garbage else jpeg,
                width=3840,
                height=2160,
                frame_number=number,
                format="jpeg",
            )
            number += 1


class _Hurried:
    """The module time to the client, without its patience."""

    sleep = staticmethod(lambda seconds: time.sleep(min(seconds, 0.01)))
    time = staticmethod(time.time)


def quicken(setattr=setattr):
    """Takes the waits for menus out of the client."""
    load = elden_client.EldenClient.load_config_from_file
    setattr(eldengym.env, "time", _Hurried)
    setattr(elden_client, "sleep", _Hurried.sleep)
    setattr(
        elden_client.EldenClient,
        "load_config_from_file",
        lambda self, path, wait_time=0: load(self, path, wait_time=0),
    )


@contextlib.contextmanager
def impatient_game(patch, fight, begin_s, release_s):
    """A server that shows a fight, and a client that gives up on it soon.

    Args:
        patch: a MonkeyPatch.
        fight: what `recorded_fight` gives.
        begin_s: seconds that a fight gets to begin.
        release_s: seconds for which a server that is gone is waited for.
    """
    quicken(patch.setattr)
    patch.setattr(live, "STALL_S", 0.5)
    patch.setattr(live, "BEGIN_S", begin_s)
    patch.setattr(live, "RELEASE_S", release_s)
    fake = FakeSiphon(*fight)
    yield fake
    fake.stop()


if __name__ == "__main__":
    from gameplay_pipeline.plumbing import command

    quicken()
    sys.exit(command.run(importlib.import_module(sys.argv.pop(1)).main))
