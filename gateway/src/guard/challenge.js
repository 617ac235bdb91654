"use strict";
// Finds a number n such that SHA-256("question:n") begins with as many zero bits as asked for.
// Plain JavaScript, since crypto.subtle is missing on pages that came without TLS.
const K = [], START = [];
for (let n = 2, found = 0; found < 64; n++) {
  let prime = true;
  for (let d = 2; d * d <= n; d++) if (n % d === 0) { prime = false; break; }
  if (!prime) continue;
  if (found < 8) START.push((Math.sqrt(n) % 1) * 4294967296 | 0);
  K.push((Math.cbrt(n) % 1) * 4294967296 | 0);
  found++;
}
const W = new Int32Array(64);
// One block of 64 bytes in `block`, on top of `state`.
function compress(state, block) {
  for (let i = 0; i < 16; i++) W[i] = block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
  for (let i = 16; i < 64; i++) {
    const a = W[i - 15], b = W[i - 2];
    W[i] = W[i - 16] + ((a >>> 7 | a << 25) ^ (a >>> 18 | a << 14) ^ a >>> 3) + W[i - 7]
      + ((b >>> 17 | b << 15) ^ (b >>> 19 | b << 13) ^ b >>> 10) | 0;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const t = h + ((e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7)) + (e & f ^ ~e & g) + K[i] + W[i] | 0;
    const u = ((a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10)) + (a & b ^ a & c ^ b & c) | 0;
    h = g; g = f; f = e; e = d + t | 0; d = c; c = b; b = a; a = t + u | 0;
  }
  return [state[0] + a | 0, state[1] + b | 0, state[2] + c | 0, state[3] + d | 0,
    state[4] + e | 0, state[5] + f | 0, state[6] + g | 0, state[7] + h | 0];
}
function sha256(text) {
  const length = text.length, blocks = new Uint8Array((length + 9 + 63 >> 6) << 6);
  for (let i = 0; i < length; i++) blocks[i] = text.charCodeAt(i);
  blocks[length] = 0x80;
  for (let i = 0; i < 4; i++) blocks[blocks.length - 1 - i] = length * 8 >>> 8 * i;
  let state = START;
  for (let at = 0; at < blocks.length; at += 64) state = compress(state, blocks.subarray(at, at + 64));
  return state;
}
const { question, bits, to } = document.body.dataset;
const bar = document.getElementById("bar"), said = document.getElementById("state");
const expected = 2 ** bits, began = Date.now();
let n = 0;
function isEnough(words) {
  let left = +bits;
  for (const word of words) {
    if (left >= 32) { if (word !== 0) return false; left -= 32; continue; }
    return left === 0 || word >>> 32 - left === 0;
  }
  return true;
}
// In slices, so that the page stays alive.
function work() {
  const until = performance.now() + 40;
  do {
    for (let k = 0; k < 200; k++, n++) {
      if (isEnough(sha256(question + ":" + n))) return done();
    }
  } while (performance.now() < until);
  bar.value = 100 * (1 - Math.exp(-n / expected));
  if (Date.now() - began > 15000) said.textContent = "Still working. Thank you for your patience …";
  setTimeout(work, 0);
}
function done() {
  bar.value = 100;
  said.textContent = "Done. Taking you to the page …";
  location.replace("/.tidegate/challenge?q=" + encodeURIComponent(question) + "&n=" + n + "&to=" + encodeURIComponent(to) + location.hash);
}
if (navigator.cookieEnabled) setTimeout(work, 50);
else said.textContent = "This check needs cookies. Please allow them for this site, and load the page again.";
