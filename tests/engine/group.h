/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A memory cgroup of the test's own, of the version that the host has: how a test makes memory run out for one process
 * alone. Below the root of the hierarchy, so it needs root.
 *
 * The kernel kills in a group that is full. Version 1 can be told to let its tasks wait instead, and to fail what may
 * fail (GROUP_WAITS): only so a shortage can be outlived.
 */
#ifndef OB_TESTS_ENGINE_GROUP_H
#define OB_TESTS_ENGINE_GROUP_H

#include <stdint.h>

#include "base/error.h"

enum group_mode { GROUP_KILLS, GROUP_WAITS };

struct group {
	char path[256]; /* "": none */
	int version;
};

/* Returns 0, or -errno with the reason why there can be none here. */
int group_make(struct group *group, enum group_mode mode, struct ob_error *err) OB_MUST_CHECK;
/* Removes it; its processes must have ended. Idle when it was not made. */
void group_remove(struct group *group);

/* Puts the calling process in. 0 or -errno. */
int group_join(const struct group *group) OB_MUST_CHECK;
/* 0: no limit. A limit below what is used is -EBUSY. */
int group_limit(const struct group *group, uint64_t bytes) OB_MUST_CHECK;
/* Whether tasks wait for memory, or are refused it, at present (version 1, GROUP_WAITS). */
int group_is_short(const struct group *group);

#endif
