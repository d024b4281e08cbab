"""Coverage-guided fuzzing of the parsers: `scripts/fuzz` runs this, pytest does not collect it.

A target takes bytes and fails by letting anything but a documented error out. Without arguments the
names of the targets are printed; else: target, folder of its inputs, options of libFuzzer.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import atheris  # type: ignore[import-untyped]  # has no types; scripts/fuzz installs it

from tests.hello import CORPUS, handshake, reframe

with atheris.instrument_imports(include=["tunnel"]):
    from tests.unit.protocol import samples
    from tunnel.errors import RemoteProtocolError
    from tunnel.protocol.frames import FrameReader, frame
    from tunnel.protocol.hello import (
        MAX_HELLO_BYTES,
        ClientHello,
        HelloReader,
        HelloRefused,
        parse_client_hello,
    )
    from tunnel.protocol.messages import decode, decode_body, decode_header, encode
    from tunnel.protocol.proxy import (
        ProxyHeader,
        encode_proxy_v1,
        encode_proxy_v2,
        parse_proxy_header,
    )


class Target(NamedTuple):
    """A parser under its rules, and inputs that lead it to its inner parts."""

    check: Callable[[bytes], None]
    seeds: Iterable[bytes]


def check_hello(data: bytes) -> None:
    """One answer, whatever follows and however the bytes are cut; settled within the limit."""
    answer = read_hello(data)
    assert answer is None or read_hello(data + b"\x16\3\1") == answer
    assert answer is not None or len(data) < MAX_HELLO_BYTES
    assert read_hello_in_two(data, sum(data) % (len(data) + 1)) == answer


def read_hello(data: bytes) -> ClientHello | bytes | None:
    """Return the hello, the answer of the refusal, or None."""
    try:
        hello = parse_client_hello(data)
    except HelloRefused as refused:
        return refused.answer
    return hello


def read_hello_in_two(data: bytes, cut: int) -> ClientHello | bytes | None:
    """Return the same as `read_hello`, from two pieces."""
    reader = HelloReader()
    try:
        hello = reader.receive(data[:cut]) or reader.receive(data[cut:])
    except HelloRefused as refused:
        return refused.answer
    return hello


def check_proxy(data: bytes) -> None:
    """One answer, whatever follows; addresses that were read can be written and read again."""
    header = read_proxy(data)
    assert header is None or read_proxy(data + b"\r\n") == header
    if isinstance(header, ProxyHeader) and header.source and header.destination:
        for write in (encode_proxy_v1, encode_proxy_v2):
            again = parse_proxy_header(write(header.source, header.destination))
            assert again is not None
            assert (again.source, again.destination) == (header.source, header.destination)


def read_proxy(data: bytes) -> ProxyHeader | str | None:
    """Return the header, the text of the error, or None."""
    try:
        header = parse_proxy_header(data)
    except RemoteProtocolError as error:
        return str(error)
    return header


def check_messages(data: bytes) -> None:
    """What is read as a message, a signed body or a stream header is the same when sent again."""
    for read in (decode, decode_body, decode_header):
        try:
            message = read(data)
        except RemoteProtocolError:
            continue
        assert read(encode(message)) == message


def check_frames(data: bytes) -> None:
    """Frames that are read are the ones that were sent, and little is held back."""
    reader, frames = FrameReader(limit=64), []
    try:
        for at in range(0, len(data), 7):
            reader.feed(data[at : at + 7])
            while (payload := reader.next_frame()) is not None:
                frames.append(payload)
    except RemoteProtocolError:
        return
    assert b"".join(map(frame, frames)) + reader.take_rest() == data


TARGETS = {
    "hello": Target(
        check_hello,
        [*CORPUS.values(), *(reframe(handshake(hello), 200) for hello in CORPUS.values())],
    ),
    "proxy": Target(
        check_proxy,
        [
            write(source, ("192.0.2.1", 443))
            for write in (encode_proxy_v1, encode_proxy_v2)
            for source in (("198.51.100.2", 1), ("2001:db8::1", 1))
        ],
    ),
    "messages": Target(
        check_messages,
        [encode(message) for message in (*samples.MESSAGES, samples.BODY, samples.HEADER)],
    ),
    "frames": Target(check_frames, [frame(b"") + frame(b"{}") + frame(b"ab")]),
}


def main(name: str, folder: Path, *options: str) -> None:
    """Fuzz one target until libFuzzer's options or a failure end the process."""
    target = TARGETS[name]
    for number, seed in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], str(folder), *options], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    else:
        sys.stdout.write("\n".join(TARGETS) + "\n")
