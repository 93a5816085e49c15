import { type FormEvent, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { useChannel, useConnection } from "./hooks.js";

type Note = { text: string };

function Notes() {
  const state = useConnection();
  const { messages, publish } = useChannel<Note>("chat:react", 20);
  const [text, setText] = useState("");
  const send = (event: FormEvent) => {
    event.preventDefault();
    void publish({ text });
    setText("");
  };
  return (
    <main>
      <h1>Notes</h1>
      <p role="status">{state}</p>
      <form onSubmit={send}>
        <label>
          Note <input value={text} onChange={(event) => setText(event.target.value)} />
        </label>
        <button>Send</button>
      </form>
      <ol>
        {messages.map(({ offset, data }) => (
          <li key={offset}>{data.text}</li>
        ))}
      </ol>
    </main>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Notes />
  </StrictMode>,
);
