"""What the tracer of these tests sees: real attempts of real processes, and lines of strace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.network import tracing
from tests.network.tracing import Contact, contacts
from tests.server.live import REPOSITORY, wait_until

_NSCD = 'connect(5, {sa_family=AF_UNIX, sun_path="/var/run/nscd/socket"}, 110) = 0'
_IPV6 = (
    "sin6_port=htons({port}), sin6_flowinfo=htonl(0), "
    'inet_pton(AF_INET6, "{host}", &sin6_addr), sin6_scope_id=0'
)


def read(folder: Path, *lines: str) -> list[str]:
    (folder / "process.7").write_text("".join(f"{line}\n" for line in lines))
    return [contact.address for contact in contacts(folder)]


def inet6(host: str, port: int = 443) -> str:
    return f"connect(4, {{sa_family=AF_INET6, {_IPV6.format(port=port, host=host)}}}, 28) = 0"


def inet(host: str, port: int = 443, result: str = "0") -> str:
    address = f'sin_port=htons({port}), sin_addr=inet_addr("{host}")'
    return f"connect(4, {{sa_family=AF_INET, {address}}}, 16) = {result}"


@pytest.mark.parametrize(
    "line",
    [
        inet("127.0.0.1", 8000),
        inet("127.8.9.10"),
        inet("127.0.0.1", 8000, "-1 EINPROGRESS (Operation now in progress)"),
        inet("0.0.0.0", 8000),
        inet6("::1"),
        inet6("::ffff:127.0.0.1"),
        'connect(4, {sa_family=AF_UNIX, sun_path="/tmp/a"}, 110) = 0',
        'connect(4, {sa_family=AF_UNIX, sun_path=@"x"}, 110) = -1 ECONNREFUSED (Refused)',
        _NSCD,
        'connect(4, {sa_family=AF_UNSPEC, sa_data="\\0\\0"}, 16) = 0',
        "connect(4, 0x1, 16) = -1 EFAULT (Bad address)",
        'sendto(4, "x", 1, 0, {sa_family=AF_NETLINK, nl_pid=0, nl_groups=00000000}, 12) = 1',
        'sendto(4, "a {sa_family=AF_INET, inet_addr(\\"9.9.9.9\\")"..., 80, 0, NULL, 0) = 80',
        "io_uring_setup(8, 0x7ffe) = -1 EPERM (Operation not permitted)",
        "+++ exited with 0 +++",
    ],
)
def test_what_stays_on_the_machine_is_allowed(tmp_path: Path, line: str) -> None:
    assert read(tmp_path, line) == []


@pytest.mark.parametrize(
    ("line", "address"),
    [
        (inet("192.0.2.1"), "192.0.2.1 port 443"),
        (inet("192.0.2.1", 80, "-1 EINPROGRESS (In progress)"), "192.0.2.1 port 80"),
        (inet("10.0.0.7", 80, "-1 ENETUNREACH (Unreachable)"), "10.0.0.7 port 80"),
        (inet("169.254.169.254", 80, "?"), "169.254.169.254 port 80"),
        (inet("192.0.2.1").replace(") = 0", " <unfinished ...>"), "192.0.2.1 port 443"),
        (inet6("2001:db8::1"), "2001:db8::1 port 443"),
        (inet6("::ffff:192.0.2.1"), "::ffff:192.0.2.1 port 443"),
        (inet("127.0.0.53", 53), "127.0.0.53 port 53 (DNS)"),
        (inet6("::1", 53), "::1 port 53 (DNS)"),
        (
            'connect(4, {sa_family=AF_UNIX, sun_path="/run/systemd/resolve/io.systemd.Resolve"}, '
            "42) = -1 ENOENT (No such file or directory)",
            "AF_UNIX /run/systemd/resolve/io.systemd.Resolve",
        ),
        ("connect(4, {sa_family=AF_VSOCK, svm_cid=0x2, svm_port=0x3}, 16) = 0", "AF_VSOCK"),
        (
            "sendmsg(4, {msg_name={sa_family=AF_INET, sin_port=htons(9), "
            'sin_addr=inet_addr("8.8.8.8")}, msg_iov=[{iov_base="a", iov_len=1}]}, 0) = 1',
            "8.8.8.8 port 9",
        ),
        (
            "io_uring_setup(8, 0x7ffe) = 5",
            "unknown: what goes through io_uring cannot be watched",
        ),
    ],
)
def test_what_leaves_the_machine_is_found(tmp_path: Path, line: str, address: str) -> None:
    assert read(tmp_path, line) == [address]


def test_every_message_of_one_call_is_looked_at(tmp_path: Path) -> None:
    parts = ", ".join(
        f"{{msg_hdr={{msg_name={{sa_family=AF_INET, sin_port=htons(9), "
        f'sin_addr=inet_addr("192.0.2.{number}")}}, msg_iov=[{{iov_base="x"}}]}}}}'
        for number in (1, 2)
    )
    assert read(tmp_path, f"sendmmsg(4, [{parts}], 2, 0) = 2") == [
        "192.0.2.1 port 9",
        "192.0.2.2 port 9",
    ]


def test_the_name_cache_may_be_asked_for_users_but_not_for_hosts(tmp_path: Path) -> None:
    user = r'sendto(5, "\2\0\0\0\1\0\0\0\2\0\0\0000\0", 14, MSG_NOSIGNAL, NULL, 0) = 14'
    local = r'sendto(5, "\2\0\0\0\16\0\0\0\n\0\0\0localhost\0", 22, MSG_NOSIGNAL, NULL, 0) = 22'
    host = r'sendto(5, "\2\0\0\0\16\0\0\0\f\0\0\0example.com\0", 24, MSG_NOSIGNAL, NULL, 0) = 24'
    assert read(tmp_path, _NSCD, user, local) == []
    assert read(tmp_path, _NSCD, host) == ["the name cache, asked for example.com"]
    other = 'connect(5, {sa_family=AF_UNIX, sun_path="/tmp/a"}, 110) = 0'
    assert read(tmp_path, _NSCD, other, host) == []


def test_a_name_is_told_beside_the_resolver_that_was_asked(tmp_path: Path) -> None:
    resolver = inet("10.0.0.1", 53)
    question = r'sendto(4, "\1\2\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1", 29, 0, NULL, 0) = 29'
    assert read(tmp_path, resolver, question) == ["10.0.0.1 port 53 (DNS), asked for example.com"]
    assert read(tmp_path, resolver, inet("127.0.0.1"), question) == ["10.0.0.1 port 53 (DNS)"]


def test_what_cannot_be_understood_is_no_silence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing was watched"):
        contacts(tmp_path)
    with pytest.raises(ValueError, match="not understood: connect"):
        read(tmp_path, "connect(4, 0x7ffe, 16) = 0")
    with pytest.raises(ValueError, match="not understood: connect"):
        read(tmp_path, "connect(4, {sa_family=AF_INET, sin_po")


def test_a_thread_is_named_by_its_program(tmp_path: Path) -> None:
    (tmp_path / "process.7").write_text(
        'execve("/bin/a", ["a", "--\\303\\274"], 0x7ffc /* 9 vars */) = 0\n'
        "clone3({flags=CLONE_VM|CLONE_THREAD} => {parent_tid=[8]}, 88) = 8\n"
    )
    (tmp_path / "process.8").write_text("clone(child_stack=NULL, flags=SIGCHLD) = 9\n")
    (tmp_path / "process.9").write_text(inet("192.0.2.1") + "\n")
    assert contacts(tmp_path) == [Contact(9, "a --ü", "192.0.2.1 port 443")]


_TALKATIVE = """
import os, socket, subprocess, sys, threading

