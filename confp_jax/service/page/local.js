// Asking without sending audio: fingerprints are computed in this browser, and they alone travel.

import { Microphone, Trouble } from "./microphone.js";

const RECORDING_S = 10;
const LOOKS_S = [3, 6]; // of a recording: it is asked about before its end
const SHORTEST_S = 1;
const WITH_AUDIO = "Open this page without ?local: it then sends the audio to the service.";
const MEGABYTE = 1e6;

export async function describeModel() {
  return (await fetch("v1/model")).json();
}

export class LocalModel {
  #worker = null;
  #about = null;
  #ready = null;
  #waiting = new Map(); // what the worker computes: [resolve, reject] by its number
  #number = 0;

  // onProgress(text) is called while the model loads and computes.
  constructor(onProgress) {
    this.onProgress = onProgress;
  }

  // Loads the model once; rejects with Trouble, and the next call tries again.
  load() {
    this.#ready ??= this.#load().catch((error) => {
      this.#ready = null;
      this.#worker?.terminate();
      throw error;
    });
    return this.#ready;
  }

  // The answer to a file.
  async askFile(file, signal) {
    await this.load();
    const context = new OfflineAudioContext(1, 1, this.#rateHz);
    let audio;
    try {
      audio = await context.decodeAudioData(await file.arrayBuffer());
    } catch {
      throw new Trouble("This browser cannot decode the file.", `Convert it to wav, mp3 or m4a. ${WITH_AUDIO}`);
    }
    return this.#ask(mono(audio), { signal });
  }

  // The answer to blocks of mono samples at another rate; `options` as in #ask.
  async askBlocks(blocks, rateHz, options) {
    await this.load();
    const num = blocks.reduce((sum, block) => sum + block.length, 0);
    if (num < rateHz * SHORTEST_S) throw tooShort(num / rateHz);
    const buffer = new AudioBuffer({ length: num, sampleRate: rateHz });
    let first = 0;
    for (const block of blocks) {
      buffer.copyToChannel(block, 0, first);
      first += block.length;
    }
    const context = new OfflineAudioContext(1, Math.round((num * this.#rateHz) / rateHz), this.#rateHz);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(context.destination);
    source.start();
    return this.#ask((await context.startRendering()).getChannelData(0), options);
  }

  // The answer to mono samples at the model's rate: one of several `questions` about a recording.
  async #ask(samples, { signal, questions = 1, explain = true }) {
    const lengthS = samples.length / this.#rateHz;
    if (lengthS < SHORTEST_S) throw tooShort(lengthS);
    if (lengthS > this.#about.max_audio_s) {
      throw new Trouble(`The recording is longer than ${this.#about.max_audio_s} s.`, "An excerpt of 3 to 10 s is enough.");
    }
    const rows = await this.#vectors(samples);
    signal?.throwIfAborted();
    const query = new URLSearchParams({ weights_hash: this.#about.weights_hash, num_samples: samples.length, questions, explain });
    const response = await fetch(`v1/identify/fingerprints?${query}`, { method: "POST", body: rows, signal });
    const reply = await response.json();
    if (response.status === 409) throw new Trouble("The service has another model now.", "Reload this page.");
    if (!response.ok) throw new Trouble(reply.detail, reply.remedy);
    return reply;
  }

  get #rateHz() {
    return this.#about.config.audio.sample_rate_hz;
  }

  async #load() {
    this.#about = await describeModel();
    const files = this.#about.files;
    if (!files) {
      throw new Trouble(
        "This service has no model for browsers.",
        `Its operator can start it with --browser-runtime FOLDER. ${WITH_AUDIO}`,
      );
    }
    const worker = (this.#worker = new Worker(new URL("local-worker.js", import.meta.url), { type: "module" }));
    const addresses = Object.fromEntries(Object.entries(files).map(([name, place]) => [name, new URL(place, document.baseURI).href]));
    await new Promise((resolve, reject) => {
      const failed = (detail) => {
        const trouble = new Trouble(`The model cannot be run in this browser (${detail}).`, `Use a current browser. ${WITH_AUDIO}`);
        reject(trouble);
        for (const [, giveUp] of this.#waiting.values()) giveUp(trouble);
        this.#waiting.clear();
      };
      worker.onerror = (event) => failed(event.message ?? "its script did not load");
      worker.onmessage = ({ data }) => {
        if (data.type === "progress") {
          this.onProgress(`Loading the model: ${(data.loaded / MEGABYTE).toFixed(0)} of ${(data.total / MEGABYTE).toFixed(0)} MB…`);
        } else if (data.type === "ready") resolve();
        else if (data.type === "failed") failed(data.detail);
        else if (data.type === "done") this.#tell(data);
        else this.#settle(data);
      };
      worker.postMessage({ type: "load", files: addresses, about: this.#about });
    });
  }

  #tell({ number, done, total }) {
    if (this.#waiting.has(number)) this.onProgress(`Computing fingerprints: ${Math.round((100 * done) / total)} %…`);
  }

  #settle({ number, rows }) {
    this.#waiting.get(number)?.[0](rows);
    this.#waiting.delete(number);
  }

  #vectors(samples) {
    const number = ++this.#number;
    for (const [, giveUp] of this.#waiting.values()) giveUp(new DOMException("another question", "AbortError"));
    this.#waiting.clear();
    return new Promise((resolve, reject) => {
      this.#waiting.set(number, [resolve, reject]);
      this.#worker.postMessage({ type: "vectors", number, samples });
    });
  }
}

// Records the microphone for `RECORDING_S`, or until it is stopped, and asks: as Listening, without a service.
export class LocalListening {
  #microphone = new Microphone();
  #model;
  #blocks = [];
  #ended = null;
  #stopped = false;
  #abort = new AbortController();

  // onLevel(0..1), onHeard(seconds), onGuess(answer), onStart() are called while it listens.
  constructor(model, { onLevel, onHeard, onGuess, onStart }) {
    this.#model = model;
    this.onLevel = onLevel;
    this.onHeard = onHeard;
    this.onGuess = onGuess;
    this.onStart = onStart;
  }

  // Resolves with the answer; rejects with Trouble.
  async run() {
    try {
      await this.#model.load();
      await this.#microphone.open();
      this.#abort.signal.throwIfAborted();
      await this.#record();
      this.#abort.signal.throwIfAborted();
      return await this.#ask(true);
    } finally {
      this.#microphone.close();
    }
  }

  // Ends the recording; the answer to what was heard follows.
  stop() {
    this.#stopped = true;
    this.#ended?.();
    this.#microphone.close();
  }

  // Ends it without an answer: `run` rejects with an AbortError.
  cancel() {
    this.#abort.abort();
    this.stop();
  }

  #ask(explain) {
    const options = { signal: this.#abort.signal, questions: LOOKS_S.length + 1, explain };
    return this.#model.askBlocks([...this.#blocks], this.#microphone.rateHz, options);
  }

  // A guess; why there is none, such as silence so far, the answer will say.
  #look() {
    const guess = (answer) => this.#stopped || this.onGuess(answer);
    this.#ask(false).then(guess, () => null);
  }

  #record() {
    if (this.#stopped) return null;
    return new Promise((resolve) => {
      this.#ended = resolve;
      let num = 0;
      const looksS = [...LOOKS_S];
      const push = (block) => {
        this.#blocks.push(block);
        num += block.length;
        const heardS = num / this.#microphone.rateHz;
        this.onHeard(heardS);
        if (heardS >= RECORDING_S) this.stop();
        else if (heardS >= looksS[0]) {
          looksS.shift();
          this.#look();
        }
      };
      this.#microphone.record(push, this.onLevel);
      this.onStart();
    });
  }
}

function tooShort(lengthS) {
  return new Trouble(`${lengthS.toFixed(2)} s of audio is too short.`, "At least 1 s is needed, 3 s and more is better.");
}

function mono(audio) {
  const channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}
