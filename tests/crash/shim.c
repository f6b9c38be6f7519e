/* Count the file operations of a process and its children below one folder, and stop one of them.

   The library is preloaded (LD_PRELOAD) in front of the C library, so Python, Arrow, ITK and all other code call it.
   Its orders are in a file that all processes map (CRASH_CONTROL); `tests/crash/preload.py` declares the same layout.
   An operation is counted, executed and logged under one lock, so the log has the true order.

   An operation is a call that changes files: open for writing, write, rename, unlink, mkdir, rmdir, link, symlink,
   truncate, fsync, chmod, utime, and a copy within the kernel. A write through stdio is flushed at once and counts as
   one operation. Writes to mapped memory are not seen; their open, truncate and fsync are. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL_GROUP, KILL_ONE, FAIL, SIGNAL };
enum { NO_HALF = 1, TRACE = 2 };

struct control {
    pthread_mutex_t lock; /* 40 bytes on 64-bit Linux; 64 are reserved */
    char reserve[64 - sizeof(pthread_mutex_t)];
    uint64_t armed, count, at, mode, flags;
    int64_t leader;       /* process group that is killed */
    int64_t number;       /* of the signal; of an error, which of the possible ones */
    int64_t signal_group; /* whether the whole group gets the signal */
    int64_t acted, acted_pid, acted_error;
    char root[1024], log[1024], snaps[1024], acted_what[2048];
};

static struct control *control;
static __thread int inside; /* our own calls are not counted */

static void set_up(void) __attribute__((constructor));

static void set_up(void) {
    const char *name = getenv("CRASH_CONTROL");
    if (control || !name) return;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *page = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (page != MAP_FAILED) control = page;
}

/* Called once by the harness, before any other process maps the file. */
void crash_initialise(void) {
    pthread_mutexattr_t how;
    pthread_mutexattr_init(&how);
    pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&control->lock, &how);
}

size_t crash_size(void) { return sizeof(struct control); }

static int is_armed(void) { return control && !inside && __atomic_load_n(&control->armed, __ATOMIC_ACQUIRE); }

/* The path behind a descriptor; empty where it has none. */
static void path_of(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    out[n < 0 ? 0 : n] = 0;
}

/* The path of a name, with the links of its folder resolved; empty where the folder is not there. */
static void path_at(int folder, const char *name, char *out) {
    char whole[2 * PATH_MAX], parent[PATH_MAX];
    out[0] = 0;
    if (!name || strlen(name) >= PATH_MAX) return;
    if (name[0] == '/') {
        snprintf(whole, sizeof whole, "%s", name);
    } else {
        if (folder == AT_FDCWD) {
            ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/cwd", parent, PATH_MAX - 1);
            parent[n < 0 ? 0 : n] = 0;
        } else {
            path_of(folder, parent);
        }
        snprintf(whole, sizeof whole, "%s/%s", parent, name);
    }
    size_t n = strlen(whole);
    while (n > 1 && whole[n - 1] == '/') whole[--n] = 0;
    char *slash = strrchr(whole, '/');
    char *last = slash + 1;
    if (!slash || !strcmp(last, ".") || !strcmp(last, "..")) {
        if (!realpath(whole, out)) out[0] = 0;
        return;
    }
    *slash = 0;
    if (!realpath(whole[0] ? whole : "/", parent)) return;
    snprintf(out, PATH_MAX, "%s%s%s", strcmp(parent, "/") ? parent : "", "/", last);
}

static int is_watched(const char *path) {
    size_t n = strlen(control->root);
    return n && !strncmp(path, control->root, n) && (path[n] == '/' || path[n] == 0);
}

static const struct { const char *kind; int numbers[3]; } ERRORS[] = {
    {"create", {ENOSPC, EIO, ESTALE}},  {"open", {EIO, ESTALE, EIO}},       {"write", {ENOSPC, EIO, ESTALE}},
    {"rename", {ENOSPC, EIO, ESTALE}},  {"unlink", {EIO, ESTALE, EIO}},     {"rmdir", {EIO, ESTALE, EIO}},
    {"mkdir", {ENOSPC, EIO, ESTALE}},   {"link", {ENOSPC, EIO, ESTALE}},    {"symlink", {ENOSPC, EIO, ESTALE}},
    {"truncate", {EIO, ESTALE, ENOSPC}}, {"fsync", {EIO, ENOSPC, ESTALE}},  {"copy", {ENOSPC, EIO, ESTALE}},
    {"chmod", {EIO, ESTALE, EIO}},      {"utime", {EIO, ESTALE, EIO}},
};

