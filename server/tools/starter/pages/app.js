import { Waterspout } from "/static/waterspout.js";

const client = new Waterspout(); // the server that this page comes from
const wall = client.channel("wall:all");
const [state, notes, form, text, problem] = ["state", "notes", "form", "text", "problem"].map((id) =>
  document.getElementById(id),
);

client.on("state", (event) => {
  state.textContent = { connecting: "Connecting", open: "Live", waiting: "Away; what you write is kept", closed: "Ended" }[
    event.state
  ];
});

wall.on("message", ({ data }) => {
  const note = document.createElement("li");
  note.textContent = data.text; // as text: never as markup
  notes.prepend(note);
});
await wall.subscribe({ last: 50 }); // the newest 50, then all that follow, over every loss of the connection

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  problem.textContent = "";
  const data = { text: text.value };
  text.value = "";
  try {
    await wall.publish(data); // kept and sent again until it is stored
  } catch (error) {
    problem.textContent = `Not on the wall: ${error.reason}.`; // what rules.py says
    text.value = data.text;
  }
});
