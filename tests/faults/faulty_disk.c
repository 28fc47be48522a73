/* Loaded in front of the C library: calls of one kind on paths that hold a word fail with an error, from one call on.
   FAULTY_CALL: open, read, write, fsync, rename, link or flock. FAULTY_ERRNO: the number. FAULTY_WORD: part of the path
   (empty: any below FAULTY_BELOW). FAULTY_BELOW: the folder that alone is concerned. FAULTY_AFTER: calls that go well
   before, counted by process. FAULTY_TIMES: how many fail then (0: all). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long number(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text == NULL || *text == 0 ? otherwise : atol(text);
}

static int concerns(const char* call) {
  const char* wanted = getenv("FAULTY_CALL");
  return wanted != NULL && strcmp(wanted, call) == 0;
}

static int fails(const char* call, const char* path) {
  static long seen;
  const char* word = getenv("FAULTY_WORD");
  const char* below = getenv("FAULTY_BELOW");
  if (!concerns(call) || path == NULL) return 0;
  if (below != NULL && strstr(path, below) == NULL) return 0;
  if (word != NULL && strstr(path, word) == NULL) return 0;
  const long place = __sync_fetch_and_add(&seen, 1) - number("FAULTY_AFTER", 0);
  const long times = number("FAULTY_TIMES", 0);
  if (place < 0 || (times > 0 && place >= times)) return 0;
  errno = (int)number("FAULTY_ERRNO", EIO);
  return 1;
}

static int fails_open_file(const char* call, int descriptor) {
  char link[64], path[4096];
  if (!concerns(call)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return fails(call, path);
}

#define REAL(name, type) ((type)dlsym(RTLD_NEXT, name))

static mode_t mode_of(int flags, va_list* rest) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(*rest, mode_t) : 0; }

#define OPEN(name)                                                                \
  int name(const char* path, int flags, ...) {                                    \
    va_list rest;                                                                 \
    va_start(rest, flags);                                                        \
    const mode_t mode = mode_of(flags, &rest);                                    \
    va_end(rest);                                                                 \
    if (fails("open", path)) return -1;                                           \
    return REAL(#name, int (*)(const char*, int, mode_t))(path, flags, mode);     \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                           \
  int name(int folder, const char* path, int flags, ...) {                                     \
    va_list rest;                                                                              \
    va_start(rest, flags);                                                                     \
    const mode_t mode = mode_of(flags, &rest);                                                 \
    va_end(rest);                                                                              \
    if (fails("open", path)) return -1;                                                        \
    return REAL(#name, int (*)(int, const char*, int, mode_t))(folder, path, flags, mode);     \
  }
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int descriptor, void* out, size_t bytes) {
  if (fails_open_file("read", descriptor)) return -1;
  return REAL("read", ssize_t(*)(int, void*, size_t))(descriptor, out, bytes);
}

ssize_t pread64(int descriptor, void* out, size_t bytes, off_t offset) {
  if (fails_open_file("read", descriptor)) return -1;
  return REAL("pread64", ssize_t(*)(int, void*, size_t, off_t))(descriptor, out, bytes, offset);
}

ssize_t write(int descriptor, const void* from, size_t bytes) {
  if (fails_open_file("write", descriptor)) return -1;
  return REAL("write", ssize_t(*)(int, const void*, size_t))(descriptor, from, bytes);
}

int fsync(int descriptor) {
  if (fails_open_file("fsync", descriptor)) return -1;
  return REAL("fsync", int (*)(int))(descriptor);
}

int rename(const char* from, const char* to) {
  if (fails("rename", to)) return -1;
  return REAL("rename", int (*)(const char*, const char*))(from, to);
}

int link(const char* from, const char* to) {
  if (fails("link", to)) return -1;
  return REAL("link", int (*)(const char*, const char*))(from, to);
}

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) {
  if (fails("link", to)) return -1;
  return REAL("linkat", int (*)(int, const char*, int, const char*, int))(from_folder, from, to_folder, to, flags);
}

int flock(int descriptor, int operation) {
  if (fails_open_file("flock", descriptor)) return -1;
  return REAL("flock", int (*)(int, int))(descriptor, operation);
}