static int error_of(const char *kind) {
    for (size_t n = 0; n < sizeof ERRORS / sizeof *ERRORS; n++)
        if (!strcmp(ERRORS[n].kind, kind)) return ERRORS[n].numbers[control->number % 3];
    return EIO;
}

static void lock(void) {
    if (pthread_mutex_lock(&control->lock) == EOWNERDEAD) pthread_mutex_consistent(&control->lock);
}

static void die(void) {
    if (control->mode == KILL_ONE) {
        pthread_mutex_unlock(&control->lock);
        syscall(SYS_kill, getpid(), SIGKILL);
    } else {
        syscall(SYS_kill, -(pid_t)control->leader, SIGKILL);
        syscall(SYS_kill, getpid(), SIGKILL); /* one that has left the group */
    }
    for (;;) pause();
}

/* What `begin` says: do it, do half of it and die, or fail with errno set. */
enum { GO, HALF, REFUSE };

/* Count an operation; holds the lock when it returns GO or HALF, and `finish` gives it back. */
static int begin(const char *kind, const char *path, const char *other) {
    lock();
    uint64_t number = ++control->count;
    if (number != control->at) return GO;
    control->acted = 1;
    control->acted_pid = getpid();
    snprintf(control->acted_what, sizeof control->acted_what, "%s\t%s\t%s", kind, path, other);
    int writes = !strcmp(kind, "write") || !strcmp(kind, "copy");
    switch (control->mode) {
    case KILL_GROUP:
    case KILL_ONE:
        if (writes && !(control->flags & NO_HALF)) return HALF;
        die();
        return GO;
    case FAIL:
        control->acted_error = error_of(kind);
        pthread_mutex_unlock(&control->lock);
        errno = (int)control->acted_error;
        return REFUSE;
    case SIGNAL:
        syscall(SYS_kill, control->signal_group ? -(pid_t)control->leader : (pid_t)control->leader, control->number);
        return GO;
    }
    return GO;
}

static void record(const char *kind, const char *path, const char *other, long result, long extra) {
    char line[3 * PATH_MAX];
    unsigned long long number = control->count;
    int n = snprintf(line, sizeof line, "%llu\t%d\t%s\t%ld\t%ld\t%s\t%s\n", number, getpid(),
                         kind, result, extra, path,
                     other);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, control->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    syscall(SYS_write, fd, line, (size_t)n);
    syscall(SYS_close, fd);
}

static void finish(const char *kind, const char *path, const char *other, long result, long extra) {
    int kept = errno;
    if (control->flags & TRACE) record(kind, path, other, result, extra);
    pthread_mutex_unlock(&control->lock);
    errno = kept;
}

/* Copy what a file holds now to the folder of flushed contents, with its times. */
static void keep_content(int fd) {
    char name[PATH_MAX], from[64], buffer[1 << 16];
    struct stat about;
    snprintf(from, sizeof from, "/proc/self/fd/%d", fd);
    snprintf(name, sizeof name, "%s/%llu", control->snaps, (unsigned long long)control->count);
    int source = (int)syscall(SYS_openat, AT_FDCWD, from, O_RDONLY | O_CLOEXEC, 0);
    int target = (int)syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (source >= 0 && target >= 0) {
        ssize_t n;
        while ((n = syscall(SYS_read, source, buffer, sizeof buffer)) > 0) syscall(SYS_write, target, buffer, n);
        if (!fstat(source, &about)) {
            struct timespec times[2] = {about.st_atim, about.st_mtim};
            syscall(SYS_utimensat, AT_FDCWD, from, NULL, 0);
            syscall(SYS_utimensat, AT_FDCWD, name, times, 0);
            syscall(SYS_utimensat, AT_FDCWD, from, times, 0);
        }
    }
    if (source >= 0) syscall(SYS_close, source);
    if (target >= 0) syscall(SYS_close, target);
}

/* --- open --- */

static int open_at(int folder, const char *name, int flags, mode_t mode) {
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    if (!is_armed() || !writes || flags & O_PATH) return (int)syscall(SYS_openat, folder, name, flags, mode);
    char path[PATH_MAX];
    inside = 1;
    path_at(folder, name, path);
    if (!is_watched(path)) {
        inside = 0;
        return (int)syscall(SYS_openat, folder, name, flags, mode);
    }
    int unnamed = (flags & O_TMPFILE) == O_TMPFILE;
    int there = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
    const char *kind = flags & O_CREAT || unnamed ? "create" : "open";
    int result = -1;
    if (begin(kind, path, "") != REFUSE) {
        result = (int)syscall(SYS_openat, folder, name, flags, mode);
        /* extra: 1 a new name, 2 an old content dropped, 0 neither */
        finish(kind, path, "", result, unnamed ? 0 : there ? (flags & O_TRUNC ? 2 : 0) : 1);
    }
    inside = 0;
    return result;
}

