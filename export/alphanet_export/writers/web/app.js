// AlphaNet in the browser: the page and, in a worker, the network. It requires style.css, model.json, model.onnx and
// ONNX Runtime Web in ort/, and makes no requests to other hosts.

const WARM_UP = 3, LEAST_RUNS = 10, LEAST_MS = 3000, MOST_MS = 30000, MOST_THREADS = 8;

// --- The network, in a worker -------------------------------------------------------------------------------------

/** Answers messages {id, task, values}. Each worker has one runtime, whose number of threads is fixed once it runs. */
function serveTasks() {
  const runtimes = { wasm: './ort/ort.wasm.bundle.min.mjs', webgpu: './ort/ort.webgpu.bundle.min.mjs' };
  let ort, session, shape;
  const tasks = {
    async load({ device, threads, model, size }) {
      const started = performance.now();
      ort = await import(runtimes[device]);
      ort.env.wasm.numThreads = threads;
      ort.env.logLevel = 'error';
      session = await ort.InferenceSession.create(model, { executionProviders: [device] });
      shape = [1, 3, size, size];
      return { ms: performance.now() - started, threads: ort.env.wasm.numThreads };
    },
    async run({ pixels }) {
      const started = performance.now();
      const { logits } = await session.run({ pixel_values: new ort.Tensor('float32', pixels, shape) });
      const values = await logits.getData(); // Waits for a GPU.
      return { logits: Float32Array.from(values), ms: performance.now() - started };
    },
  };
  self.onmessage = async ({ data: { id, task, values } }) => {
    try {
      self.postMessage({ id, value: await tasks[task](values) });
    } catch (error) {
      self.postMessage({ id, error: String(error?.message ?? error) });
    }
  };
}

/** The network on one device with a number of threads. */
class Engine {
  #worker = new Worker(import.meta.url, { type: 'module' });
  #waiting = new Map();
  #calls = 0;

  /** Loads the model. Returns the engine, with the load time in milliseconds as `loadMs`. */
  static async start({ device, threads }, model) {
    const engine = new Engine();
    engine.#worker.onmessage = ({ data: { id, value, error } }) => {
      const { resolve, reject } = engine.#waiting.get(id);
      engine.#waiting.delete(id);
      if (error === undefined) resolve(value); else reject(new Error(error));
    };
    engine.#worker.onerror = (event) => engine.#fail(event.message || 'the worker could not start');
    const url = new URL('model.onnx', import.meta.url).href;
    try {
      const loaded = await engine.#call('load', { device, threads, model: url, size: model.input_size });
      engine.loadMs = loaded.ms;
      engine.threads = loaded.threads;
    } catch (error) {
      engine.close();
      throw error;
    }
    return engine;
  }

  /** Logits of the pixels (3 x S x S) as a Float32Array, and the run time in milliseconds. */
  run(pixels) {
    return this.#call('run', { pixels });
  }

  close() {
    this.#worker.terminate();
    this.#fail('it was closed');
  }

  #call(task, values) {
    return new Promise((resolve, reject) => {
      const id = this.#calls++;
      this.#waiting.set(id, { resolve, reject });
      this.#worker.postMessage({ id, task, values });
    });
  }

  #fail(message) {
    for (const { reject } of this.#waiting.values()) reject(new Error(message));
    this.#waiting.clear();
  }
}

// --- From an image to the network's input -------------------------------------------------------------------------

const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    at(x) { // Keys' cubic with a = -0.5, which Pillow uses.
      const d = Math.abs(x);
      if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
      return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
    },
  },
};
const FRACTION_BITS = 22; // Pillow resamples 8-bit channels with integer weights of this many binary places.

/** For each output position from `first` on: the start of its input, and the integer weights. Antialiased: when
 * shrinking, the filter is widened by the same factor. */
