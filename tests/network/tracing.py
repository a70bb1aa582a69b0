"""Watches what a command and everything it starts sends, by strace: who talks to whom.

What counts is the attempt, so a machine without network shows as much as one with it. Loopback and
sockets of the file system are allowed, asking for names is not, wherever the resolver listens.
"""

from __future__ import annotations

import ast
import functools
import ipaddress
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_OPTIONS = (
    "--daemonize",  # the command keeps the process id and the exit status that its caller sees
    "--output-separately",
    "--output-append-mode",  # ids of processes are used again
    "--follow-forks",
    "--seccomp-bpf",  # no other system call is slowed down
    "--string-limit=256",
    "--signal=none",
    # What sends, what tells who is who, and what would send unseen.
    "--trace=connect,sendto,sendmsg,sendmmsg,execve,?clone,?clone3,?fork,?vfork,io_uring_setup",
)
# With one of them onnxruntime is silent by itself, as on a CI's machines, or as the process that
# runs these tests: what is watched must not be.
_SILENCING = ("CI", "TF_BUILD", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS")
_SILENCING_ELSEWHERE = ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_ANALYTICS_ENABLED")

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_TEXT = re.compile(r'(inet_addr\(|AF_INET6, |sun_path=@?)?("(?:[^"\\]|\\.)*")(?:\.\.\.)?')
_CALL = re.compile(
    r"(?P<name>connect|send\w+|io_uring_setup)\((?P<arguments>.*?)"
    r"(\) += (?P<result>-?\d+|\?)[^)\"]*(\([^)]*\))?| <unfinished \.\.\.>)$"
)
_SENDING = ("connect(", "sendto(", "sendmsg(", "sendmmsg(", "io_uring_setup(")
_FAMILY = re.compile(r"sa_family=(\w+)")
_CHILD = re.compile(r"(?:clone3?|v?fork)\(.*\) += (\d+)")
_PROGRAM = re.compile(r"execve\(.*?\[(.*?)\](?:\.\.\.)?, .* = 0$")

_DNS_PORTS = (53, 853)
_RESOLVERS = (  # which ask others for whoever asks them
    "/run/systemd/resolve/",
    "/run/avahi-daemon/",
    "/run/dbus/system_bus_socket",
)
_NAME_CACHE = "/run/nscd/socket"  # asked for users and groups, too
_ASKING_FOR_HOSTS = (4, 5, 6, 7, 14)  # types of its requests


@dataclass(frozen=True)
class Contact:
    """An attempt to reach what is not on this machine.

    Attributes:
        process: id of the process or thread.
        program: its command line.
        address: whom it tried to reach.
    """

    process: int
    program: str
    address: str

    def __str__(self) -> str:
        return f"process {self.process} ({self.program}) -> {self.address}"


class TraceIncomplete(Exception):
    """Processes that are watched still run."""


@functools.cache
def why_not() -> str | None:
    """Return why nothing can be watched here, or None if it can."""
    if shutil.which("strace") is None:
        return "strace is not installed: apt-get install strace"
    with tempfile.TemporaryDirectory() as folder:
        command = watching(["true"], Path(folder, "trace"))
        tried = subprocess.run(command, capture_output=True, text=True)
    return tried.stderr.strip() or None


def watching(command: Sequence[str], folder: Path) -> list[str]:
    """Return the command that runs ``command`` and writes what it sends to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    return ["strace", *_OPTIONS, "-o", str(folder / "process"), *command]


def talkative(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what would silence libraries beside our own doing."""
    silencing = _SILENCING + _SILENCING_ELSEWHERE
    return {name: value for name, value in environment.items() if name not in silencing}


def wait_for_end(folder: Path, *, timeout_s: float = 60.0) -> None:
    """Wait until every process has ended and all that it did is written.

    Raises:
        TraceIncomplete: some still run; they are named.
    """
    deadline = time.monotonic() + timeout_s
    while _is_being_written(folder):
        if time.monotonic() > deadline:
            programs = _Programs(folder)
            running = [_id_of(path) for path in _files(folder) if _still_runs(path)]
            named = ", ".join(f"{process} ({programs.of(process)})" for process in running)
            raise TraceIncomplete(f"these still run: {named}")
        time.sleep(0.05)


def _is_being_written(folder: Path) -> bool:
    """Tell whether strace still watches: it ends after the last process, all of it written."""
    output = os.fsencode(folder / "process")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = path.read_bytes().split(b"\0")
        except OSError:  # it has just ended
            continue
        if output in arguments and Path(os.fsdecode(arguments[0])).name == "strace":
            return True
    return False


def contacts(folder: Path) -> list[Contact]:
    """Return the attempts to reach anything beyond loopback that were written so far.

    Raises:
        ValueError: a line cannot be understood, or nothing was watched.
    """
    programs, found = _Programs(folder), []
    for path in _files(folder):
        process = _id_of(path)
        with path.open(encoding="ascii") as lines:
            for address in _beyond_loopback(lines):
                found.append(Contact(process, programs.of(process), address))
    return found


def _files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("process.*"))
    if not paths:
        raise ValueError(f"nothing was watched: {folder.name} is empty")
    return paths


def _id_of(path: Path) -> int:
    return int(path.suffix[1:])


def _still_runs(path: Path) -> bool:
    """Tell whether a process is watched, whose id may be that of another one by now."""
    try:
        status = Path("/proc", path.suffix[1:], "status").read_text()
    except OSError:
        return False
    return "TracerPid:\t0\n" not in status