#define MODE(flags)                                        \
    mode_t mode = 0;                                       \
    if ((flags) & (O_CREAT | O_TMPFILE)) {                 \
        va_list rest;                                      \
        va_start(rest, flags);                             \
        mode = (mode_t)va_arg(rest, int);                  \
        va_end(rest);                                      \
    }

int open(const char *name, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, name, flags, mode); }
int open64(const char *name, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, name, flags, mode); }
int openat(int at, const char *name, int flags, ...) { MODE(flags) return open_at(at, name, flags, mode); }
int openat64(int at, const char *name, int flags, ...) { MODE(flags) return open_at(at, name, flags, mode); }
int __open_2(const char *name, int flags) { return open_at(AT_FDCWD, name, flags, 0); }
int __open64_2(const char *name, int flags) { return open_at(AT_FDCWD, name, flags, 0); }
int __openat_2(int at, const char *name, int flags) { return open_at(at, name, flags, 0); }
int __openat64_2(int at, const char *name, int flags) { return open_at(at, name, flags, 0); }
int creat(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *name, mode_t mode) { return open_at(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode); }

/* --- write --- */

/* Whether a descriptor is a file below the root; its path. */
static int is_ours(int fd, char *path) {
    path[0] = 0;
    if (!is_armed()) return 0;
    int kept = errno;
    path_of(fd, path);
    errno = kept;
    return is_watched(path);
}

/* A call on a descriptor: what it does whole, and, where it is a write, what half of it is. */
#define ON_FD(kind, fd, whole, half)                       \
    char path[PATH_MAX];                                   \
    if (!is_ours(fd, path)) return whole;                  \
    long result = -1;                                      \
    inside = 1;                                            \
    int what = begin(kind, path, "");                      \
    if (what == HALF) {                                    \
        (void)!(half);                                     \
        die();                                             \
    }                                                      \
    if (what == GO) {                                      \
        result = whole;                                    \
        finish(kind, path, "", result, 0);                 \
    }                                                      \
    inside = 0;                                            \
    return result;

ssize_t write(int fd, const void *bytes, size_t n) {
    ON_FD("write", fd, syscall(SYS_write, fd, bytes, n), syscall(SYS_write, fd, bytes, n / 2))
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t at) {
    ON_FD("write", fd, syscall(SYS_pwrite64, fd, bytes, n, at), syscall(SYS_pwrite64, fd, bytes, n / 2, at))
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return pwrite64(fd, bytes, n, at); }
ssize_t writev(int fd, const struct iovec *parts, int n) {
    ON_FD("write", fd, syscall(SYS_writev, fd, parts, n), syscall(SYS_writev, fd, parts, n / 2))
}
ssize_t pwritev64(int fd, const struct iovec *parts, int n, off64_t at) {
    ON_FD("write", fd, syscall(SYS_pwritev, fd, parts, n, at, at >> 32),
          syscall(SYS_pwritev, fd, parts, n / 2, at, at >> 32))
}
ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t at) { return pwritev64(fd, parts, n, at); }
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
    ON_FD("copy", out, syscall(SYS_sendfile, out, in, at, n), syscall(SYS_sendfile, out, in, at, n / 2))
}
ssize_t sendfile(int out, int in, off_t *at, size_t n) { return sendfile64(out, in, at, n); }
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags) {
    ON_FD("copy", out, syscall(SYS_copy_file_range, in, from, out, to, n, flags),
          syscall(SYS_copy_file_range, in, from, out, to, n / 2, flags))
}
int ftruncate64(int fd, off64_t n) { ON_FD("truncate", fd, (int)syscall(SYS_ftruncate, fd, n), 0) }
int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }
int posix_fallocate64(int fd, off64_t at, off64_t n) {
    char path[PATH_MAX];
    long result = 0;
    if (!is_ours(fd, path)) return syscall(SYS_fallocate, fd, 0, at, n) ? errno : 0;
    inside = 1;
    if (begin("truncate", path, "") != REFUSE) {
        result = syscall(SYS_fallocate, fd, 0, at, n) ? errno : 0;
        finish("truncate", path, "", -result, 0);
    } else {
        result = errno;
    }
    inside = 0;
    return (int)result;
}
int posix_fallocate(int fd, off_t at, off_t n) { return posix_fallocate64(fd, at, n); }