function resampleWeights(inSize, outSize, first, count, { support, at }) {
  const scale = inSize / outSize, wide = Math.max(scale, 1);
  return Array.from({ length: count }, (_, i) => {
    const centre = (first + i + 0.5) * scale;
    const begin = Math.max(0, Math.trunc(centre - support * wide + 0.5));
    const end = Math.min(inSize, Math.trunc(centre + support * wide + 0.5));
    const values = Array.from({ length: end - begin }, (_, j) => at((begin + j - centre + 0.5) / wide));
    const sum = values.reduce((total, value) => total + value, 0);
    const whole = (value) => Math.trunc(value * 2 ** FRACTION_BITS + (value < 0 ? -0.5 : 0.5));
    return { begin, weights: Int32Array.from(values, (value) => whole(value / sum)) };
  });
}

/** Resamples along one axis. `lines` runs of RGBA pixels, `lineStep` values apart; in each, `step` values from one
 * pixel to the next. The output has the same layout with `outStep` and `outLineStep`. */
function resampleAxis(source, sourceOffset, lineStep, step, target, outLineStep, outStep, lines, places) {
  const half = 2 ** (FRACTION_BITS - 1);
  places.forEach(({ begin, weights }, place) => {
    for (let line = 0; line < lines; line++) {
      let from = sourceOffset + line * lineStep + begin * step, red = half, green = half, blue = half;
      for (let tap = 0; tap < weights.length; tap++, from += step) {
        const weight = weights[tap];
        red += source[from] * weight;
        green += source[from + 1] * weight;
        blue += source[from + 2] * weight;
      }
      const to = line * outLineStep + place * outStep; // A clamped array keeps 0 to 255.
      target[to] = red >> FRACTION_BITS;
      target[to + 1] = green >> FRACTION_BITS;
      target[to + 2] = blue >> FRACTION_BITS;
      target[to + 3] = 255;
    }
  });
}

/** Half of an integer, rounded half to even, as in Python. */
const roundHalf = (difference) => {
  const floor = Math.floor(difference / 2);
  return difference % 2 ? floor + (floor % 2) : floor;
};

/** Resizes the short side, then crops the centre: an RGBA Uint8ClampedArray (S x S x 4). Only the crop is computed. */
export function resizeAndCrop({ data, width, height }, { input_size: size, resize_size: short, interpolation }) {
  const long = (side, other) => Math.trunc((short * side) / other);
  const [wide, high] = width <= height ? [short, long(height, width)] : [long(width, height), short];
  const filter = FILTERS[interpolation];
  const columns = resampleWeights(width, wide, roundHalf(wide - size), size, filter);
  const rows = resampleWeights(height, high, roundHalf(high - size), size, filter);
  const top = rows[0].begin, bottom = rows.at(-1).begin + rows.at(-1).weights.length;
  const between = new Uint8ClampedArray((bottom - top) * size * 4); // Rounded to 8 bits between the axes, like Pillow.
  resampleAxis(data, top * width * 4, width * 4, 4, between, size * 4, 4, bottom - top, columns);
  const crop = new Uint8ClampedArray(size * size * 4);
  const shifted = rows.map(({ begin, weights }) => ({ begin: begin - top, weights }));
  resampleAxis(between, 0, 4, size * 4, crop, 4, size * 4, size, shifted);
  return crop;
}

/** Scales to 0..1 and normalises, in float32 arithmetic: pixels (3 x S x S). */
export function normalise(crop, { mean, std }) {
  const places = crop.length / 4, pixels = new Float32Array(3 * places), unit = Math.fround(1 / 255);
  for (let channel = 0; channel < 3; channel++) {
    const [centre, spread] = [Math.fround(mean[channel]), Math.fround(std[channel])];
    const table = Float32Array.from({ length: 256 }, (_, byte) =>
      Math.fround(Math.fround(Math.fround(byte * unit) - centre) / spread));
    for (let i = 0; i < places; i++) pixels[channel * places + i] = table[crop[4 * i + channel]];
  }
  return pixels;
}

/** The RGBA pixels of an image file, an element or a bitmap. Transparent parts become white. */
export async function readPixels(image) {
  const options = image instanceof Blob ? { colorSpaceConversion: 'none' } : {};
  const bitmap = await createImageBitmap(image, options);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

/** Indices and softmax probabilities of the `count` largest logits. */
export function topClasses(logits, count) {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const total = logits.reduce((sum, value) => sum + Math.exp(value - most), 0);
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]).slice(0, count);
  return order.map((index) => ({ index, share: Math.exp(logits[index] - most) / total }));
}

