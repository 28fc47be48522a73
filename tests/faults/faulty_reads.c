/* Loaded in front of the C library: reads of files named in FAULTY_SUFFIX are short, interrupted, or fail with EIO from
   the offset FAULTY_FROM on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

typedef ssize_t (*pread_function)(int, void*, size_t, off_t);
typedef ssize_t (*read_function)(int, void*, size_t);

static int is_faulty(int descriptor) {
  const char* suffix = getenv("FAULTY_SUFFIX");
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path);
  const size_t wanted = suffix == NULL ? 0 : strlen(suffix);
  return wanted != 0 && length > (ssize_t)wanted && memcmp(path + length - wanted, suffix, wanted) == 0;
}

/* How much to read at `offset`; 0 when the read is to fail with the error in errno. */
static size_t allowed(size_t bytes, off_t offset) {
  static __thread unsigned calls;
  const char* from = getenv("FAULTY_FROM");
  const off_t first = from == NULL ? 0 : atoll(from);
  if (strcmp(getenv("FAULTY_KIND"), "EIO") == 0) {
    errno = EIO;
    return offset >= first ? 0 : offset + (off_t)bytes > first ? (size_t)(first - offset) : bytes;
  }
  errno = EINTR;
  return ++calls % 3 == 0 ? 0 : bytes < 7 ? bytes : 7;
}

ssize_t pread64(int descriptor, void* out, size_t bytes, off_t offset) {
  const pread_function real = (pread_function)dlsym(RTLD_NEXT, "pread64");
  if (bytes == 0 || !is_faulty(descriptor)) return real(descriptor, out, bytes, offset);
  bytes = allowed(bytes, offset);
  return bytes == 0 ? -1 : real(descriptor, out, bytes, offset);
}

ssize_t pread(int descriptor, void* out, size_t bytes, off_t offset) { return pread64(descriptor, out, bytes, offset); }

ssize_t read(int descriptor, void* out, size_t bytes) {
  const read_function real = (read_function)dlsym(RTLD_NEXT, "read");
  if (bytes == 0 || !is_faulty(descriptor)) return real(descriptor, out, bytes);
  bytes = allowed(bytes, lseek(descriptor, 0, SEEK_CUR));
  return bytes == 0 ? -1 : real(descriptor, out, bytes);
}
