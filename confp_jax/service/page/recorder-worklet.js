// Hands the microphone's samples, mono, to the page in blocks of about 50 ms.
const BLOCK_SAMPLES = 2048;

class Recorder extends AudioWorkletProcessor {
  #block = new Float32Array(BLOCK_SAMPLES);
  #filled = 0;

  process([input]) {
    if (input.length === 0) return true;
    for (let i = 0; i < input[0].length; i++) {
      let sum = 0;
      for (const channel of input) sum += channel[i];
      this.#block[this.#filled++] = sum / input.length;
      if (this.#filled === BLOCK_SAMPLES) {
        this.port.postMessage(this.#block, [this.#block.buffer]);
        this.#block = new Float32Array(BLOCK_SAMPLES);
        this.#filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("recorder", Recorder);