def ask():
    try:
        socket.getaddrinfo("weights.example", 443)
    except OSError:
        pass

def reach(kind, family, address):
    with socket.socket(family, kind) as reaching:
        reaching.setblocking(False)
        try:
            if kind == socket.SOCK_DGRAM:
                reaching.sendto(b"x", address)
            else:
                reaching.connect(address)
        except OSError:
            pass

if sys.argv[1] == "thread":
    asking = threading.Thread(target=ask)
    asking.start()
    asking.join()
elif sys.argv[1] == "fork":
    if os.fork() == 0:
        reach(socket.SOCK_STREAM, socket.AF_INET, ("192.0.2.1", 80))
        os._exit(0)
    os.wait()
elif sys.argv[1] == "program":
    command = [sys.executable, __file__, "datagram"]
    subprocess.run(command, start_new_session=True, env={})
elif sys.argv[1] == "datagram":
    reach(socket.SOCK_DGRAM, socket.AF_INET6, ("2001:db8::1", 9))
elif sys.argv[1] == "killed":
    reaching = socket.socket()
    if os.fork() == 0:
        reach(socket.SOCK_STREAM, socket.AF_INET, ("192.0.2.2", 80))
        os.kill(os.getpid(), 9)
    os.wait()
else:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with socket.create_connection((host, port)) as connection:
                connection.sendall(b"x")
    here, there = socket.socketpair()
    here.send(b"x")
