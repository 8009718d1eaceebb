/* Preloaded into the program: kills it before its CRASH_AT-th change of what lies under CRASH_DIR. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void change(const char *path) {
  static int seen;
  const char *dir = getenv("CRASH_DIR"), *at = getenv("CRASH_AT");
  if (!dir || !at || !path || strncmp(path, dir, strlen(dir))) return;
  if (__sync_add_and_fetch(&seen, 1) == atoi(at)) kill(getpid(), SIGKILL);
}

static void change_fd(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return;
  path[n] = 0;
  change(path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define OPEN(name)                                     \
  int name(const char *path, int flags, ...) {         \
    va_list more;                                      \
    va_start(more, flags);                             \
    int mode = va_arg(more, int);                      \
    va_end(more);                                      \
    if (flags & (O_CREAT | O_TRUNC)) change(path);     \
    return NEXT(name)(path, flags, mode);              \
  }
OPEN(open)
OPEN(open64)
int mkdir(const char *path, mode_t mode) { change(path); return NEXT(mkdir)(path, mode); }
int rename(const char *from, const char *to) { change(to); return NEXT(rename)(from, to); }
int unlink(const char *path) { change(path); return NEXT(unlink)(path); }
int rmdir(const char *path) { change(path); return NEXT(rmdir)(path); }
int fsync(int fd) { change_fd(fd); return NEXT(fsync)(fd); }
ssize_t write(int fd, const void *data, size_t size) { change_fd(fd); return NEXT(write)(fd, data, size); }