static int flush(int fd, int number) {
    char path[PATH_MAX];
    if (!is_ours(fd, path)) return (int)syscall(number, fd);
    int result = -1;
    inside = 1;
    if (begin("fsync", path, "") != REFUSE) {
        struct stat about;
        int is_file = !fstat(fd, &about) && S_ISREG(about.st_mode);
        result = (int)syscall(number, fd);
        if (is_file && control->flags & TRACE) keep_content(fd);
        finish("fsync", path, "", result, is_file);
    }
    inside = 0;
    return result;
}
int fsync(int fd) { return flush(fd, SYS_fsync); }
int fdatasync(int fd) { return flush(fd, SYS_fdatasync); }

/* --- stdio: its internal writes cannot be intercepted, so each write to a stream is flushed at once --- */

#undef fwrite_unlocked
#undef fputc
#undef putc

#define REAL(name) __extension__({ static __typeof__(&name) real; if (!real) real = dlsym(RTLD_NEXT, #name); real; })

static int count_stream_write(FILE *stream, char *path) {
    int fd = fileno(stream);
    return fd >= 0 && is_ours(fd, path);
}

#define ON_STREAM(stream, call, bad, bytes)                     \
    char path[PATH_MAX];                                   \
    if (!control || inside || !count_stream_write(stream, path)) return call; \
    inside = 1;                                            \
    int what = begin("write", path, "");                   \
    __typeof__(call) result = bad;                         \
    if (what == HALF) die();                               \
    if (what == GO) {                                      \
        result = call;                                     \
        REAL(fflush)(stream);                              \
        finish("write", path, "", bytes, 0);               \
    }                                                      \
    inside = 0;                                            \
    return result;

size_t fwrite(const void *bytes, size_t size, size_t n, FILE *stream) {
    ON_STREAM(stream, REAL(fwrite)(bytes, size, n, stream), 0, (long)(result * size))
}
size_t fwrite_unlocked(const void *bytes, size_t size, size_t n, FILE *stream) {
    ON_STREAM(stream, REAL(fwrite_unlocked)(bytes, size, n, stream), 0, (long)(result * size))
}
int fputs(const char *text, FILE *stream) {
    ON_STREAM(stream, REAL(fputs)(text, stream), EOF, result < 0 ? -1 : (long)strlen(text))
}
int fputc(int c, FILE *stream) { ON_STREAM(stream, REAL(fputc)(c, stream), EOF, result < 0 ? -1 : 1) }
int putc(int c, FILE *stream) { ON_STREAM(stream, REAL(fputc)(c, stream), EOF, result < 0 ? -1 : 1) }

static FILE *open_stream(const char *name, const char *how, FILE *(*real)(const char *, const char *)) {
    char path[PATH_MAX];
    if (!is_armed() || (how[0] == 'r' && !strchr(how, '+'))) return real(name, how);
    inside = 1;
    path_at(AT_FDCWD, name, path);
    FILE *stream = NULL;
    if (!is_watched(path)) {
        stream = real(name, how);
    } else {
        int there = syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
        const char *kind = how[0] == 'r' ? "open" : "create";
        if (begin(kind, path, "") != REFUSE) {
            stream = real(name, how);
            finish(kind, path, "", stream ? 0 : -1, there ? (how[0] == 'w' ? 2 : 0) : 1);
        }
    }
    inside = 0;
    return stream;
}
FILE *fopen(const char *name, const char *how) { return open_stream(name, how, REAL(fopen)); }
FILE *fopen64(const char *name, const char *how) { return open_stream(name, how, REAL(fopen64)); }

/* --- names --- */

/* A call on one path. */
#define ON_PATH(kind, folder, name, call)                  \
    if (!is_armed()) return (int)call;                     \
    char path[PATH_MAX];                                   \
    int result = -1;                                       \
    inside = 1;                                            \
    path_at(folder, name, path);                           \
    if (!is_watched(path)) {                               \
        result = (int)call;                                \
    } else if (begin(kind, path, "") != REFUSE) {          \
        result = (int)call;                                \
        finish(kind, path, "", result, 0);                 \
    }                                                      \
    inside = 0;                                            \
    return result;