class _Programs:
    """Knows whose thread or child a process is."""

    def __init__(self, folder: Path) -> None:
        self._parents: dict[int, int] = {}
        self._commands: dict[int, str] = {}
        for path in _files(folder):
            process = _id_of(path)
            with path.open(encoding="ascii") as lines:
                for line in lines:
                    if child := _CHILD.match(line):
                        self._parents[int(child[1])] = process
                    elif program := _PROGRAM.match(line):
                        words = (_decode(word) for word in _STRING.findall(program[1]))
                        self._commands[process] = b" ".join(words).decode("utf-8", "replace")

    def of(self, process: int) -> str:
        """Return the command line of a process, or that of the one it was forked from."""
        seen = set()
        while process not in self._commands and process not in seen:
            seen.add(process)
            process = self._parents.get(process, process)
        return self._commands.get(process, "unknown program")[:160]


def _beyond_loopback(lines: Iterable[str]) -> Iterator[str]:
    """Yield the addresses beyond loopback in what one thread did."""
    asked: dict[str, str] = {}  # connected resolver by descriptor, until it is asked for a name
    name_caches: set[str] = set()
    for line in lines:
        call = _CALL.match(line)
        if call is None:
            if line.startswith(_SENDING):
                raise ValueError(f"not understood: {line.strip()}")
            continue
        if call["name"] == "io_uring_setup" and call["result"] != "-1":
            yield "unknown: what goes through io_uring cannot be watched"
        descriptor = call["arguments"].split(",")[0]
        if call["name"] == "connect":  # the number may have been another socket's before
            name_caches.discard(descriptor)
            if descriptor in asked:
                yield asked.pop(descriptor)
        for address in _addresses(call):
            if address.is_name_cache:
                name_caches.add(descriptor)
            elif address.is_resolver:
                asked[descriptor] = str(address)
            elif not address.is_allowed:
                yield str(address)
        for message in _messages(call):
            if descriptor in asked:
                yield f"{asked.pop(descriptor)}, asked for {_asked_name(message)}"
            elif descriptor in name_caches and (host := _host_asked_of_cache(message)):
                yield f"the name cache, asked for {host}"
    yield from asked.values()


def _addresses(call: re.Match[str]) -> list[_Address]:
    """Return the addresses in a call; raises ValueError if they cannot be read."""
    plain = _TEXT.sub(lambda text: text[0] if text[1] else '""', call["arguments"])
    found = [_Address.parse(part) for part in _parts(plain)]
    if call["name"] == "connect" and not found and call["result"] != "-1":
        raise ValueError(f"not understood: {call[0]}")
    return found


def _messages(call: re.Match[str]) -> list[bytes]:
    """Return what is sent in a call."""
    return [_decode(text[2]) for text in _TEXT.finditer(call["arguments"]) if not text[1]]


def _parts(arguments: str) -> list[str]:
    """Return the parts of a call's arguments of which each holds one address."""
    starts = [match.start() for match in _FAMILY.finditer(arguments)]
    return [arguments[start:end] for start, end in pairwise([*starts, len(arguments)])]


@dataclass(frozen=True)
class _Address:
    family: str
    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> _Address:
        family = _FAMILY.match(text)
        assert family is not None
        if family[1] in ("AF_INET", "AF_INET6"):
            host = re.search(r'(?:inet_addr\(|AF_INET6, )"([^"]+)"', text)
            port = re.search(r"sin6?_port=htons\((\d+)\)", text)
            if host is None or port is None:
                raise ValueError(f"not understood: {text}")
            return cls(family[1], host[1], int(port[1]))
        path = re.search(r'sun_path=(@?)"([^"]*)"', text)
        return cls(family[1], "" if path is None else path[1] + path[2])

    @property
    def is_name_cache(self) -> bool:
        return self.family == "AF_UNIX" and self.host.endswith(_NAME_CACHE)

    @property
    def is_resolver(self) -> bool:
        if self.family == "AF_UNIX":
            return self.host.removeprefix("/var").startswith(_RESOLVERS)
        return self.port in _DNS_PORTS

    @property
    def is_allowed(self) -> bool:
        if self.family == "AF_UNIX":
            return True
        if self.family in ("AF_INET", "AF_INET6"):
            found = ipaddress.ip_address(self.host)
            found = getattr(found, "ipv4_mapped", None) or found
            return found.is_loopback or found.is_unspecified  # which is this machine, too
        return self.family in ("AF_NETLINK", "AF_UNSPEC")  # the kernel; nobody

    def __str__(self) -> str:
        if self.port is None:
            return f"{self.family} {self.host}".strip()
        shown = f"{self.host} port {self.port}"
        return f"{shown} (DNS)" if self.port in _DNS_PORTS else shown


def _decode(quoted: str) -> bytes:
    """Return what strace wrote between quotes: C's escapes are those of Python's bytes."""
    return bytes(ast.literal_eval(f"b{quoted}"))


def _asked_name(message: bytes) -> str:
    """Return the name that a DNS message asks for, as far as it is there."""
    labels, rest = [], message[12:]  # behind the header
    while rest and rest[0] and len(rest) > rest[0]:
        labels.append(rest[1 : rest[0] + 1].decode("ascii", "replace"))
        rest = rest[rest[0] + 1 :]
    return ".".join(labels) or "something"


def _host_asked_of_cache(message: bytes) -> str | None:
    """Return the host that a request to nscd asks for; None if it asks for something else."""
    if int.from_bytes(message[4:8], "little") not in _ASKING_FOR_HOSTS:
        return None
    name = message[12:].rstrip(b"\0").decode("ascii", "replace")
    return None if name in ("", "localhost") else name
