"""Recomputes the root of a disk image from the description in docs/replication.md alone: BLAKE3 and the tree, in plain Python."""
import sys

MASK = 0xFFFFFFFF
IV = [0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19]
ORDER = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8]
START, END, PARENT, ROOT, KEYED, CONTEXT, MATERIAL = 1, 2, 4, 8, 16, 32, 64
COLUMNS = [(0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)]
DIAGONALS = [(0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)]


def turn(x, n):
    return (x >> n | x << (32 - n)) & MASK


def compress(cv, block, counter, length, flags):
    m = [int.from_bytes(block[i:i + 4], "little") for i in range(0, 64, 4)]
    v = cv + IV[:4] + [counter & MASK, counter >> 32, length, flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(COLUMNS + DIAGONALS):
            v[a] = (v[a] + v[b] + m[2 * i]) & MASK
            v[d] = turn(v[d] ^ v[a], 16)
            v[c] = (v[c] + v[d]) & MASK
            v[b] = turn(v[b] ^ v[c], 12)
            v[a] = (v[a] + v[b] + m[2 * i + 1]) & MASK
            v[d] = turn(v[d] ^ v[a], 8)
            v[c] = (v[c] + v[d]) & MASK
            v[b] = turn(v[b] ^ v[c], 7)
        m = [m[i] for i in ORDER]
    return [v[i] ^ v[i + 8] for i in range(8)]


def words(data):
    return [int.from_bytes(data[i:i + 4], "little") for i in range(0, len(data), 4)]


def chunk(data, key, counter, flags, root):
    blocks = [data[i:i + 64] for i in range(0, len(data), 64)] or [b""]
    cv = key
    for i, block in enumerate(blocks):
        extra = (START if i == 0 else 0) | ((END | root) if i == len(blocks) - 1 else 0)
        cv = compress(cv, block.ljust(64, b"\0"), counter, len(block), flags | extra)
    return cv


def subtree(data, key, counter, flags, root):
    if len(data) <= 1024:
        return chunk(data, key, counter, flags, root)
    left = 1024
    while left * 2 < len(data):
        left *= 2
    pair = subtree(data[:left], key, counter, flags, 0) + subtree(data[left:], key, counter + left // 1024, flags, 0)
    return compress(key, b"".join(w.to_bytes(4, "little") for w in pair), 0, 64, flags | PARENT | root)


def blake3(data, key=None, flags=0):
    if key is not None:
        flags |= KEYED
    cv = subtree(data, words(key) if key is not None else IV, 0, flags, ROOT)
    return b"".join(w.to_bytes(4, "little") for w in cv)


def derive_key(context):
    key = words(blake3(context.encode(), flags=CONTEXT))
    cv = subtree(b"", key, 0, MATERIAL, ROOT)
    return b"".join(w.to_bytes(4, "little") for w in cv)


def disk_root(data, sector_size):
    node_key, root_key = derive_key("gantry 2026 tree node"), derive_key("gantry 2026 tree root")
    leaf = 64 * 1024
    count = 1024
    while count * leaf < len(data):
        count *= 2
    known = {}
    row = []
    for i in range(count):
        piece = data[i * leaf:(i + 1) * leaf].ljust(leaf, b"\0")
        if piece not in known:
            known[piece] = blake3(piece)
        row.append(known[piece])
    while len(row) > 1:
        row = [blake3(row[i] + row[i + 1], node_key) for i in range(0, len(row), 2)]
    return blake3(row[0] + len(data).to_bytes(8, "little") + sector_size.to_bytes(4, "little"), root_key)


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as image:
        print(disk_root(image.read(), int(sys.argv[2])).hex())