// --- The page -----------------------------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);
let model, targets, engine, pixels, newest = 0;

/** A new element with attributes and children. Strings become text nodes, never markup. */
function element(tag, attributes = {}, ...children) {
  const space = ['svg', 'rect'].includes(tag) ? 'http://www.w3.org/2000/svg' : 'http://www.w3.org/1999/xhtml';
  const made = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const bar = (share) => element('svg', { class: 'bar', 'aria-hidden': 'true' },
  element('rect', { class: 'fill', width: `${(100 * share).toFixed(2)}%`, height: '100%' }));

function say(text, bad = false) {
  byId('status').textContent = text;
  byId('status').classList.toggle('bad', bad);
}

const labelOf = (index) => model.labels?.[index] ?? `class ${index}`;
const milliseconds = (ms) => `${ms < 100 ? ms.toFixed(1) : ms.toFixed(0)} ms`;

/** The backends of this browser; `why` is the reason if one is not available. */
async function findTargets() {
  const cores = navigator.hardwareConcurrency || 1;
  const alone = crossOriginIsolated ? (cores > 1 ? '' : 'one core') : 'the page is not isolated; use serve.py';
  const counts = [1, 2, 4, 8, cores].filter((n) => n <= Math.min(Math.max(cores, 2), MOST_THREADS));
  const found = [...new Set(counts)].sort((a, b) => a - b).map((threads) => ({
    key: `wasm-${threads}`, device: 'wasm', threads, name: `WebAssembly, ${threads} thread${threads > 1 ? 's' : ''}`,
    why: threads > 1 ? alone : '',
  }));
  let why = navigator.gpu ? '' : 'this browser has no WebGPU', name = 'WebGPU';
  if (navigator.gpu) {
    const adapter = await navigator.gpu.requestAdapter().catch(() => null);
    const about = adapter?.info?.description || adapter?.info?.vendor;
    if (!adapter) why = 'this browser finds no GPU';
    else if (adapter.info?.isFallbackAdapter) name += ' (in software)';
    else if (about) name += ` (${about})`;
  }
  return [...found, { key: 'webgpu', device: 'webgpu', threads: 1, name, why }];
}

/** Replaces the engine by one for another backend. */
async function useTarget(key) {
  const target = targets.find((one) => one.key === key);
  byId('device').disabled = byId('measure').disabled = true;
  say(`Loading the network on ${target.name}…`);
  engine?.close();
  engine = null;
  try {
    engine = await Engine.start(target, model);
    say(`Ready: ${target.name}.`);
  } catch (error) {
    say(`The network cannot run on ${target.name}: ${error.message}. Choose another backend.`, true);
  }
  document.body.dataset.device = engine ? key : '';
  byId('device').disabled = byId('measure').disabled = false;
  if (engine && pixels) await classify(pixels);
}

/** Runs the network on the pixels and shows the prediction. Returns the logits, or null if a newer image arrived. */
async function classify(input, preparedMs) {
  const turn = ++newest;
  byId('answer').setAttribute('aria-busy', 'true');
  const { logits, ms } = await engine.run(input);
  if (turn !== newest) return null;
  byId('empty').hidden = true;
  byId('top').replaceChildren(...topClasses(logits, 5).map(({ index, share }) => element('li', { 'data-index': index },
    element('span', { class: 'label' }, labelOf(index)),
    element('span', { class: 'share' }, `${(100 * share).toFixed(1)} %`), bar(share))));
  const prepared = preparedMs === undefined ? '' : `Preprocessing ${milliseconds(preparedMs)}, `;
  byId('timing').textContent = `${prepared}network ${milliseconds(ms)}.`;
  byId('seen').hidden = false;
  byId('answer').setAttribute('aria-busy', 'false');
  return logits;
}

/** Classifies a file, an element or a bitmap. Returns the logits. */
export async function classifyImage(image) {
  if (!engine) throw new Error('the network is not loaded');
  const started = performance.now();
  const crop = resizeAndCrop(await readPixels(image), model.preprocessing);
  pixels = normalise(crop, model.preprocessing);
  const prepared = performance.now() - started;
  const size = model.input_size, canvas = byId('crop');
  canvas.width = canvas.height = size;
  canvas.getContext('2d').putImageData(new ImageData(crop, size, size), 0, 0);
  return classify(pixels, prepared);
}

/** Shows an image file and classifies it. */
async function take(file) {
  stopCamera();
  if (!file) return;
  const image = byId('image');
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(file);
  image.alt = file.name || 'The chosen image';
  image.hidden = false;
  byId('invitation').hidden = true;
  byId('drop').classList.add('filled');
  try {
    await classifyImage(file);
    say(`Classified ${image.alt}.`);
  } catch (error) {
    image.hidden = true;
    byId('invitation').hidden = false;
    say(`Cannot classify ${image.alt}: ${error.message} Choose an image format that this browser supports.`, true);
  }
}

/** Classifies the camera's frames one after the other until it is stopped. */
async function startCamera() {
  const video = byId('video');
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } });
    await video.play();
  } catch (error) {
    say(`The camera is not available: ${error.message}.`, true);
    return;
  }
  video.hidden = false;
  byId('image').hidden = byId('invitation').hidden = true;
  byId('drop').classList.add('filled');
  byId('camera').textContent = 'Stop camera';
  byId('answer').setAttribute('aria-live', 'off'); // Screen readers would read out several predictions per second.
  while (video.srcObject) {
    try {
      if (engine) await classifyImage(video);
    } catch (error) {
      if (video.srcObject && engine) say(`Cannot classify the camera's image: ${error.message}`, true);
    }
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  const video = byId('video');
  if (!video.srcObject) return;
  video.srcObject.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  video.hidden = true;
  byId('invitation').hidden = false;
  byId('camera').textContent = 'Camera';
  byId('answer').setAttribute('aria-live', 'polite');
}

