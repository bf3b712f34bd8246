// What the page does: the button, the files, the history.

import { addFiles, startLibrary } from "./library.js";
import { describeModel, LocalListening, LocalModel } from "./local.js";
import { Listening, Trouble } from "./microphone.js";
import { clock, goToAnswer, hideProblem, nameOf, showAnswer, showProblem } from "./show.js";

const byId = (id) => document.getElementById(id);
const HISTORY_KEY = "confp-history";
const HISTORY_LENGTH = 20;
const SILENT = "The microphone hears nothing. Is it muted, or is another one meant?";
const IDLE = byId("status").textContent;
const isLocal = new URLSearchParams(location.search).has("local"); // fingerprints are made here
const local = isLocal ? new LocalModel(say) : null;

let listening = null;
let asking = null;
const QUIET = 0.05; // of the level: a microphone that hears nothing
const QUIET_MS = 3000;

let history = kept();
let shown = null;
let heardAt = 0;

function kept() {
  try {
    return JSON.parse(localStorage.getItem(HISTORY_KEY) ?? "[]");
  } catch {
    return []; // storage is switched off, or holds something else
  }
}

function say(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text; // what is said again is read again
}

async function toggle() {
  if (listening) {
    say("Thinking…");
    listening.stop();
    return;
  }
  asking?.abort();
  hideProblem();
  say("Waiting for the microphone…");
  const handlers = { onLevel: showLevel, onGuess: showGuess, onStart: () => showListening(true) };
  const mine = (listening = local ? new LocalListening(local, { ...handlers, onHeard: showHeard }) : new Listening(handlers));
  try {
    remember(await mine.run(), "microphone");
    say(IDLE);
  } catch (error) {
    if (listening === mine) fail(error); // else it was cancelled
  } finally {
    if (listening === mine) showListening(false);
  }
}

function showListening(on) {
  if (!on) listening = null;
  byId("listen").classList.toggle("listening", on);
  byId("listen-label").textContent = on ? "Stop" : "Listen";
  for (const id of ["level", "heard"]) byId(id).hidden = !on;
  byId("heard").textContent = "";
  showLevel(0);
  heardAt = Date.now();
  if (on) say("Listening…");
}

// The place is a file's now: what the microphone heard is not answered any more.
function cancelListening() {
  listening?.cancel();
  showListening(false);
}

function showLevel(level) {
  byId("level").value = level;
  byId("listen").style.setProperty("--ring", `${Math.round(level * 26)}px`);
  if (level > QUIET) heardAt = Date.now();
  else if (listening && Date.now() - heardAt > QUIET_MS) say(SILENT);
}

function showHeard(lengthS) {
  byId("heard").textContent = `${Math.round(lengthS)} s heard`; // not in the status: that would be read aloud each second
}

function showGuess(guess) {
  const best = guess.matches[0];
  if (Date.now() - heardAt > QUIET_MS) return;
  showHeard(guess.length_s);
  if (guess.verdict === "match") {
    say(`It is ${nameOf(best)}. Making sure…`);
    listening?.stop();
  } else if (best && best.confidence >= 0.5) {
    say(`Listening… perhaps ${nameOf(best)}?`);
  } else {
    say("Listening… nothing sure yet.");
  }
}

async function askFile(file) {
  if (!file) return;
  cancelListening();
  asking?.abort();
  const mine = (asking = new AbortController());
  hideProblem();
  say(`Asking about ${file.name}…`);
  document.body.setAttribute("aria-busy", "true");
  try {
    remember(await (local ? local.askFile(file, mine.signal) : upload(file, mine.signal)), file.name);
    say(IDLE);
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  } finally {
    if (asking === mine) {
      asking = null;
      document.body.removeAttribute("aria-busy");
    }
  }
}

async function upload(file, signal) {
  const response = await fetch("v1/identify?explain=true", { method: "POST", body: file, signal });
  const reply = await response.json();
  if (!response.ok) throw new Trouble(reply.detail, reply.remedy);
  return reply;
}

function fail(error) {
  say(IDLE);
  if (error instanceof Trouble) showProblem(error.message, error.remedy);
  else if (error instanceof TypeError) showProblem("The service cannot be reached.", "Is it still running? Try again.");
  else showProblem(`Something failed: ${error.message}`, "Try again, or reload the page.");
}

