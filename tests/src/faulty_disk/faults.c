/* Faults of a disk, in front of the system's calls (LD_PRELOAD). What is to happen is said by files in the folder
 * DISK_FAULTS, and may change while the process runs:
 *
 * slow        milliseconds that each sync takes longer.
 * unreadable  a part of a path, a line feed, a mark: the sector with the first mark that is read from such a
 *             file cannot be read from then on.
 * sector      inode and offset of that sector, written here: it stays bad, in the next process too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SECTOR 512

static ssize_t (*system_pread)(int, void *, size_t, off_t);
static int (*system_fsync)(int);
static int (*system_fdatasync)(int);

__attribute__((constructor)) static void find_system_calls(void) {
    system_pread = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    system_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    system_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
}

static int open_order(const char *name, int flags) {
    char path[4096];
    const char *folder = getenv("DISK_FAULTS");
    if (!folder || snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        return -1;
    return open(path, flags | O_CLOEXEC, 0644);
}

/* The text of an order, ended by a zero byte; its length, or -1 when there is none. */
static ssize_t order(const char *name, char *text, size_t size) {
    int saved = errno, file = open_order(name, O_RDONLY);
    ssize_t length = -1;
    if (file >= 0) {
        length = read(file, text, size - 1);
        close(file);
    }
    text[length > 0 ? length : 0] = 0;
    errno = saved;
    return length;
}

static void wait_as_ordered(void) {
    char text[32];
    if (order("slow", text, sizeof text) <= 0)
        return;
    long milliseconds = atol(text);
    struct timespec rest = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    while (nanosleep(&rest, &rest) != 0 && errno == EINTR)
        ;
}

int fsync(int file) {
    wait_as_ordered();
    return system_fsync(file);
}

int fdatasync(int file) {
    wait_as_ordered();
    return system_fdatasync(file);
}

/* Whether the sector that is bad was among `got` bytes read at `at`; it becomes bad if none was so far. */
static int is_unreadable(int file, const char *bytes, ssize_t got, off_t at) {
    char text[512], path[4096], link[64];
    struct stat found;
    unsigned long inode;
    long offset;
    ssize_t length = order("unreadable", text, sizeof text);
    char *mark = length > 0 ? strchr(text, '\n') : NULL;
    if (!mark || fstat(file, &found) != 0)
        return 0;
    *mark++ = 0;
    char sector[64];
    if (order("sector", sector, sizeof sector) > 0)
        return sscanf(sector, "%lu %ld", &inode, &offset) == 2 && inode == found.st_ino &&
               at < offset + SECTOR && offset < at + got;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t path_length = readlink(link, path, sizeof path - 1);
    if (path_length <= 0)
        return 0;
    path[path_length] = 0;
    const char *hit = memmem(bytes, got, mark, text + length - mark);
    if (!strstr(path, text) || !hit)
        return 0;
    int note = open_order("sector", O_WRONLY | O_CREAT | O_EXCL);
    if (note < 0)
        return 0;
    offset = (at + (hit - bytes)) / SECTOR * SECTOR;
    dprintf(note, "%lu %ld\n", (unsigned long)found.st_ino, offset);
    close(note);
    return 1;
}

ssize_t pread(int file, void *to, size_t size, off_t at) {
    ssize_t got = system_pread(file, to, size, at);
    if (got > 0 && is_unreadable(file, to, got, at)) {
        errno = EIO;
        return -1;
    }
    return got;
}

ssize_t pread64(int file, void *to, size_t size, off64_t at) {
    return pread(file, to, size, at);
}
