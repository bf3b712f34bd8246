// What the service holds: search it, listen to it, add to it.

import { Trouble } from "./microphone.js";
import { clock, nameOf, plain } from "./show.js";

const byId = (id) => document.getElementById(id);
const PAGE = 20;
const PAUSE_MS = 250; // after the last key

let waiting = null;
let asked = null;
let shown = 0;

async function search(offset = 0) {
  asked?.abort();
  const mine = (asked = new AbortController());
  const wanted = encodeURIComponent(byId("search").value.trim());
  try {
    const response = await fetch(`v1/tracks?search=${wanted}&limit=${PAGE}&offset=${offset}`, { signal: mine.signal });
    const found = await response.json();
    if (!response.ok) throw new Trouble(found.detail, found.remedy);
    show(found, offset);
  } catch (error) {
    if (error.name !== "AbortError") byId("found").textContent = "The service cannot be reached.";
  }
}

function show({ total, tracks }, offset) {
  const rows = tracks.map(trackRow);
  if (offset) byId("tracks").append(...rows);
  else byId("tracks").replaceChildren(...rows);
  shown = offset + tracks.length;
  byId("found").textContent = total === 1 ? "1 track" : `${total.toLocaleString()} tracks`;
  byId("more").hidden = shown >= total;
  if (offset && rows.length) rows[0].querySelector("button, span").focus?.();
}

function trackRow(track) {
  const row = document.createElement("li");
  const names = document.createElement("span");
  const quiet = document.createElement("span");
  names.textContent = track.artist ? `${nameOf(track)} – ${plain(track.artist)}` : nameOf(track);
  quiet.className = "quiet";
  quiet.textContent = [track.album, track.tags.year, clock(track.duration_s)].filter(Boolean).map(plain).join(" · ");
  row.append(names, quiet);
  if (track.audio) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Play";
    button.setAttribute("aria-label", `Play ${nameOf(track)}`);
    button.addEventListener("click", () => play(track));
    row.append(button);
  }
  return row;
}

function play(track) {
  const player = byId("player");
  byId("playing").hidden = false;
  byId("playing-name").textContent = track.artist ? `${nameOf(track)} – ${plain(track.artist)}` : nameOf(track);
  // By the page's own address: a proxy may serve it below a path that the service does not know.
  player.src = new URL(`v1/tracks/${track.id}/audio`, document.baseURI);
  player.play().catch(() => {
    byId("playing-name").textContent += " (cannot be played by this browser)";
  });
}

export async function addFiles(files) {
  const token = byId("token").value.trim();
  if (!token) {
    byId("added").textContent = "Adding needs the token of this service: write it into the field first.";
    byId("token").focus();
    return;
  }
  const told = [];
  for (const [number, file] of [...files].entries()) {
    byId("added").textContent = `Adding ${file.name} (${number + 1} of ${files.length})…`;
    told.push(await addFile(file, token));
  }
  byId("added").textContent = told.join(" ");
  search();
}

async function addFile(file, token) {
  try {
    const name = encodeURIComponent(file.name.replace(/\.[^.]+$/, ""));
    const headers = { Authorization: `Bearer ${token}` };
    const response = await fetch(`v1/tracks?name=${name}`, { method: "POST", body: file, headers });
    const reply = await response.json();
    if (!response.ok) return `${file.name}: ${reply.detail}${reply.remedy ? `; ${reply.remedy}` : ""}.`;
    return response.status === 201 ? `${nameOf(reply)} was added.` : `${nameOf(reply)} was there already.`;
  } catch {
    return `${file.name}: the service cannot be reached.`;
  }
}

export function startLibrary() {
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, PAUSE_MS);
  });
  byId("library").addEventListener("toggle", () => {
    if (byId("library").open && !shown) search();
  });
  byId("more").addEventListener("click", () => search(shown));
  byId("new-files").addEventListener("change", ({ target }) => {
    addFiles([...target.files]);
    target.value = "";
  });
}
