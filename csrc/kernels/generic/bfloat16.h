// Runs of bfloat16 to floats and back. Included inside a namespace, behind numbers.h.

static void read_bfloat16(const uint16_t* half, float* full, size_t size) {
  for (size_t i = 0; i < size; ++i) full[i] = from_bfloat16(half[i]);
}

static void write_bfloat16(const float* full, uint16_t* half, size_t size) {
  for (size_t i = 0; i < size; ++i) half[i] = to_bfloat16(full[i]);
}
