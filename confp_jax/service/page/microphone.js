// The microphone, and it through the service's WebSocket: samples up, guesses and the answer down.

export class Trouble extends Error {
  // What went wrong, and what can be done about it.
  constructor(detail, remedy) {
    super(detail);
    this.remedy = remedy;
  }
}

const REFUSALS = {
  NotAllowedError: ["The browser may not use the microphone.", "Allow it for this page (beside the address), or drop a recording here."],
  NotFoundError: ["No microphone was found.", "Connect one and try again, or drop a recording here."],
  NotReadableError: ["The microphone is in use elsewhere.", "Close the other program, or drop a recording here."],
};

// The microphone: blocks of mono samples, and how loud they are.
export class Microphone {
  #context = null;
  #stream = null;

  get rateHz() {
    return this.#context.sampleRate;
  }

  // Rejects with Trouble.
  async open() {
    if (!navigator.mediaDevices) {
      throw new Trouble(
        "Browsers give the microphone only to secure pages.",
        "Open this page by https or as localhost, or drop a recording here.",
      );
    }
    try {
      // What improves speech spoils music.
      const audio = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
      this.#stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new Trouble(...(REFUSALS[error.name] ?? [`The microphone failed: ${error.message}.`, "Drop a recording here instead."]));
    }
    this.#context = new AudioContext();
    await this.#context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
  }

  // Calls onBlock(samples) and onLevel(0..1) until it is closed.
  record(onBlock, onLevel) {
    const recorder = new AudioWorkletNode(this.#context, "recorder", { numberOfOutputs: 0 });
    recorder.port.onmessage = ({ data }) => {
      if (this.#context.state === "closed") return;
      const power = data.reduce((sum, x) => sum + x * x, 0) / data.length;
      onBlock(data);
      onLevel(Math.min(1, Math.max(0, 1 + Math.log10(power + 1e-10) / 5))); // -50 to 0 dB
    };
    this.#context.createMediaStreamSource(this.#stream).connect(recorder);
  }

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    if (this.#context && this.#context.state !== "closed") this.#context.close();
  }
}

export class Listening {
  #socket = null;
  #microphone = new Microphone();
  #stopped = false;
  #cancelled = false;
  #reject = null;

  // onLevel(0..1), onGuess(answer), onStart() are called while it listens.
  constructor({ onLevel, onGuess, onStart }) {
    this.onLevel = onLevel;
    this.onGuess = onGuess;
    this.onStart = onStart;
  }

  // Resolves with the answer; rejects with Trouble.
  async run() {
    try {
      await this.#microphone.open();
      if (this.#cancelled) throw new DOMException("cancelled", "AbortError");
      return await this.#converse();
    } finally {
      this.#release();
    }
  }

  // Ends the recording; the answer to what was heard follows.
  stop() {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#microphone.close();
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type: "stop" }));
  }

  // Ends it without an answer: `run` rejects with an AbortError.
  cancel() {
    this.#stopped = this.#cancelled = true;
    this.#release();
    this.#reject?.(new DOMException("cancelled", "AbortError"));
  }

  #converse() {
    const address = new URL("v1/listen", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(address));
    return new Promise((resolve, reject) => {
      this.#reject = reject;
      const lost = () => reject(new Trouble("The connection to the service was lost.", "Is it still running? Try again."));
      socket.onclose = lost;
      socket.onerror = lost;
      socket.onopen = () => {
        const start = { type: "start", sample_rate_hz: this.#microphone.rateHz, format: "f32le", explain: true };
        socket.send(JSON.stringify(start));
      };
      socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "listening") this.#record();
        else if (message.type === "guess") this.onGuess(message);
        else if (message.type === "answer") resolve(message);
        else if (message.type === "problem") reject(new Trouble(message.detail, message.remedy));
      };
    });
  }

  #record() {
    if (this.#stopped) return this.#socket.send(JSON.stringify({ type: "stop" }));
    const send = (block) => {
      if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(block.buffer);
    };
    this.#microphone.record(send, this.onLevel);
    this.onStart();
  }

  #release() {
    this.#microphone.close();
    if (this.#socket) {
      this.#socket.onclose = this.#socket.onerror = this.#socket.onmessage = null;
      this.#socket.close();
    }
  }
}