"""


@pytest.fixture
def talkative(tmp_path: Path) -> list[str]:
    """The command of a program that does what its argument says; it is to be appended."""
    if reason := tracing.why_not():
        pytest.skip(f"nothing can be watched here: {reason}")
    program = tmp_path / "talkative.py"
    program.write_text(_TALKATIVE)
    return [sys.executable, str(program)]


def run_watched(command: list[str], folder: Path) -> list[Contact]:
    assert subprocess.run(tracing.watching(command, folder)).returncode == 0
    tracing.wait_for_end(folder)
    return contacts(folder)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("how", "address"),
    [
        ("fork", "192.0.2.1 port 80"),
        ("program", "2001:db8::1 port 9"),
        ("killed", "192.0.2.2 port 80"),
    ],
)
def test_attempts_of_descendants_are_found(
    talkative: list[str], tmp_path: Path, how: str, address: str
) -> None:
    found = run_watched([*talkative, how], tmp_path / "trace")
    assert [contact.address for contact in found] == [address]
    assert "talkative.py" in found[0].program


@pytest.mark.processes
def test_a_thread_that_asks_for_a_name_is_found(talkative: list[str], tmp_path: Path) -> None:
    found = run_watched([*talkative, "thread"], tmp_path / "trace")
    assert found
    assert all("weights.example" in contact.address for contact in found)


@pytest.mark.processes
def test_talk_within_the_machine_is_not_reported(talkative: list[str], tmp_path: Path) -> None:
    assert run_watched([*talkative, "loopback"], tmp_path / "trace") == []


@pytest.mark.processes
def test_the_command_fails_for_whoever_talks_and_otherwise_ends_as_what_it_ran(
    talkative: list[str],
) -> None:
    def run(*command: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.network", *command],
            cwd=REPOSITORY,
            env=os.environ,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr

    assert run(*talkative, "loopback") == (0, "0 attempts to reach anything beyond loopback.\n")
    assert run("sh", "-c", "exit 5")[0] == 5
    code, said = run(*talkative, "fork")
    assert code == 1
    assert "-> 192.0.2.1 port 80\n1 attempts" in said


@pytest.mark.processes
def test_whoever_outlives_the_command_is_named(talkative: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    subprocess.run(tracing.watching(["sh", "-c", "sleep 600 & echo $!"], folder), check=True)
    wait_until(lambda: traces_of_sleep(folder) != [])
    with pytest.raises(tracing.TraceIncomplete, match=r"\(sleep 600\)"):
        tracing.wait_for_end(folder, timeout_s=0)
    (sleeping,) = traces_of_sleep(folder)
    os.kill(int(sleeping.suffix[1:]), 15)
    tracing.wait_for_end(folder)


def traces_of_sleep(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if '["sleep", "600"]' in path.read_text()]
