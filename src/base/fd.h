/* SPDX-License-Identifier: GPL-2.0-or-later */
/* File descriptors: ownership by scope, and reads and writes that are whole or fail. */
#ifndef OB_BASE_FD_H
#define OB_BASE_FD_H

#include <stdint.h>
#include <sys/types.h>

#include "base/compiler.h"

/* Closes *fd if it is not negative and sets it to -1. errno is kept. */
void ob_fd_close(int *fd);

/* int OB_FD fd = open(...): closed at the end of the scope unless taken. */
#define OB_FD OB_CLEANUP(ob_fd_close)

/* Gives up ownership: returns *fd and leaves -1. */
int ob_fd_take(int *fd);

/* Reads exactly size bytes at offset. Returns 0, -ENODATA when the file ends before, or -errno. */
int ob_pread_full(int fd, void *buf, size_t size, uint64_t offset) OB_MUST_CHECK;

/* Writes exactly size bytes at offset. Returns 0 or -errno. */
int ob_pwrite_full(int fd, const void *buf, size_t size, uint64_t offset) OB_MUST_CHECK;

/* Writes exactly size bytes to a stream or socket (SIGPIPE is not raised on sockets). Returns 0 or -errno. */
int ob_write_full(int fd, const void *buf, size_t size) OB_MUST_CHECK;

/* A stream socket that is connected to who listens at path, and that nobody waits on. Returns it, or -errno. */
int ob_fd_connect(const char *path) OB_MUST_CHECK;

/*
 * A new file in dir that has no name, for reading and writing, of this user alone; more_flags: more of open()'s. Where the file system cannot
 * make one (O_TMPFILE) its name is removed at once. Returns it, or -errno.
 */
int ob_fd_unnamed(const char *dir, int more_flags) OB_MUST_CHECK;

/* Reads a small text file whole: at most size - 1 bytes, always ended by NUL, trailing newlines cut. Returns its length or -errno. */
int ob_read_text(const char *path, char *buf, size_t size) OB_MUST_CHECK;

/* free() for OB_CLEANUP: char *OB_FREE p = ... */
void ob_free_pointer(void *pointer_to_pointer);
#define OB_FREE OB_CLEANUP(ob_free_pointer)

#endif
