"""Philox-4x32-10, the keyed permutation and the draws of a row, in plain Python."""

MASK = 0xFFFFFFFF


def philox(counter, key):
    """One block of Philox-4x32-10."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (p1 >> 32) ^ b ^ k0, p1 & MASK, (p0 >> 32) ^ d ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return a, b, c, d


def mix(x):
    """MurmurHash3's finalizer."""
    x ^= x >> 16
    x = x * 0x85EBCA6B & MASK
    x ^= x >> 13
    x = x * 0xC2B2AE35 & MASK
    return x ^ (x >> 16)


class Permutation:
    """A Feistel network with cycle walking."""

    def __init__(self, size, keys):
        self.size, self.keys = size, keys
        bits = max(10, (size - 1).bit_length())
        self.low_bits = bits // 2
        self.low_mask = (1 << self.low_bits) - 1
        self.high_mask = (1 << (bits - self.low_bits)) - 1

    def _forward(self, x):
        high, low = x >> self.low_bits, x & self.low_mask
        for i in range(0, 8, 2):
            high ^= mix(low ^ self.keys[i]) & self.high_mask
            low ^= mix(high ^ self.keys[i + 1]) & self.low_mask
        return high << self.low_bits | low

    def at(self, position):
        """The value at a position."""
        value = self._forward(position)
        while value >= self.size:
            value = self._forward(value)
        return value


def row_draw(key, row, pass_number, token):
    """The draw of one token of a row."""
    block, word = token // 64 * 16 + token % 16, token % 64 // 16
    return philox((block, row & MASK, row >> 32, pass_number), key)[word]


def stream_words(seed, stream, first=0, second=0, third=0):
    """Four words of a named stream."""
    return philox((first, second, third, stream), (seed & MASK, seed >> 32))


def text_hash(ids):
    """The 32-bit hash of a document's ids."""
    lanes = [1, 2, 3, 4]
    for i, token in enumerate(ids):
        lanes[i % 4] = (lanes[i % 4] ^ token) * 0x9FB21C651E98DF25 & (2**64 - 1)
    value = len(ids)
    for lane in lanes:
        value = mix64(value ^ lane)
    return value >> 32


def mix64(x):
    """SplitMix64's finalizer."""
    full = 2**64 - 1
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & full
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & full
    return x ^ (x >> 31)
