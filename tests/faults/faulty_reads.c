/* Loaded in front of the C library: reads of files named in FAULTY_SUFFIX are short, interrupted, or fail with EIO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

typedef ssize_t (*pread_function)(int, void*, size_t, off_t);

static int is_faulty(int descriptor) {
  const char* suffix = getenv("FAULTY_SUFFIX");
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path);
  const size_t wanted = suffix == NULL ? 0 : strlen(suffix);
  return wanted != 0 && length > (ssize_t)wanted && memcmp(path + length - wanted, suffix, wanted) == 0;
}

ssize_t pread64(int descriptor, void* out, size_t bytes, off_t offset) {
  static __thread unsigned calls;
  const pread_function real = (pread_function)dlsym(RTLD_NEXT, "pread64");
  if (!is_faulty(descriptor)) return real(descriptor, out, bytes, offset);
  if (strcmp(getenv("FAULTY_KIND"), "EIO") == 0) {
    errno = EIO;
    return -1;
  }
  if (++calls % 3 == 0) {
    errno = EINTR;
    return -1;
  }
  return real(descriptor, out, bytes < 7 ? bytes : 7, offset);
}

ssize_t pread(int descriptor, void* out, size_t bytes, off_t offset) { return pread64(descriptor, out, bytes, offset); }
