// A ZIP whose files are stored as they are: PNGs are compressed already.

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

export function crc32(content: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of content) value = TABLE[(value ^ byte) & 255]! ^ (value >>> 8);
  return ~value >>> 0;
}

// Numbers of two or four bytes, the lowest first.
function fields(...values: [size: 2 | 4, value: number][]): Uint8Array {
  const view = new DataView(new ArrayBuffer(values.reduce((sum, [size]) => sum + size, 0)));
  let place = 0;
  for (const [size, value] of values) {
    if (size === 2) view.setUint16(place, value, true);
    else view.setUint32(place, value, true);
    place += size;
  }
  return new Uint8Array(view.buffer);
}

// Without the time, or else the bytes would differ: files are as of 1980.
export function zipped(files: Map<string, Uint8Array>): Blob {
  const parts: Uint8Array[] = [], directory: Uint8Array[] = [];
  let offset = 0;
  for (const [name, content] of files) {
    const text = new TextEncoder().encode(name), size = content.length;
    // Version 2.0, names in UTF-8, stored, at midnight of the first of January.
    const about = fields([2, 20], [2, 0x800], [2, 0], [2, 0], [2, 33], [4, crc32(content)], [4, size], [4, size], [2, text.length], [2, 0]);
    const header = fields([4, 0x04034b50]);
    parts.push(header, about, text, content);
    directory.push(fields([4, 0x02014b50], [2, 20]), about, fields([2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), text);
    offset += header.length + about.length + text.length + size;
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0);
  const end = fields([4, 0x06054b50], [2, 0], [2, 0], [2, files.size], [2, files.size], [4, size], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end] as BlobPart[], { type: "application/zip" });
}
