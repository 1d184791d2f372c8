"""interop-python: grpcio's client and server of undermesh.interop.v1 (see ../README.md)."""

import argparse
import json
import signal
import sys
import threading
import time
from collections import Counter
from concurrent import futures

import grpc

import interop_pb2 as pb
import interop_pb2_grpc as stubs

LANGUAGE = "python"
LARGEST = 80 << 20
OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST),
    ("grpc.max_send_message_length", LARGEST),
    ("grpc.max_metadata_size", 32 << 10),
    ("grpc.enable_http_proxy", 0),
]
FAIL_MESSAGE = "näh: 100 % sure\nsecond line"
CODES = {code.value[0]: code for code in grpc.StatusCode}


class Interop(stubs.InteropServicer):
    def __init__(self, name):
        self.name, self.calls, self.cancelled = name, 0, 0
        self.lock = threading.Lock()

    def begin(self, context):
        with self.lock:
            self.calls += 1
        sent = dict(context.invocation_metadata())
        if "x-interop-echo" in sent:
            context.send_initial_metadata([("x-interop-echo", sent["x-interop-echo"])])
        if "x-interop-echo-bin" in sent:
            context.set_trailing_metadata([("x-interop-echo-bin", sent["x-interop-echo-bin"])])
        done = threading.Event()
        context.add_callback(done.set)
        return done

    def ended(self, context):
        # grpcio calls this at every end; cancelled is one whose handler had not finished.
        if not context.finished:
            with self.lock:
                self.cancelled += 1

    def reply(self, context, request, received_bytes, messages):
        left = context.time_remaining()
        # Without a deadline grpcio answers None, or centuries.
        deadline = max(int(left * 1000), 1) if left is not None and left < 1e9 else 0
        return pb.Reply(
            payload=bytes(request.reply_bytes),
            pod=self.name,
            language=LANGUAGE,
            received_bytes=received_bytes,
            received_messages=messages,
            deadline_ms=deadline,
        )

    @staticmethod
    def failure(context, request):
        if request.fail_code:
            context.abort(CODES[request.fail_code], request.fail_message)

    def Unary(self, request, context):
        done = self.begin(context)
        done.wait(request.delay_ms / 1000)
        self.failure(context, request)
        return self.reply(context, request, len(request.payload), 1)

    def ServerStream(self, request, context):
        done = self.begin(context)
        done.wait(request.delay_ms / 1000)
        for _ in range(request.replies):
            yield self.reply(context, request, len(request.payload), 1)
        self.failure(context, request)

    def ClientStream(self, requests, context):
        self.begin(context)
        last, size, messages = pb.Request(), 0, 0
        for last in requests:
            size, messages = size + len(last.payload), messages + 1
        self.failure(context, last)
        return self.reply(context, last, size, messages)

    def BidiStream(self, requests, context):
        done = self.begin(context)
        context.add_callback(lambda: self.ended(context))
        context.finished = False
        size, messages = 0, 0
        for request in requests:
            size, messages = size + len(request.payload), messages + 1
            done.wait(request.delay_ms / 1000)
            for _ in range(request.replies):
                yield self.reply(context, request, size, messages)
            self.failure(context, request)
        context.finished = True


