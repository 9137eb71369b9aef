/* Preloaded into a process: each fsync and fdatasync of a file in $SYNCED_FROM copies it, as it is then, to $SYNCED_TO.
 *
 * So there is always what a disk must have after a power cut, beside what the process wrote. See support/power_cut.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void keep(int fd)
{
    const char *from = getenv("SYNCED_FROM"), *to = getenv("SYNCED_TO");
    char link[64], path[PATH_MAX], copy[PATH_MAX + 300], whole[PATH_MAX + 300], data[65536];
    struct stat state;
    ssize_t length, got;
    off_t at = 0;
    int out;

    if (!from || !to || fstat(fd, &state) || !S_ISREG(state.st_mode))
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return;
    path[length] = 0;
    if (strncmp(path, from, strlen(from)) || path[strlen(from)] != '/')
        return;
    snprintf(whole, sizeof whole, "%s/%s", to, path + strlen(from) + 1);
    snprintf(copy, sizeof copy, "%s.new", whole);
    out = open(copy, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0)
        abort();
    while ((got = pread(fd, data, sizeof data, at)) > 0) {
        if (write(out, data, got) != got)
            abort();
        at += got;
    }
    close(out);
    if (got < 0 || rename(copy, whole)) /* a kill in between leaves the copy before */
        abort();
}

int fsync(int fd)
{
    int (*next)(int) = dlsym(RTLD_NEXT, "fsync");
    int done = next(fd);
    if (!done)
        keep(fd);
    return done;
}

int fdatasync(int fd)
{
    int (*next)(int) = dlsym(RTLD_NEXT, "fdatasync");
    int done = next(fd);
    if (!done)
        keep(fd);
    return done;
}
