// An answer on the screen: in words, in pictures, and in numbers.

const byId = (id) => document.getElementById(id);
// Dark to bright, even in lightness: 0, 25, 50, 75 and 100 % of the loudness.
const SHADES = [[11, 13, 18], [59, 28, 96], [168, 50, 96], [240, 122, 52], [252, 240, 170]];

export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// Names come from outside: what turns the direction of a line, or ends it, is left out.
export function plain(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, "");
}

export function nameOf(match) {
  return plain(match.title || match.track);
}

function inWords(confidence) {
  if (confidence >= 0.99) return "Almost certain";
  if (confidence >= 0.9) return "Very likely";
  if (confidence >= 0.7) return "Likely";
  return "Not sure";
}

function percent(confidence) {
  return confidence >= 0.9995 ? "more than 99.9 %" : `${(100 * confidence).toFixed(1)} %`;
}

function drawSpectrogram(canvas, picture, description) {
  canvas.hidden = !picture;
  if (!picture) return;
  const bytes = Uint8Array.from(atob(picture.pixels), (letter) => letter.charCodeAt(0));
  const { num_bands: bands, num_columns: columns } = picture;
  canvas.width = columns;
  canvas.height = bands;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, bands);
  for (let band = 0; band < bands; band++) {
    for (let column = 0; column < columns; column++) {
      const level = (bytes[band * columns + column] / 255) * (SHADES.length - 1);
      const lower = Math.min(Math.floor(level), SHADES.length - 2);
      const at = 4 * ((bands - 1 - band) * columns + column);
      for (let i = 0; i < 3; i++) {
        image.data[at + i] = SHADES[lower][i] + (level - lower) * (SHADES[lower + 1][i] - SHADES[lower][i]);
      }
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  canvas.setAttribute("aria-label", description);
}

function showScores(scores) {
  byId("scores").replaceChildren(
    ...scores.map(({ query_offset_s: second, score }) => {
      const row = document.createElement("li");
      const [time, bar, number] = ["span", "span", "span"].map((tag) => document.createElement(tag));
      const fill = document.createElement("i");
      time.textContent = `second ${second + 1}`;
      bar.className = "bar";
      bar.setAttribute("aria-hidden", "true");
      fill.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
      bar.append(fill);
      number.textContent = score.toFixed(2);
      row.append(time, bar, number);
      return row;
    }),
  );
}

function showWhy(answer, best) {
  const why = answer.why;
  byId("why").hidden = !why || !best;
  if (!why || !best) return;
  drawSpectrogram(byId("query-picture"), why.query, "Spectrogram of what was heard");
  drawSpectrogram(byId("match-picture"), why.match, `Spectrogram of ${nameOf(best)} at this place`);
  byId("query-missing").hidden = Boolean(why.query);
  byId("query-missing").textContent = why.query ? "" : "No picture: the recording stayed on your device.";
  byId("match-missing").hidden = Boolean(why.match);
  byId("match-missing").textContent = why.no_match_because ? `No picture: ${why.no_match_because}.` : "";
  byId("query-caption").textContent = `What was heard, from ${clock(why.query_offset_s)} on`;
  byId("match-caption").textContent = `${nameOf(best)}, from ${clock(why.offset_s)} on`;
  showScores(why.scores);
  const second = why.runner_up;
  const lead = Math.abs(why.margin ?? 0).toFixed(2);
  byId("margin").textContent = second
    ? `Next best: ${nameOf(second)} at ${second.score.toFixed(2)}, ${lead} ${why.margin < 0 ? "ahead" : "behind"}.`
    : "There is no other track to compare it with.";
}

function showPlayer(match) {
  const box = byId("answer-play");
  box.hidden = !match?.audio;
  const [player, link] = [box.querySelector("audio"), box.querySelector("a")];
  player.pause();
  if (!match?.audio) return player.removeAttribute("src");
  // By the page's own address: a proxy may serve it below a path that the service does not know.
  player.src = new URL(`v1/tracks/${match.id}/audio#t=${match.offset_s.toFixed(1)}`, document.baseURI);
  link.href = player.src;
  link.textContent = `Play from ${clock(match.offset_s)}`;
}

export function showAnswer(answer) {
  const known = answer.verdict === "match";
  const best = answer.matches[0];
  byId("answer").hidden = false;
  byId("answer").classList.toggle("unknown", !known);
  byId("answer-kind").textContent = known ? "This is" : "Unknown";
  if (known) {
    const others = answer.matches.slice(1, answer.num_accepted);
    byId("answer-title").textContent = nameOf(best);
    byId("answer-artist").textContent = best.artist ? `by ${plain(best.artist)}` : "";
    const tempo = Math.abs(best.tempo - 1) >= 0.03 ? `, played at ${best.tempo.toFixed(2)} times its speed` : "";
    const also = others.map((other) => `, and ${nameOf(other)} from ${clock(other.query_offset_s)} of the recording on`).join("");
    byId("answer-place").textContent = `${clock(best.offset_s)} into the track${tempo}${also}`;
    byId("answer-sure").textContent = `${inWords(best.confidence)}: ${percent(best.confidence)} confidence`;
  } else {
    byId("answer-title").textContent = "I don’t know this one";
    byId("answer-artist").textContent = "It may not be in this collection, or it was too short or too noisy to be sure.";
    byId("answer-place").textContent = "";
    byId("answer-sure").textContent = best
      ? `The nearest is ${nameOf(best)}, but it is not alike enough (${percent(best.confidence)} confidence).`
      : "The collection is empty.";
  }
  for (const id of ["answer-artist", "answer-place"]) byId(id).hidden = !byId(id).textContent;
  showPlayer(known ? best : null);
  showWhy(answer, best);
  byId("copied").textContent = "";
  byId("to-copy").hidden = true;
}

// To the answer that was waited for: a screen reader reads it.
export function goToAnswer() {
  byId("answer").focus({ preventScroll: true });
  byId("answer").scrollIntoView({ block: "nearest" });
}

export function showProblem(detail, remedy) {
  const box = byId("problem");
  const sentence = detail.charAt(0).toUpperCase() + detail.slice(1);
  box.querySelector("h2").textContent = sentence;
  box.querySelector("p").textContent = remedy ? remedy.charAt(0).toUpperCase() + remedy.slice(1) + (/[.!?]$/.test(remedy) ? "" : ".") : "";
  box.hidden = false;
}

export function hideProblem() {
  byId("problem").hidden = true;
}
