"""The control socket and the metrics address: real sockets, and callers who mean no good."""

import asyncio
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Run
from tests.integration.desks import (
    ScriptedDesk,
    abandoned,
    ask,
    connect,
    control_socket,
    doors,
    exchange,
    read,
)
from tests.ports import free_port
from tunnel.admin import conversation
from tunnel.admin.answers import Answer, Request, json_answer
from tunnel.admin.doors import CONNECTIONS
from tunnel.admin.reception import Reception
from tunnel.admin.unix import listen_unix
from tunnel.errors import ListenFailed
from tunnel.settings.values import AdminSettings
from tunnel.stream import Address

LOOPBACK = "127.0.0.1"


@pytest.mark.parametrize(
    ("request_bytes", "status", "value"),
    [
        (ask("GET", "/status"), 200, {"program": "relay", "ready": True}),
        (ask("GET", "/certificates"), 200, {"certificates": [{"name": "a.t.test"}]}),
        (ask("POST", "/drain"), 202, {"draining": True}),
        (ask("POST", "/certificates/renew", b'{"name": "a.t.test"}'), 202, {"name": "a.t.test"}),
        (
            ask("POST", "/certificates/renew", b'{"name": "b"}'),
            404,
            {"error": "there is no certificate for b"},
        ),
        (
            ask("POST", "/certificates/renew", b'{"name": 1}'),
            400,
            {"error": 'expected {"name": "…"}'},
        ),
        (
            ask("POST", "/certificates/renew", b"[" * 50_000),
            400,
            {"error": "the body is not a JSON object"},
        ),
        (ask("GET", "/drain"), 405, {"error": "/drain does not take GET"}),
        (ask("DELETE", "/status"), 405, {"error": "/status does not take DELETE"}),
        (ask("GET", "/nothing?x=1"), 404, {"error": "there is no page /nothing"}),
        (b"GET /status HTTP/1.1\r\n\r\n", 400, {"error": "Missing mandatory Host: header"}),
        (
            ask("POST", "/drain", b"x" * (conversation.BODY_LIMIT + 1)),
            413,
            {"error": "the body is longer than 65536 bytes"},
        ),
        (
            b"GET /status HTTP/1.1\r\nX: " + b"y" * (conversation.HEADER_LIMIT + 1),
            431,
            {"error": "Receive buffer too long"},
        ),
    ],
)
def test_every_request_gets_its_answer(
    run_on_each: Run, tmp_path: Path, request_bytes: bytes, status: int, value: object
) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            assert read(await exchange(path, request_bytes)) == (status, value)

    run_on_each(scene())


def test_what_answers_no_method_says_which_it_takes(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, desk):
            assert b"\r\nAllow: POST\r\n" in await exchange(path, ask("GET", "/drain"))
            assert desk.drains == 0

    run(scene())


