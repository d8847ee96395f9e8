// Follows a run that is under way: at each event the part of the page that changes is read anew.
"use strict";
const part = document.getElementById("live");
if (part && part.dataset.events) {
  const source = new EventSource(part.dataset.events);
  let wanted = false, reading = false;
  async function read() {
    if (reading) { wanted = true; return; }
    reading = true;
    do {
      wanted = false;
      const answer = await fetch(part.dataset.part, { credentials: "same-origin" });
      if (answer.ok) part.innerHTML = await answer.text();
      await new Promise(done => setTimeout(done, 1000));
    } while (wanted);
    reading = false;
  }
  for (const kind of ["run", "exchange", "metric", "membership"]) source.addEventListener(kind, read);
  source.addEventListener("end", () => { source.close(); location.reload(); });
}