/** Times of one backend, in milliseconds, and its logits. */
async function measureTarget(target, input) {
  const timed = await Engine.start(target, model);
  try {
    let logits;
    for (let i = 0; i < WARM_UP; i++) ({ logits } = await timed.run(input));
    const times = [], started = performance.now();
    const since = () => performance.now() - started;
    while ((times.length < LEAST_RUNS && since() < MOST_MS) || since() < LEAST_MS) {
      times.push((await timed.run(input)).ms);
    }
    times.sort((a, b) => a - b);
    const at = (share) => times[Math.round(share * (times.length - 1))];
    return { median: at(0.5), low: at(0.1), high: at(0.9), runs: times.length, loadMs: timed.loadMs, logits };
  } finally {
    timed.close();
  }
}

/** A smooth synthetic input, for timing without an image. */
const pattern = () => Float32Array.from({ length: 3 * model.input_size ** 2 }, (_, i) => Math.sin(i * 0.37) + Math.cos(i * 0.0011));

/** Measures all backends one after the other and fills the table. */
async function measureAll() {
  stopCamera();
  const rows = byId('speed').tBodies[0], input = pixels ?? pattern(), results = [];
  byId('picture').inert = true;
  byId('measure').disabled = true;
  for (const [place, target] of targets.entries()) {
    if (target.why) continue;
    say(`Measuring ${target.name}…`);
    try {
      results.push({ place, ...(await measureTarget(target, input)) });
    } catch (error) {
      rows.rows[place].replaceChildren(...speedRow(target, `failed: ${error.message}`));
      continue;
    }
    const slowest = Math.max(...results.map(({ median }) => median));
    const quickest = Math.min(...results.map(({ median }) => median));
    for (const result of results) {
      rows.rows[result.place].replaceChildren(...speedRow(targets[result.place], result, slowest, results[0].logits));
      rows.rows[result.place].classList.toggle('fastest', result.median === quickest);
    }
  }
  byId('picture').inert = false;
  byId('measure').disabled = false;
  say('Measured.');
}

