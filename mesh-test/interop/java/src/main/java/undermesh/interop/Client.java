package undermesh.interop;

import com.google.protobuf.ByteString;
import io.grpc.CallOptions;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.util.Arrays;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import undermesh.interop.v1.InteropGrpc;
import undermesh.interop.v1.Reply;
import undermesh.interop.v1.Request;

final class Client {
  private interface Case {
    void run() throws Exception;
  }

  private final ManagedChannel channel;
  private final int count;
  private final int large;
  private final Map<String, Integer> pods = new TreeMap<>();
  private final Map<String, Integer> servers = new TreeMap<>();

  private Client(String target, int count, int large) {
    int colon = target.lastIndexOf(':');
    var address = new InetSocketAddress(target.substring(0, colon), Integer.parseInt(target.substring(colon + 1)));
    channel = NettyChannelBuilder.forAddress(address).usePlaintext().maxInboundMessageSize(Main.LARGEST)
        .maxInboundMetadataSize(32 << 10).build();
    this.count = count;
    this.large = large;
  }

  /** Runs every case over one connection and prints the summary. */
  static boolean call(String target, int count, int large) throws Exception {
    Client client = new Client(target, count, large);
    Map<String, Case> cases = new LinkedHashMap<>();
    cases.put("unary_sizes", client::unarySizes);
    cases.put("server_stream", client::serverStream);
    cases.put("client_stream", client::clientStream);
    cases.put("bidi_stream", client::bidiStream);
    cases.put("metadata", client::metadata);
    cases.put("deadline_passed_on", client::deadlinePassedOn);
    cases.put("deadline_exceeded", client::deadlineExceeded);
    cases.put("cancel", client::cancel);
    cases.put("status", client::status);
    cases.put("status_after_replies", client::statusAfterReplies);
    cases.put("unimplemented", client::unimplemented);
    cases.put("spread", client::spread);
    Map<String, String> results = new LinkedHashMap<>();
    boolean good = true;
    for (var entry : cases.entrySet()) {
      try {
        entry.getValue().run();
        results.put(entry.getKey(), "ok");
      } catch (Exception error) {
        results.put(entry.getKey(), String.valueOf(error));
        good = false;
      }
    }
    client.channel.shutdownNow().awaitTermination(2, TimeUnit.SECONDS);
    String shown = results.entrySet().stream()
        .map(e -> Main.quote(e.getKey()) + ":" + Main.quote(e.getValue())).collect(Collectors.joining(","));
    System.out.printf("{\"language\":\"java\",\"target\":%s,\"ok\":%b,\"cases\":{%s},\"pods\":{%s},\"servers\":{%s}}%n",
        Main.quote(target), good, shown, numbers(client.pods), numbers(client.servers));
    return good;
  }

  private static String numbers(Map<String, Integer> map) {
    return map.entrySet().stream().map(e -> Main.quote(e.getKey()) + ":" + e.getValue()).collect(Collectors.joining(","));
  }

  private InteropGrpc.InteropBlockingStub stub(long millis) {
    return InteropGrpc.newBlockingStub(channel).withDeadlineAfter(millis, TimeUnit.MILLISECONDS);
  }

  private InteropGrpc.InteropStub async() {
    return InteropGrpc.newStub(channel).withDeadlineAfter(60, TimeUnit.SECONDS);
  }

  private static void check(boolean good, String text) {
    if (!good) {
      throw new IllegalStateException(text);
    }
  }

  private static void expect(Status.Code code, String message, Case action) throws Exception {
    try {
      action.run();
    } catch (StatusRuntimeException e) {
      Status status = e.getStatus();
      check(status.getCode() == code && (message == null || message.equals(status.getDescription())), status.toString());
      return;
    }
    throw new IllegalStateException("want " + code + ", got an answer");
  }

  private static ByteString zeros(int size) {
    return ByteString.copyFrom(new byte[size]);
  }

  private void unarySizes() {
    for (int size : new int[] {0, 1, 1000, 65_536, large}) {
      Reply reply = stub(60_000).unary(Request.newBuilder().setPayload(zeros(size)).setReplyBytes(size).build());
      check(reply.getPayload().size() == size && reply.getReceivedBytes() == size, size + " bytes: " + reply.getReceivedBytes());
    }
  }

  private void serverStream() {
    for (int[] want : new int[][] {{0, 0}, {200, 128}, {20, 65_536}, {3, 0}}) {
      Iterator<Reply> replies =
          stub(60_000).serverStream(Request.newBuilder().setReplies(want[0]).setReplyBytes(want[1]).build());
      int got = 0;
      for (; replies.hasNext(); got++) {
        check(replies.next().getPayload().size() == want[1], "a reply of another length");
      }
      check(got == want[0], got + " replies, want " + want[0]);
    }
  }

  /** What a streaming call brings: replies, then an error or the end. */
  private static final class Inbox implements StreamObserver<Reply> {
    private static final Object END = new Object();
    private final BlockingQueue<Object> queue = new LinkedBlockingQueue<>();

    @Override
    public void onNext(Reply reply) {
      queue.add(reply);
    }

    @Override
    public void onError(Throwable error) {
      queue.add(error);
    }

    @Override
    public void onCompleted() {
      queue.add(END);
    }

    /** Null at the end. */
    Reply next() throws InterruptedException {
      Object item = queue.poll(60, TimeUnit.SECONDS);
      if (item instanceof StatusRuntimeException error) {
        throw error;
      }
      check(item != null, "nothing came in 60 s");
      return item == END ? null : (Reply) item;
    }
  }