def test_a_head_has_no_body(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            answer = await exchange(path, ask("HEAD", "/readyz"))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\n")

    run(scene())


def test_one_connection_may_ask_again_and_again(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            again = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
            answer = await exchange(path, again * 3 + ask("GET", "/livez"))
            assert answer.count(b"live\n") == 4

    run(scene())


def test_garbage_after_a_head_is_told_so_in_full(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            head = b"HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n"
            answer = await exchange(path, head + b"garbage\r\n\r\n")
            _, _, second = answer.partition(b"\r\n\r\n")
            status, value = read(second)
            assert (status, value["error"].partition(":")[0]) == (400, "illegal request line")

    run(scene())


def test_curl_reads_it(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            curl = await asyncio.create_subprocess_exec(
                *("curl", "-sS", "--unix-socket", str(path), "http://localhost/status"),
                stdout=subprocess.PIPE,
            )
            output, _ = await curl.communicate()
            assert output == b'{"program": "relay", "ready": true}\n'

    run(scene())


def test_a_body_that_has_to_be_asked_for_is(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            reader, writer = await connect(path)
            writer.write(
                b"POST /drain HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                b"Connection: close\r\nContent-Length: 2\r\n\r\n"
            )
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
            writer.write(b"{}")
            assert (await reader.read()).startswith(b"HTTP/1.1 202 Accepted\r\n")
            writer.close()

    run(scene())


def test_a_page_with_a_fault_of_its_own_answers_500_and_the_others_go_on(
    run: Run, tmp_path: Path
) -> None:
    async def fail(_request: Request) -> Answer:
        raise RuntimeError("a bug")

    async def scene() -> None:
        async with control_socket(tmp_path, {"/bug": {"GET": fail}}) as (path, _):
            assert read(await exchange(path, ask("GET", "/bug")))[0] == 500
            assert read(await exchange(path, ask("GET", "/status")))[0] == 200

    run(scene())


# -- callers who mean no good


def test_a_header_that_drips_is_cut_off_in_time(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "REQUEST_TIMEOUT", 0.3)

    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            reader, writer = await connect(path)
            writer.write(b"GET /status HTTP/1.1\r\nX: ")
            status, value = read(await reader.read())
            assert (status, value["error"]) == (408, "the request was not whole after 0.3 s")
            writer.close()

    run(scene())


def test_who_says_nothing_is_closed_without_a_word(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversation, "REQUEST_TIMEOUT", 0.2)

    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            assert await exchange(path, b"") == b""

    run(scene())


def test_a_thousand_silent_callers_keep_nobody_out(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, _):
            crowd = [await connect(path) for _ in range(1000)]
            answer = await exchange(path, ask("GET", "/status"))
            assert read(answer)[0] == 200
            open_ones = [reader for reader, _ in crowd[-CONNECTIONS // 2 :]]
            assert not any(reader.at_eof() for reader in open_ones)
            for reader, writer in crowd[: 1000 - 3 * CONNECTIONS]:
                assert await reader.read() == b""
                writer.close()
            for _, writer in crowd[1000 - 3 * CONNECTIONS :]:
                writer.close()

    run(scene())


def test_a_hundred_who_wait_for_the_same_reload_all_get_its_answer(
    run: Run, tmp_path: Path
) -> None:
    async def scene() -> None:
        go_on = asyncio.Event()

        async def reload(_request: Request) -> Answer:
            await go_on.wait()
            return json_answer({"applied": True})

        async with control_socket(tmp_path, {"/reload": {"POST": reload}}) as (path, _):
            crowd = [await connect(path) for _ in range(100)]
            for _, writer in crowd:
                writer.write(ask("POST", "/reload"))
            assert read(await exchange(path, ask("GET", "/status")))[0] == 200
            go_on.set()
            for reader, writer in crowd:
                assert read(await reader.read()) == (200, {"applied": True})
                writer.close()

    run(scene())


def test_who_is_being_answered_is_not_sent_away_for_others(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        go_on = asyncio.Event()

        async def wait(_request: Request) -> Answer:
            await go_on.wait()
            return json_answer({"waited": True})

        async with control_socket(tmp_path, {"/wait": {"GET": wait}}) as (path, _):
            reader, writer = await connect(path)
            writer.write(ask("GET", "/wait"))
            crowd = [await connect(path) for _ in range(2 * CONNECTIONS)]
            assert read(await exchange(path, ask("GET", "/status")))[0] == 200
            go_on.set()
            assert read(await reader.read()) == (200, {"waited": True})
            for _, each in [(reader, writer), *crowd]:
                each.close()

    run(scene())


# -- the socket in the file system


def test_socket_is_where_the_settings_say_for_the_owner_and_the_group(
    run: Run, tmp_path: Path
) -> None:
    async def scene() -> None:
        path = tmp_path / "control"
        async with doors(AdminSettings(socket=path), tmp_path / "state"):
            status = path.stat()
            assert stat.S_ISSOCK(status.st_mode)
            assert stat.S_IMODE(status.st_mode) == 0o660
        assert not path.exists()

    run(scene())
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == []


def test_without_settings_it_is_in_the_state_directory(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with doors(AdminSettings(), tmp_path / "state"):
            answer = await exchange(tmp_path / "state" / "admin.sock", ask("GET", "/status"))
            assert read(answer)[0] == 200

    run(scene())


def test_what_a_killed_process_has_left_is_replaced(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        with abandoned(tmp_path / "admin.sock"):
            async with control_socket(tmp_path) as (path, _):
                assert read(await exchange(path, ask("GET", "/status")))[0] == 200

    run(scene())


def test_a_second_process_is_told_that_somebody_listens_there(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with control_socket(tmp_path) as (path, desk):
            with pytest.raises(ListenFailed, match=r"admin\.socket: .*another process listens"):
                Reception(desk, tmp_path).open(AdminSettings(socket=path))
            assert read(await exchange(path, ask("GET", "/status")))[0] == 200

    run(scene())


def test_who_is_too_busy_to_take_a_connection_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ListenFailed, match="another process listens there"):
            listen_unix(path)


def test_a_second_process_without_settings_goes_without(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        async with doors(AdminSettings(), tmp_path) as desk:
            Reception(desk, tmp_path).open(AdminSettings())
            answer = await exchange(tmp_path / "admin.sock", ask("GET", "/status"))
            assert read(answer)[0] == 200

    run(scene())


def test_the_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    first = listen_unix(path)
    path.unlink()
    second = listen_unix(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def make_file(path: Path) -> None:
    path.write_text("precious")


def make_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [make_file, make_link])
def test_what_is_no_socket_is_left_alone(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "admin.sock"
    make(path)
    with pytest.raises(ListenFailed, match="is not a socket; it was left alone"):
        listen_unix(path)
    assert path.is_symlink() or path.read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_said_to_be(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 100) / "admin.sock"
    with pytest.raises(ListenFailed, match=r"bytes are too long for a socket \(at most 107\)"):
        listen_unix(path)


def test_a_directory_that_is_missing_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(ListenFailed, match="cannot listen there: no such file or directory"):
        listen_unix(tmp_path / "missing" / "admin.sock")


# -- the metrics address


def test_metrics_are_where_the_settings_say_and_nothing_else_is(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        metrics = Address(LOOPBACK, free_port())
        async with doors(AdminSettings(metrics=metrics), tmp_path) as desk:
            answer = (await exchange(metrics, ask("GET", "/metrics"))).decode()
            assert "\r\nContent-Type: text/plain; version=0.0.4" in answer
            assert "\ntunnel_test_size_bytes 12.0\n" in answer
            assert '\ntunnel_test_visitors_total{reason="busy"} 3.0\n' in answer
            assert "\nprocess_resident_memory_bytes " in answer
            for method, page in [("GET", "/status"), ("POST", "/drain"), ("GET", "/certificates")]:
                assert read(await exchange(metrics, ask(method, page)))[0] == 404
            assert desk.drains == 0

    run(scene())


def test_readyz_says_why_not(run: Run, tmp_path: Path) -> None:
    async def scene() -> None:
        metrics = Address(LOOPBACK, free_port())
        async with doors(AdminSettings(metrics=metrics), tmp_path) as desk:
            assert (await exchange(metrics, ask("GET", "/readyz"))).startswith(b"HTTP/1.1 200 OK")
            desk.why_not = "draining"
            answer = await exchange(metrics, ask("GET", "/readyz"))
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert answer.endswith(b"\r\n\r\ndraining\n")
            assert (await exchange(metrics, ask("GET", "/livez"))).startswith(b"HTTP/1.1 200 OK")

    run(scene())


def test_a_metrics_address_in_use_is_said_to_be_and_leaves_no_socket(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        metrics = Address(*taken.getsockname())
        settings = AdminSettings(socket=tmp_path / "admin.sock", metrics=metrics)
        with pytest.raises(ListenFailed, match=r"admin\.metrics: cannot listen on 127\.0\.0\.1:"):
            Reception(ScriptedDesk(), tmp_path).open(settings)
    assert os.listdir(tmp_path) == []
