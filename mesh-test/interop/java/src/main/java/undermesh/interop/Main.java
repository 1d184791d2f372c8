package undermesh.interop;

import java.util.HashMap;
import java.util.Map;

/** interop-java: grpc-java's client and server of undermesh.interop.v1 (see ../README.md). */
public final class Main {
  static final String LANGUAGE = "java";
  static final int LARGEST = 80 << 20;
  static final String FAIL_MESSAGE = "näh: 100 % sure\nsecond line";

  public static void main(String[] args) throws Exception {
    Map<String, String> flags = new HashMap<>();
    for (int i = 1; i + 1 < args.length; i += 2) {
      flags.put(args[i].replaceFirst("^--?", ""), args[i + 1]);
    }
    switch (args.length == 0 ? "" : args[0]) {
      case "client" -> {
        int count = Integer.parseInt(flags.getOrDefault("count", "100"));
        int large = Integer.parseInt(flags.getOrDefault("large", "1048576"));
        System.exit(Client.call(flags.getOrDefault("target", "127.0.0.1:50051"), count, large) ? 0 : 1);
      }
      case "server" -> {
        int port = Integer.parseInt(flags.getOrDefault("port", "50051"));
        Server.serve(flags.getOrDefault("bind", ""), port, flags.getOrDefault("name", LANGUAGE));
      }
      default -> {
        System.err.println("usage: interop-java client|server …");
        System.exit(2);
      }
    }
  }

  /** One JSON string. */
  static String quote(String text) {
    StringBuilder out = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      if (c == '"' || c == '\\') {
        out.append('\\').append(c);
      } else if (c < 0x20) {
        out.append(String.format("\\u%04x", (int) c));
      } else {
        out.append(c);
      }
    }
    return out.append('"').toString();
  }

  private Main() {}
}
