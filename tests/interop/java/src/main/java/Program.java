import io.github.centrifugal.centrifuge.*;
import java.nio.charset.StandardCharsets;
import java.util.HashSet;
import java.util.Set;
import java.util.concurrent.*;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A user of centrifuge-java, as README.md of this folder describes them. It speaks Protobuf alone. */
public final class Program {
  private static final Pattern NUMBER = Pattern.compile("\"n\":\\s*(\\d+)");

  interface Work {
    void run() throws Exception;
  }

  private static synchronized void say(String line) {
    System.out.println(line);
  }

  private static void step(String name, Work work) {
    try {
      work.run();
      say("{\"step\": \"" + name + "\"}");
    } catch (Exception error) {
      say("{\"step\": \"" + name + "\", \"failed\": \"" + String.valueOf(error).replaceAll("[\"\\\\\\p{Cntrl}]", " ") + "\"}");
    }
  }

  private static void check(boolean condition, String why) {
    if (!condition) throw new IllegalStateException(why);
  }

  private static <T> T result(Consumer<ResultCallback<T>> call) throws Exception {
    CompletableFuture<T> future = new CompletableFuture<>();
    call.accept((error, value) -> {
      if (error != null) future.completeExceptionally(error);
      else future.complete(value);
    });
    return future.get(10, TimeUnit.SECONDS);
  }

  private static String text(byte[] data) {
    return new String(data, StandardCharsets.UTF_8);
  }

  private static String env(String name) {
    return System.getenv("INTEROP_" + name);
  }

  public static void main(String[] arguments) throws Exception {
    int count = Integer.parseInt(env("COUNT"));
    CountDownLatch connected = new CountDownLatch(1), refreshed = new CountDownLatch(1);
    Options options = new Options();
    options.setToken(env("TOKEN"));
    options.setMinReconnectDelay(100);
    options.setMaxReconnectDelay(1000);
    options.setTokenGetter(new ConnectionTokenGetter() {
      @Override
      public void getConnectionToken(ConnectionTokenEvent event, TokenCallback callback) {
        refreshed.countDown();
        callback.Done(null, env("NEXT_TOKEN"));
      }
    });
    Client client = new Client(env("URL"), options, new EventListener() {
      @Override
      public void onConnected(Client one, ConnectedEvent event) {
        connected.countDown();
      }
    });
    BlockingQueue<Boolean> subscribed = new LinkedBlockingQueue<>();
    BlockingQueue<String> publications = new LinkedBlockingQueue<>();
    Subscription own = client.newSubscription(env("CHANNEL"), listener(subscribed, publications));

    step("connect", () -> {
      client.connect();
      check(connected.await(10, TimeUnit.SECONDS), "nothing came");
    });
    step("subscribe", () -> {
      own.subscribe();
      check(Boolean.TRUE.equals(subscribed.poll(10, TimeUnit.SECONDS)), "the subscription is not recoverable");
    });
    step("publish", () -> {
      byte[] data = "{\"hello\":\"world\"}".getBytes(StandardCharsets.UTF_8);
      Program.<PublishResult>result(callback -> own.publish(data, callback));
      check(String.valueOf(publications.poll(10, TimeUnit.SECONDS)).contains("world"), "another publication came");
    });
    step("history", () -> {
      HistoryOptions wanted = new HistoryOptions.Builder().withLimit(10).build();
      HistoryResult found = Program.<HistoryResult>result(callback -> own.history(wanted, callback));
      check(found.getOffset() == 1 && text(found.getPublications().get(0).getData()).contains("world"), "the publication is not in it");
    });
    step("presence", () -> check(isThere(own), "the client is not there"));
    step("refresh", () -> {
      check(refreshed.await(30, TimeUnit.SECONDS), "nothing came");
      check(isThere(own), "the client is not there");
    });

    BlockingQueue<Boolean> listening = new LinkedBlockingQueue<>();
    BlockingQueue<String> storm = new LinkedBlockingQueue<>();
    client.newSubscription(env("STORM"), listener(listening, storm)).subscribe();
    listening.take();
    say("{\"step\": \"ready\"}");
    Set<Integer> seen = new HashSet<>();
    int received = 0;
    boolean ordered = true;
    while (seen.size() < count) {
      Matcher number = NUMBER.matcher(storm.take());
      check(number.find(), "a publication without a number");
      int n = Integer.parseInt(number.group(1));
      ordered &= n == ++received;
      seen.add(n);
    }
    say("{\"step\": \"storm\", \"received\": " + received + ", \"distinct\": " + seen.size() + ", \"ordered\": " + ordered + "}");
    client.close(5000);
    System.exit(0);
  }

  private static boolean isThere(Subscription subscription) throws Exception {
    PresenceResult found = Program.<PresenceResult>result(subscription::presence);
    return found.getClients().values().stream().anyMatch(one -> one.getUser().equals(env("USER")));
  }

  private static SubscriptionEventListener listener(BlockingQueue<Boolean> subscribed, BlockingQueue<String> publications) {
    return new SubscriptionEventListener() {
      @Override
      public void onSubscribed(Subscription one, SubscribedEvent event) {
        subscribed.add(event.getRecoverable());
      }

      @Override
      public void onPublication(Subscription one, PublicationEvent event) {
        publications.add(text(event.getData()));
      }
    };
  }
}