/** The cells of one backend; `result` is a remark or the result of `measureTarget`. */
function speedRow(target, result, slowest, reference) {
  const head = element('th', { scope: 'row' }, target.name);
  if (typeof result === 'string') return [head, element('td', { colspan: 4, class: 'soft' }, result)];
  const most = reference.reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const difference = reference.reduce((a, b, i) => Math.max(a, Math.abs(b - result.logits[i])), 0) / most;
  return [head,
    element('td', { 'data-ms': result.median }, milliseconds(result.median), bar(result.median / slowest)),
    element('td', {}, `${milliseconds(result.low)} to ${milliseconds(result.high)}, ${result.runs} runs`),
    element('td', {}, milliseconds(result.loadMs)),
    element('td', { 'data-difference': difference }, difference ? difference.toExponential(1) : '0')];
}

/** Shows the metadata of the model. */
function showModel() {
  const { arch, preprocessing: p } = model, millions = (n) => `${(n / 1e6).toFixed(2)} M`;
  byId('name').textContent = document.title = model.name;
  const rows = {
    'Cost': `${millions(model.macs)} multiply-accumulates (MACs) per image, ${millions(model.params)} parameters`,
    'Input': `short side to ${p.resize_size} (${p.interpolation}, antialiased), centre ${p.input_size} x ${p.input_size}`
      + (arch.resolution === p.input_size ? '' : `, resized to ${arch.resolution} in the network`),
    'Width': arch.width.join(' '), 'Depth': arch.depth.join(' '), 'Kernel size': arch.kernel_size.join(' '),
    'Expand ratio': arch.expand_ratio.join(' '),
    'Accuracy': model.accuracy ?? 'not known for this input size and these weights',
    'Weights': `${model.weights}, SHA-256 ${model.weights_sha256}`,
    'File': `${model.precision}, ${millions(model.file_bytes)}B, SHA-256 ${model.file_sha256}`,
    'Runtime': `ONNX Runtime Web ${model.ort_web}`,
  };
  byId('facts').replaceChildren(...Object.entries(rows).flatMap(([name, value]) =>
    [element('dt', {}, name), element('dd', {}, value)]));
  byId('caution').hidden = model.weights !== 'random';
  byId('labels-title').textContent = `${model.num_classes} classes`;
  byId('labels').replaceChildren(...Array.from({ length: model.num_classes }, (_, i) => element('li', {}, labelOf(i))));
}

/** Lists the backends in the menu and in the table. */
function showTargets() {
  byId('device').replaceChildren(...targets.map(({ key, name, why }) =>
    element('option', { value: key, ...(why ? { disabled: '' } : {}) }, why ? `${name}: ${why}` : name)));
  byId('speed').tBodies[0].replaceChildren(...targets.map((target) =>
    element('tr', { 'data-key': target.key }, ...speedRow(target, target.why || 'not measured yet'))));
  byId('threads').textContent = crossOriginIsolated
    ? `This browser reports ${navigator.hardwareConcurrency} cores.`
    : 'One thread only: the server does not send the isolation headers that serve.py sends.';
}

function listen() {
  const drop = byId('drop'), file = byId('file');
  file.onchange = () => take(file.files[0]).finally(() => (file.value = ''));
  drop.ondragover = (event) => { event.preventDefault(); drop.classList.add('over'); };
  drop.ondragleave = () => drop.classList.remove('over');
  drop.ondrop = (event) => {
    event.preventDefault();
    drop.classList.remove('over');
    take(event.dataTransfer.files[0]);
  };
  byId('camera').onclick = () => (byId('video').srcObject ? stopCamera() : startCamera());
  byId('camera').hidden = !navigator.mediaDevices?.getUserMedia;
  byId('device').onchange = (event) => useTarget(event.target.value);
  byId('measure').onclick = measureAll;
}

async function startPage() {
  say('Loading…');
  try {
    const answer = await fetch('model.json');
    if (!answer.ok) throw new Error(`model.json: ${answer.status}`);
    model = await answer.json();
    targets = await findTargets();
  } catch (error) {
    say(`The page is incomplete: ${error.message}. Export it again with alphanet export --web.`, true);
    return;
  }
  showModel();
  showTargets();
  listen();
  const usable = targets.filter(({ device, threads, why }) => device === 'wasm' && threads <= 4 && !why);
  byId('device').value = usable.at(-1).key;
  await useTarget(byId('device').value);
  byId('file').disabled = byId('camera').disabled = false;
}

if (typeof document === 'undefined') serveTasks();
else startPage();
