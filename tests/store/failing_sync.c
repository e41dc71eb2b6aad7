/* Loaded before the C library: a chosen fsync fails, or the process ends there as by a kill. */
#include <errno.h>
#include <unistd.h>

static int at = -1, kills = 0, passed = 0;

void arm(int which, int kill) { at = which; kills = kill; passed = 0; }

int syncs(void) { return passed; }

static int sync_now(void) {
    if (passed++ != at) return 0; /* nor does it sync: no power is cut here */
    if (kills) _exit(9);
    errno = EIO;
    return -1;
}

int fsync(int fd) { (void)fd; return sync_now(); }

int fdatasync(int fd) { (void)fd; return sync_now(); }
