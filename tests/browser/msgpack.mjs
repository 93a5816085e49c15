// As much MessagePack as JSON needs: what a page would take from a library of its choice.

export function encode(value) {
  const bytes = [];
  const number = (size, set) => {
    const view = new DataView(new ArrayBuffer(size));
    set(view);
    bytes.push(...new Uint8Array(view.buffer));
  };
  const head = (length, long) => {
    bytes.push(long);
    number(4, (view) => view.setUint32(0, length));
  };
  const put = (one) => {
    if (one === null || one === undefined) bytes.push(0xc0);
    else if (typeof one === "boolean") bytes.push(one ? 0xc3 : 0xc2);
    else if (Number.isInteger(one) && one >= 0 && one < 128) bytes.push(one);
    else if (Number.isSafeInteger(one)) {
      bytes.push(0xd3);
      number(8, (view) => view.setBigInt64(0, BigInt(one)));
    } else if (typeof one === "number") {
      bytes.push(0xcb);
      number(8, (view) => view.setFloat64(0, one));
    } else if (typeof one === "string") {
      const text = new TextEncoder().encode(one);
      head(text.length, 0xdb);
      bytes.push(...text);
    } else if (Array.isArray(one)) {
      head(one.length, 0xdd);
      one.forEach(put);
    } else {
      const fields = Object.entries(one).filter(([, field]) => field !== undefined);
      head(fields.length, 0xdf);
      for (const [name, field] of fields) {
        put(name);
        put(field);
      }
    }
  };
  put(value);
  return Uint8Array.from(bytes);
}

export function decode(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const uint = (size) => {
    at += size;
    return { 1: () => view.getUint8(at - 1), 2: () => view.getUint16(at - 2), 4: () => view.getUint32(at - 4) }[size]();
  };
  const int = (size) => {
    at += size;
    if (size === 8) return Number(view.getBigInt64(at - 8));
    return { 1: () => view.getInt8(at - 1), 2: () => view.getInt16(at - 2), 4: () => view.getInt32(at - 4) }[size]();
  };
  const text = (length) => new TextDecoder().decode(bytes.subarray(at, (at += length)));
  const array = (length) => Array.from({ length }, get);
  const map = (length) => Object.fromEntries(Array.from({ length }, () => [get(), get()]));
  function get() {
    const kind = uint(1);
    if (kind < 0x80) return kind;
    if (kind < 0x90) return map(kind & 15);
    if (kind < 0xa0) return array(kind & 15);
    if (kind < 0xc0) return text(kind & 31);
    if (kind >= 0xe0) return kind - 256;
    const read = {
      0xc0: () => null,
      0xc2: () => false,
      0xc3: () => true,
      0xca: () => view.getFloat32((at += 4) - 4),
      0xcb: () => view.getFloat64((at += 8) - 8),
      0xcc: () => uint(1),
      0xcd: () => uint(2),
      0xce: () => uint(4),
      0xcf: () => Number(view.getBigUint64((at += 8) - 8)),
      0xd0: () => int(1),
      0xd1: () => int(2),
      0xd2: () => int(4),
      0xd3: () => int(8),
      0xd9: () => text(uint(1)),
      0xda: () => text(uint(2)),
      0xdb: () => text(uint(4)),
      0xdc: () => array(uint(2)),
      0xdd: () => array(uint(4)),
      0xde: () => map(uint(2)),
      0xdf: () => map(uint(4)),
    }[kind];
    if (!read) throw new TypeError(`MessagePack ${kind}`);
    return read();
  }
  return get();
}
