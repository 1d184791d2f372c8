package undermesh.interop;

import com.google.protobuf.ByteString;
import io.grpc.Context;
import io.grpc.ForwardingServerCall.SimpleForwardingServerCall;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import undermesh.interop.v1.InteropGrpc;
import undermesh.interop.v1.Reply;
import undermesh.interop.v1.Request;

final class Server extends InteropGrpc.InteropImplBase {
  static final Metadata.Key<String> ECHO = Metadata.Key.of("x-interop-echo", Metadata.ASCII_STRING_MARSHALLER);
  static final Metadata.Key<byte[]> ECHO_BIN = Metadata.Key.of("x-interop-echo-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private final String name;
  private final AtomicLong calls = new AtomicLong();
  private final AtomicLong cancelled = new AtomicLong();

  private Server(String name) {
    this.name = name;
  }

  /** Answers until SIGTERM, then lets calls finish and prints a summary. */
  static void serve(String bind, int port, String name) throws Exception {
    Server service = new Server(name);
    InetSocketAddress address = bind.isEmpty() ? new InetSocketAddress(port) : new InetSocketAddress(bind, port);
    io.grpc.Server server =
        NettyServerBuilder.forAddress(address)
            .maxInboundMessageSize(Main.LARGEST)
            .maxInboundMetadataSize(32 << 10)
            .intercept(new Echo())
            .addService(service)
            .build()
            .start();
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      server.shutdown();
      try {
        if (!server.awaitTermination(5, TimeUnit.SECONDS)) {
          server.shutdownNow();
        }
      } catch (InterruptedException e) {
        server.shutdownNow();
      }
      System.out.printf(
          "{\"name\":%s,\"language\":\"java\",\"calls\":%d,\"cancelled\":%d}%n",
          Main.quote(name), service.calls.get(), service.cancelled.get());
    }));
    System.out.printf("{\"ready\":%d}%n", server.getPort());
    server.awaitTermination();
  }

  /** Echoes metadata in the initial metadata and the trailers. */
  private static final class Echo implements ServerInterceptor {
    @Override
    public <A, B> ServerCall.Listener<A> interceptCall(
        ServerCall<A, B> call, Metadata sent, ServerCallHandler<A, B> next) {
      return next.startCall(new SimpleForwardingServerCall<A, B>(call) {
        @Override
        public void sendHeaders(Metadata headers) {
          if (sent.containsKey(ECHO)) {
            headers.put(ECHO, sent.get(ECHO));
          }
          super.sendHeaders(headers);
        }

        @Override
        public void close(Status status, Metadata trailers) {
          if (sent.containsKey(ECHO_BIN)) {
            trailers.put(ECHO_BIN, sent.get(ECHO_BIN));
          }
          super.close(status, trailers);
        }
      }, sent);
    }
  }

  private ServerCallStreamObserver<Reply> begin(StreamObserver<Reply> replies) {
    calls.incrementAndGet();
    ServerCallStreamObserver<Reply> call = (ServerCallStreamObserver<Reply>) replies;
    // Without a handler, writing to a call that is gone throws.
    call.setOnCancelHandler(() -> {});
    return call;
  }

  private Reply reply(Request request, long bytes, int messages) {
    var deadline = Context.current().getDeadline();
    return Reply.newBuilder()
        .setPayload(ByteString.copyFrom(new byte[request.getReplyBytes()]))
        .setPod(name)
        .setLanguage(Main.LANGUAGE)
        .setReceivedBytes(bytes)
        .setReceivedMessages(messages)
        .setDeadlineMs(deadline == null ? 0 : Math.max(deadline.timeRemaining(TimeUnit.MILLISECONDS), 1))
        .build();
  }

  /** Ends the call as the request says it must fail; false: it must not. */
  private static boolean failed(Request request, StreamObserver<Reply> replies) {
    if (request.getFailCode() == 0) {
      return false;
    }
    Status status = Status.fromCodeValue(request.getFailCode()).withDescription(request.getFailMessage());
    replies.onError(status.asRuntimeException());
    return true;
  }

  private static void sleep(Request request) {
    long end = System.nanoTime() + request.getDelayMs() * 1_000_000L;
    try {
      while (System.nanoTime() < end && !Context.current().isCancelled()) {
        Thread.sleep(Math.min(20, Math.max(request.getDelayMs(), 1)));
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  @Override
  public void unary(Request request, StreamObserver<Reply> replies) {
    begin(replies);
    sleep(request);
    if (!Context.current().isCancelled() && !failed(request, replies)) {
      replies.onNext(reply(request, request.getPayload().size(), 1));
      replies.onCompleted();
    }
  }

  @Override
  public void serverStream(Request request, StreamObserver<Reply> replies) {
    var call = begin(replies);
    sleep(request);
    for (int i = 0; i < request.getReplies() && !call.isCancelled(); i++) {
      replies.onNext(reply(request, request.getPayload().size(), 1));
    }
    if (!call.isCancelled() && !failed(request, replies)) {
      replies.onCompleted();
    }
  }

  @Override
  public StreamObserver<Request> clientStream(StreamObserver<Reply> replies) {
    begin(replies);
    return new StreamObserver<>() {
      private Request last = Request.getDefaultInstance();
      private long bytes;
      private int messages;

      @Override
      public void onNext(Request request) {
        last = request;
        bytes += request.getPayload().size();
        messages++;
      }

      @Override
      public void onError(Throwable error) {}

      @Override
      public void onCompleted() {
        if (!failed(last, replies)) {
          replies.onNext(reply(last, bytes, messages));
          replies.onCompleted();
        }
      }
    };
  }

  @Override
  public StreamObserver<Request> bidiStream(StreamObserver<Reply> replies) {
    var call = begin(replies);
    call.setOnCancelHandler(cancelled::incrementAndGet);
    return new StreamObserver<>() {
      private long bytes;
      private int messages;
      private boolean ended;

      @Override
      public void onNext(Request request) {
        bytes += request.getPayload().size();
        messages++;
        sleep(request);
        for (int i = 0; i < request.getReplies() && !call.isCancelled(); i++) {
          replies.onNext(reply(request, bytes, messages));
        }
        ended = ended || failed(request, replies);
      }

      @Override
      public void onError(Throwable error) {}

      @Override
      public void onCompleted() {
        if (!ended) {
          replies.onCompleted();
        }
      }
    };
  }
}