  private void clientStream() throws Exception {
    for (int messages : new int[] {0, 1, 100}) {
      Inbox inbox = new Inbox();
      StreamObserver<Request> requests = async().clientStream(inbox);
      for (int i = 0; i < messages; i++) {
        requests.onNext(Request.newBuilder().setPayload(zeros(1000)).build());
      }
      requests.onCompleted();
      Reply reply = inbox.next();
      boolean good = reply.getReceivedMessages() == messages && reply.getReceivedBytes() == messages * 1000L;
      check(good, "server got " + reply.getReceivedMessages() + " messages of " + messages);
    }
  }

  private void bidiStream() throws Exception {
    Inbox inbox = new Inbox();
    StreamObserver<Request> requests = async().bidiStream(inbox);
    for (int i = 0; i < 20; i++) {
      requests.onNext(Request.newBuilder().setPayload(zeros(i)).setReplies(2).setReplyBytes(i).build());
      for (int k = 0; k < 2; k++) {
        Reply reply = inbox.next();
        boolean good = reply != null && reply.getPayload().size() == i && reply.getReceivedMessages() == i + 1;
        check(good, "turn " + i + ": " + reply);
      }
    }
    requests.onCompleted();
    check(inbox.next() == null, "a reply after half-close");
  }

  private void metadata() {
    byte[] binary = {0, 1, (byte) 0xfe, (byte) 0xff};
    Metadata sent = new Metadata();
    sent.put(Server.ECHO, "hello");
    sent.put(Server.ECHO_BIN, binary);
    sent.put(Metadata.Key.of("x-interop-large", Metadata.ASCII_STRING_MARSHALLER), "m".repeat(6_000));
    var header = new AtomicReference<Metadata>();
    var trailer = new AtomicReference<Metadata>();
    Reply reply = stub(60_000).withInterceptors(
        MetadataUtils.newAttachHeadersInterceptor(sent), MetadataUtils.newCaptureMetadataInterceptor(header, trailer))
        .unary(Request.getDefaultInstance());
    check("hello".equals(header.get().get(Server.ECHO)), "initial metadata " + header.get());
    // tonic has no trailers beside a good status: its server sends both in the initial metadata.
    Metadata trailing = reply.getLanguage().equals("rust") ? header.get() : trailer.get();
    check(Arrays.equals(binary, trailing.get(Server.ECHO_BIN)), "trailing metadata " + trailing);
  }

  private void deadlinePassedOn() {
    long seen = stub(30_000).unary(Request.getDefaultInstance()).getDeadlineMs();
    check(seen > 0 && seen <= 31_000, "server saw a deadline of " + seen + " ms, want 1 to 31000");
  }

  private void deadlineExceeded() {
    long began = System.nanoTime();
    Request slow = Request.newBuilder().setDelayMs(10_000).build();
    Status status = Status.OK;
    try {
      stub(300).unary(slow);
    } catch (StatusRuntimeException e) {
      status = e.getStatus();
    }
    // A server's own timer may win the race: grpc-go resets the stream, tonic answers CANCELLED. Nobody else cancels here. A proxy may show that reset as UNAVAILABLE, as Envoy does.
    String text = String.valueOf(status.getDescription());
    boolean reset = text.contains("remote reset CANCEL") || text.contains("upstream request timeout");
    Status.Code code = status.getCode();
    check(reset || code == Status.Code.DEADLINE_EXCEEDED || code == Status.Code.CANCELLED, "status " + status);
    check(System.nanoTime() - began < 3_000_000_000L, "too late");
  }

  private void cancel() throws Exception {
    Inbox inbox = new Inbox();
    try (Context.CancellableContext context = Context.current().withCancellation()) {
      StreamObserver<Request> requests = context.call(() -> async().bidiStream(inbox));
      requests.onNext(Request.newBuilder().setReplies(1).build());
      check(inbox.next() != null, "no first reply");
      // The server has something to do when the call is cancelled.
      requests.onNext(Request.newBuilder().setReplies(1).setDelayMs(3_000).build());
      Thread.sleep(100);
      context.cancel(null);
      expect(Status.Code.CANCELLED, null, inbox::next);
    }
  }

  private static Request failing(int replies) {
    return Request.newBuilder().setReplies(replies).setReplyBytes(10)
        .setFailCode(Status.Code.FAILED_PRECONDITION.value()).setFailMessage(Main.FAIL_MESSAGE).build();
  }

  private void status() throws Exception {
    expect(Status.Code.FAILED_PRECONDITION, Main.FAIL_MESSAGE, () -> stub(60_000).unary(failing(0)));
  }

  private void statusAfterReplies() throws Exception {
    Iterator<Reply> replies = stub(60_000).serverStream(failing(3));
    for (int i = 0; i < 3; i++) {
      replies.next();
    }
    expect(Status.Code.FAILED_PRECONDITION, Main.FAIL_MESSAGE, replies::next);
  }

  private void unimplemented() throws Exception {
    MethodDescriptor<Request, Reply> missing = InteropGrpc.getUnaryMethod().toBuilder()
        .setFullMethodName(MethodDescriptor.generateFullMethodName("undermesh.interop.v1.Interop", "Missing"))
        .setSchemaDescriptor(null).build();
    CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(60, TimeUnit.SECONDS);
    expect(Status.Code.UNIMPLEMENTED, null,
        () -> ClientCalls.blockingUnaryCall(channel, missing, options, Request.getDefaultInstance()));
  }

  private void spread() {
    for (int i = 0; i < count; i++) {
      Reply reply = stub(60_000).unary(Request.newBuilder().setPayload(zeros(64)).setReplyBytes(64).build());
      pods.merge(reply.getPod(), 1, Integer::sum);
      servers.merge(reply.getLanguage(), 1, Integer::sum);
    }
  }
}