function remember(answer, source) {
  const { type: _, ...result } = answer;
  history = [{ source, asked: new Date().toISOString(), answer: result }, ...history].slice(0, HISTORY_LENGTH);
  try {
    localStorage.setItem(HISTORY_KEY, JSON.stringify(history));
  } catch {
    forget(); // full: the history then lasts until the page is left
  }
  show(history[0]);
  goToAnswer();
}

function show(entry) {
  hideProblem();
  shown = entry;
  showAnswer(entry.answer);
  const earlier = history.filter((other) => other !== entry);
  byId("history").hidden = earlier.length === 0;
  byId("history").querySelector("ol").replaceChildren(...earlier.map(historyRow));
}

function forget() {
  try {
    localStorage.removeItem(HISTORY_KEY);
  } catch {
    // storage is switched off
  }
}

function historyRow(entry) {
  const { answer, asked, source } = entry;
  const row = document.createElement("li");
  const button = document.createElement("button");
  const isToday = new Date(asked).toDateString() === new Date().toDateString();
  const [what, when] = [document.createElement("span"), document.createElement("span")];
  const best = answer.matches[0];
  what.textContent = answer.verdict === "match" ? `${nameOf(best)}, ${clock(best.offset_s)} in` : `Unknown (${source})`;
  const day = isToday ? {} : { month: "short", day: "numeric" };
  when.textContent = new Date(asked).toLocaleString([], { ...day, hour: "2-digit", minute: "2-digit" });
  button.type = "button";
  button.append(what, when);
  button.addEventListener("click", () => {
    show(entry);
    goToAnswer(); // the button that had the focus is gone
  });
  row.append(button);
  return row;
}

async function copy() {
  const text = JSON.stringify(shown.answer, null, 1);
  try {
    await navigator.clipboard.writeText(text);
    byId("copied").textContent = "Copied.";
  } catch {
    byId("copied").textContent = "The browser does not copy here (it does on https pages): select it below.";
    byId("to-copy").textContent = text;
    byId("to-copy").hidden = false;
    getSelection().selectAllChildren(byId("to-copy"));
  }
}

async function describeCollection() {
  try {
    const ready = await fetch("readyz");
    if (!ready.ok) {
      byId("collection").textContent = "The model is being prepared; this takes up to a minute…";
      setTimeout(describeCollection, 1000);
      return;
    }
    const { total } = await (await fetch("v1/tracks?limit=1")).json();
    byId("collection").textContent = `${total.toLocaleString()} ${total === 1 ? "track" : "tracks"} can be recognised here.`;
  } catch {
    byId("collection").textContent = "The service cannot be reached.";
  }
}

// The link to the other way of asking; this one's model begins to load.
async function offerMode() {
  const link = byId("mode");
  link.href = isLocal ? "." : "?local";
  link.textContent = isLocal ? "Ask by sending the audio" : "Ask without sending audio";
  byId("private").hidden = !isLocal;
  byId("add").hidden = isLocal; // it sends audio
  link.hidden = !isLocal && !(await describeModel().catch(() => null))?.files;
  if (!local) return;
  say("Loading the model…");
  try {
    await local.load();
    if (!listening && !asking) say(IDLE);
  } catch (error) {
    fail(error);
  }
}

function watchDrops() {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (!isLocal && event.target.closest("#add")) addFiles([...event.dataTransfer.files]);
    else askFile(event.dataTransfer.files[0]);
  });
}

byId("listen").addEventListener("click", toggle);
byId("file").addEventListener("change", ({ target }) => {
  askFile(target.files[0]);
  target.value = ""; // the same file may be asked about again
});
byId("copy").addEventListener("click", copy);
byId("forget").addEventListener("click", () => {
  forget();
  history = history.filter((entry) => entry === shown);
  byId("history").hidden = true;
  byId("listen").focus(); // the button that had the focus is gone
});
addEventListener("keydown", ({ key }) => {
  if (key === "Escape" && listening) toggle();
});
watchDrops();
startLibrary();
describeCollection();
offerMode();
if (history.length) show(history[0]);
