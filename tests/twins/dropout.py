"""Which numbers dropout keeps, in plain Python."""

from tests.twins.randomness import MASK, philox


def kept(key, step, layer, place, channel, dropped_below):
    """Whether one channel of one token stays; place = row of the step * row length + position in the row."""
    counter = (layer << 16 | channel // 64 * 16 + channel % 16, place & MASK, place >> 32, step)
    return philox(counter, (key & MASK, key >> 32))[channel % 64 // 16] >= dropped_below