/* A call on two paths, of which one or both are below the root. */
#define ON_PATHS(kind, a, first, b, second, call)          \
    if (!is_armed()) return (int)call;                     \
    char path[PATH_MAX], other[PATH_MAX];                  \
    int result = -1;                                       \
    inside = 1;                                            \
    path_at(a, first, path);                               \
    path_at(b, second, other);                             \
    if (!is_watched(path) && !is_watched(other)) {         \
        result = (int)call;                                \
    } else if (begin(kind, path, other) != REFUSE) {       \
        result = (int)call;                                \
        finish(kind, path, other, result, 0);              \
    }                                                      \
    inside = 0;                                            \
    return result;

int rename(const char *a, const char *b) {
    ON_PATHS("rename", AT_FDCWD, a, AT_FDCWD, b, syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 0))
}
int renameat(int at, const char *a, int to, const char *b) {
    ON_PATHS("rename", at, a, to, b, syscall(SYS_renameat2, at, a, to, b, 0))
}
int renameat2(int at, const char *a, int to, const char *b, unsigned flags) {
    ON_PATHS("rename", at, a, to, b, syscall(SYS_renameat2, at, a, to, b, flags))
}
int linkat(int at, const char *a, int to, const char *b, int flags) {
    ON_PATHS("link", at, a, to, b, syscall(SYS_linkat, at, a, to, b, flags))
}
int link(const char *a, const char *b) { return linkat(AT_FDCWD, a, AT_FDCWD, b, 0); }
int unlink(const char *name) { ON_PATH("unlink", AT_FDCWD, name, syscall(SYS_unlinkat, AT_FDCWD, name, 0)) }
int rmdir(const char *name) { ON_PATH("rmdir", AT_FDCWD, name, syscall(SYS_unlinkat, AT_FDCWD, name, AT_REMOVEDIR)) }
int unlinkat(int at, const char *name, int flags) {
    ON_PATH(flags & AT_REMOVEDIR ? "rmdir" : "unlink", at, name, syscall(SYS_unlinkat, at, name, flags))
}
int remove(const char *name) {
    struct stat about;
    return !lstat(name, &about) && S_ISDIR(about.st_mode) ? rmdir(name) : unlink(name);
}
int mkdirat(int at, const char *name, mode_t mode) { ON_PATH("mkdir", at, name, syscall(SYS_mkdirat, at, name, mode)) }
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }
char *mkdtemp(char *template) {
    /* the C library's own would make the folder unseen */
    static const char signs[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    char *place = template + strlen(template) - 6;
    for (int turn = 0; turn < 1000; turn++) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        uint64_t draw = (uint64_t)now.tv_nsec * 6364136223846793005u + (uint64_t)getpid() + (uint64_t)turn;
        for (int n = 0; n < 6; n++, draw /= 36) place[n] = signs[draw % 36];
        if (!mkdir(template, 0700)) return template;
        if (errno != EEXIST) return NULL;
    }
    return NULL;
}
int symlinkat(const char *target, int at, const char *name) {
    if (!is_armed()) return (int)syscall(SYS_symlinkat, target, at, name);
    char path[PATH_MAX];
    int result = -1;
    inside = 1;
    path_at(at, name, path);
    if (!is_watched(path)) {
        result = (int)syscall(SYS_symlinkat, target, at, name);
    } else if (begin("symlink", path, target) != REFUSE) {
        result = (int)syscall(SYS_symlinkat, target, at, name);
        finish("symlink", path, target, result, 0);
    }
    inside = 0;
    return result;
}
int symlink(const char *target, const char *name) { return symlinkat(target, AT_FDCWD, name); }
int truncate64(const char *name, off64_t n) { ON_PATH("truncate", AT_FDCWD, name, syscall(SYS_truncate, name, n)) }
int truncate(const char *name, off_t n) { return truncate64(name, n); }

/* --- rights and times --- */

int fchmodat(int at, const char *name, mode_t mode, int flags) {
    (void)flags;
    ON_PATH("chmod", at, name, syscall(SYS_fchmodat, at, name, mode))
}
int chmod(const char *name, mode_t mode) { return fchmodat(AT_FDCWD, name, mode, 0); }
int fchmod(int fd, mode_t mode) { ON_FD("chmod", fd, (int)syscall(SYS_fchmod, fd, mode), 0) }
int utimensat(int at, const char *name, const struct timespec times[2], int flags) {
    ON_PATH("utime", at, name, syscall(SYS_utimensat, at, name, times, flags))
}
int futimens(int fd, const struct timespec times[2]) {
    ON_FD("utime", fd, (int)syscall(SYS_utimensat, fd, NULL, times, 0), 0)
}
