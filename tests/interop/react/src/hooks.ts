import { useEffect, useMemo, useRef, useState, useSyncExternalStore } from "react";
import { type Message, type State, Waterspout, WaterspoutError } from "waterspout-client";

/** One connection for the whole application. */
export const client = new Waterspout();

export function useConnection(): State {
  return useSyncExternalStore(
    (changed) => client.on("state", changed),
    () => client.state,
  );
}

/** The newest messages of a channel, as they come; and a way to publish. */
export function useChannel<Data>(name: string, last = 50) {
  const [messages, setMessages] = useState<Message<Data>[]>([]);
  const [refused, setRefused] = useState<WaterspoutError | null>(null);
  const channel = useMemo(() => client.channel(name), [name]);
  const heard = useRef<Message<Data>[]>([]);
  useEffect(() => {
    heard.current = [];
    const off = [
      channel.on("message", (message: Message<Data>) => {
        heard.current = [...heard.current, message].slice(-last);
        setMessages(heard.current);
      }),
      channel.on("ended", setRefused),
    ];
    void channel.subscribe({ last });
    return () => {
      for (const one of off) one();
      void channel.unsubscribe();
    };
  }, [channel, last]);
  return { messages, refused, publish: (data: Data) => channel.publish(data) };
}
