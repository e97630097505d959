// What dynconv/data/image.py does to an image with Pillow, bit for bit: transparency on white, the middle or the whole of it
// scaled by Pillow's anti-aliased bilinear filter. A canvas cannot be asked for this: browsers scale in ways of their own.
//
// An image is { width, height, rows(left, top, width, height) }; rows() returns a part of it as bytes R G B A, not premultiplied.

const BITS = 22; // Pillow's fixed point for 8-bit channels: 32 bits less 8 for the pixel and 2 for sums
const BAND = 256; // rows or columns read at once, so that a large photograph needs little memory
const GREY = 128;

// The square that the network takes: bytes R G B, size x size. fit: crop, pad or stretch, as PIL.ImageOps.fit and pad, Image.resize.
// columns_first: whether Pillow scales the columns of tall images before their rows, as it does from version 13 on.
export function framed(image, { size, fit, columns_first: columnsFirst }) {
  const { width, height } = image;
  if (fit === "pad") return padded(image, size, columnsFirst);
  if (fit === "stretch") return resized(image, [0, 0, width, height], size, size, columnsFirst);
  const side = Math.min(width, height);
  const [left, top] = [(width - side) * 0.5, (height - side) * 0.5];
  return resized(image, [left, top, left + side, top + side], size, size, columnsFirst);
}

function padded(image, size, columnsFirst) {
  const { width, height } = image;
  const inner = [size, size];
  if (width > height) inner[1] = roundHalfEven((height / width) * size);
  if (width < height) inner[0] = roundHalfEven((width / height) * size);
  const [left, top] = inner.map((side) => roundHalfEven((size - side) * 0.5));
  const square = new Uint8Array(size * size * 3).fill(GREY);
  if (inner.includes(0)) return square;
  const small = resized(image, [0, 0, width, height], ...inner, columnsFirst);
  for (let y = 0; y < inner[1]; y++) {
    square.set(small.subarray(y * inner[0] * 3, (y + 1) * inner[0] * 3), ((top + y) * size + left) * 3);
  }
  return square;
}

// Python's round().
function roundHalfEven(value) {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 ? low + 1 : low;
}

// A box [left, top, right, bottom] of the image, scaled to outWidth x outHeight in two passes, each of which rounds to 8 bits, as
// Pillow's Resample.c does.
function resized(image, box, outWidth, outHeight, columnsFirst) {
  const across = coefficients(image.width, box[0], box[2], outWidth);
  const down = coefficients(image.height, box[1], box[3], outHeight);
  const [left, top] = [across[0].start, down[0].start];
  const [width, height] = [end(across) - left, end(down) - top];
  const out = new Uint8Array(outHeight * outWidth * 3);
  if (columnsFirst && image.height - outHeight > 2 * Math.max(image.width - outWidth, 0)) {
    const flat = new Uint8Array(outHeight * width * 3);
    for (let first = 0; first < width; first += BAND) {
      const count = Math.min(BAND, width - first);
      const band = onWhite(image.rows(left + first, top, count, height));
      scale(band, { step: count * 4, line: 4 }, count, down, flat.subarray(first * 3), { step: width * 3, line: 3 });
    }
    scale(flat, { step: 3, line: width * 3 }, outHeight, across, out, { step: 3, line: outWidth * 3 });
  } else {
    const narrow = new Uint8Array(height * outWidth * 3);
    for (let first = 0; first < height; first += BAND) {
      const count = Math.min(BAND, height - first);
      const band = onWhite(image.rows(left, top + first, width, count));
      scale(band, { step: 4, line: width * 4 }, count, across, narrow.subarray(first * outWidth * 3), { step: 3, line: outWidth * 3 });
    }
    scale(narrow, { step: outWidth * 3, line: 3 }, outWidth, down, out, { step: outWidth * 3, line: 3 });
  }
  return out;
}

// Scales each of `lines` rows or columns; step: bytes from one pixel of a line to the next, line: from one line to the next.
function scale(pixels, from, lines, targets, out, to) {
  for (let line = 0; line < lines; line++) {
    targets.forEach(({ start, weights }, index) => {
      put(out, line * to.line + index * to.step, pixels, line * from.line + (start - targets[0].start) * from.step, from.step, weights);
    });
  }
}

// Writes the weighted sum of the pixels at from, from + step, ... to out[at], three channels.
function put(out, at, pixels, from, step, weights) {
  let red = 1 << (BITS - 1), green = red, blue = red; // one half, for rounding
  for (let i = 0; i < weights.length; i++, from += step) {
    red += pixels[from] * weights[i];
    green += pixels[from + 1] * weights[i];
    blue += pixels[from + 2] * weights[i];
  }
  out[at] = red >> BITS;
  out[at + 1] = green >> BITS;
  out[at + 2] = blue >> BITS;
}

// Which pixels of a line of inSize become each of outSize, and with which weights in fixed point; Pillow's precompute_coeffs.
function coefficients(inSize, from, to, outSize) {
  const begin = Math.fround(from); // Pillow's box has single precision, the rest double
  const scale = Math.fround(Math.fround(to) - begin) / outSize;
  const support = Math.max(scale, 1);
  return Array.from({ length: outSize }, (_, index) => {
    const centre = begin + (index + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const stop = Math.min(Math.trunc(centre + support + 0.5), inSize);
    const heights = Array.from({ length: stop - start }, (_, x) => Math.max(1 - Math.abs((x + start - centre + 0.5) * (1 / support)), 0));
    const sum = heights.reduce((total, height) => total + height, 0);
    return { start, weights: Int32Array.from(heights, (height) => Math.trunc(0.5 + (sum ? height / sum : 0) * (1 << BITS))) };
  });
}

function end(targets) {
  const last = targets.at(-1);
  return last.start + last.weights.length;
}

// Pillow's Image.alpha_composite on white, in place.
function onWhite(pixels) {
  for (let i = 0; i < pixels.length; i += 4) {
    const alpha = pixels[i + 3];
    if (alpha === 255) continue;
    for (let channel = i; channel < i + 3; channel++) {
      const sum = (pixels[channel] * alpha + 255 * (255 - alpha) + 128) * 128;
      pixels[channel] = (((sum >> 8) + sum) >> 8) >> 7;
    }
  }
  return pixels;
}

// A decoded image. The browser has applied its orientation (EXIF); colour profiles are ignored, as Pillow ignores them.
export async function decoded(picture) {
  const bitmap = await createImageBitmap(picture, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  return {
    width,
    height,
    rows(left, top, width, height) {
      const canvas = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
      canvas.drawImage(bitmap, -left, -top);
      return canvas.getImageData(0, 0, width, height).data;
    },
    close: () => bitmap.close(),
  };
}