def serve(args):
    service = Interop(args.name)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=OPTIONS + [("grpc.so_reuseport", 0)])
    stubs.add_InteropServicer_to_server(service, server)
    port = server.add_insecure_port(f"{args.bind or '[::]'}:{args.port}")
    server.start()
    print(json.dumps({"ready": port}), flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    stop.wait()
    server.stop(5).wait()
    print(json.dumps({"name": args.name, "language": LANGUAGE, "calls": service.calls, "cancelled": service.cancelled}))
    return 0


def check(good, text):
    if not good:
        raise AssertionError(text)


def expect(code, message, action):
    try:
        action()
    except grpc.RpcError as error:
        check(error.code() == code and message in (None, error.details()), f"{error.code()}: {error.details()!r}")
        return
    raise AssertionError(f"want {code}, got an answer")


class Client:
    def __init__(self, args):
        self.channel = grpc.insecure_channel(args.target, options=OPTIONS)
        self.stub = stubs.InteropStub(self.channel)
        self.args, self.pods, self.servers = args, Counter(), Counter()

    def unary_sizes(self):
        for size in (0, 1, 1000, 65_536, self.args.large):
            reply = self.stub.Unary(pb.Request(payload=bytes(size), reply_bytes=size), timeout=60)
            check(len(reply.payload) == size and reply.received_bytes == size, f"{size} bytes: {reply.received_bytes}")

    def server_stream(self):
        for replies, size in ((0, 0), (200, 128), (20, 65_536), (3, 0)):
            got = list(self.stub.ServerStream(pb.Request(replies=replies, reply_bytes=size), timeout=60))
            check(len(got) == replies, f"{len(got)} replies, want {replies}")
            check(all(len(reply.payload) == size for reply in got), "a reply of another length")

    def client_stream(self):
        for messages in (0, 1, 100):
            requests = (pb.Request(payload=bytes(1000)) for _ in range(messages))
            reply = self.stub.ClientStream(requests, timeout=60)
            good = reply.received_messages == messages and reply.received_bytes == messages * 1000
            check(good, f"server got {reply.received_messages} messages of {messages}")

    def bidi_stream(self):
        turn, more = threading.Semaphore(0), 20

        def requests():
            for i in range(more):
                yield pb.Request(payload=bytes(i), replies=2, reply_bytes=i)
                turn.acquire(timeout=60)

        call = self.stub.BidiStream(requests(), timeout=60)
        for i in range(more):
            for _ in range(2):
                reply = next(call)
                good = len(reply.payload) == i and reply.received_messages == i + 1
                check(good, f"turn {i}: reply of {len(reply.payload)} bytes after {reply.received_messages}")
            turn.release()
        check(next(call, None) is None, "a reply after half-close")

    def metadata(self):
        binary = bytes([0, 1, 0xFE, 0xFF])
        sent = [("x-interop-echo", "hello"), ("x-interop-echo-bin", binary), ("x-interop-large", "m" * 6_000)]
        reply, call = self.stub.Unary.with_call(pb.Request(), timeout=60, metadata=sent)
        check(dict(call.initial_metadata()).get("x-interop-echo") == "hello", "initial metadata")
        # tonic has no trailers beside a good status: its server sends both in the initial metadata.
        trailing = call.initial_metadata() if reply.language == "rust" else call.trailing_metadata()
        check(dict(trailing).get("x-interop-echo-bin") == binary, "trailing metadata")

    def deadline_passed_on(self):
        seen = self.stub.Unary(pb.Request(), timeout=30).deadline_ms
        # gRPC's core rounds a time-out up before it sends it.
        check(0 < seen <= 31_000, f"server saw a deadline of {seen} ms, want 1 to 31000")

    def deadline_exceeded(self):
        began = time.monotonic()
        try:
            self.stub.Unary(pb.Request(delay_ms=10_000), timeout=0.3)
            raise AssertionError("want DEADLINE_EXCEEDED, got an answer")
        except grpc.RpcError as error:
            # A server's own timer may win the race: grpc-go resets the stream, tonic answers CANCELLED. Nobody else cancels here.
            # A proxy may show that reset as UNAVAILABLE, as Envoy does.
            late = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
            reset = "remote reset CANCEL" in error.details() or "upstream request timeout" in error.details()
            check(reset or error.code() in late, f"{error.code()}: {error.details()!r}")
        check(time.monotonic() - began < 3, f"only after {time.monotonic() - began:.1f} s")

    def cancel(self):
        stop = threading.Event()

        def requests():
            yield pb.Request(replies=1)
            # The server has something to do when the call is cancelled.
            yield pb.Request(replies=1, delay_ms=3_000)
            stop.wait(60)

        call = self.stub.BidiStream(requests(), timeout=60)
        next(call)
        time.sleep(0.1)
        call.cancel()
        expect(grpc.StatusCode.CANCELLED, None, lambda: next(call))
        stop.set()

    def status(self):
        request = pb.Request(fail_code=9, fail_message=FAIL_MESSAGE)
        expect(grpc.StatusCode.FAILED_PRECONDITION, FAIL_MESSAGE, lambda: self.stub.Unary(request, timeout=60))

    def status_after_replies(self):
        request = pb.Request(replies=3, reply_bytes=10, fail_code=9, fail_message=FAIL_MESSAGE)
        call = self.stub.ServerStream(request, timeout=60)
        for _ in range(3):
            next(call)
        expect(grpc.StatusCode.FAILED_PRECONDITION, FAIL_MESSAGE, lambda: next(call))

    def unimplemented(self):
        missing = self.channel.unary_unary("/undermesh.interop.v1.Interop/Missing")
        expect(grpc.StatusCode.UNIMPLEMENTED, None, lambda: missing(b"", timeout=60))

    def spread(self):
        for _ in range(self.args.count):
            reply = self.stub.Unary(pb.Request(payload=bytes(64), reply_bytes=64), timeout=60)
            self.pods[reply.pod] += 1
            self.servers[reply.language] += 1


CASES = (
    "unary_sizes server_stream client_stream bidi_stream metadata deadline_passed_on deadline_exceeded "
    "cancel status status_after_replies unimplemented spread"
).split()


def call(args):
    client, cases = Client(args), {}
    for case in CASES:
        try:
            getattr(client, case)()
            cases[case] = "ok"
        except (AssertionError, grpc.RpcError, StopIteration) as error:
            cases[case] = f"{type(error).__name__}: {error}"
    good = all(result == "ok" for result in cases.values())
    out = {"language": LANGUAGE, "target": args.target, "ok": good, "cases": cases}
    print(json.dumps(out | {"pods": client.pods, "servers": client.servers}))
    return 0 if good else 1


def main():
    parser = argparse.ArgumentParser(prog="interop-python")
    commands = parser.add_subparsers(required=True)
    client = commands.add_parser("client")
    client.add_argument("--target", default="127.0.0.1:50051")
    client.add_argument("--count", type=int, default=100)
    client.add_argument("--large", type=int, default=1 << 20)
    client.set_defaults(run=call)
    server = commands.add_parser("server")
    server.add_argument("--port", type=int, default=50051)
    server.add_argument("--name", default=LANGUAGE)
    server.add_argument("--bind", default="")
    server.set_defaults(run=serve)
    args = parser.parse_args()
    sys.exit(args.run(args))


if __name__ == "__main__":
    main()
