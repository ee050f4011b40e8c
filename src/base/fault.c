/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "base/fault.h"

#include <ctype.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_RULES  16
#define ACTION_SLOW 3

struct rule {
	enum ob_fault_point point;
	uint64_t first, last, every; /* passes are counted from 1; every is 0 unless "/N" */
	int action;                  /* negative errno, OB_FAULT_*, or ACTION_SLOW */
};

/*
 * Rules may be exchanged while threads pass points: whoever looks at them is counted in `looking`, and only then asks whether
 * they hold. Who exchanges them disarms first, and waits until nobody looks.
 */
int ob_fault_armed;
static unsigned looking;
static struct rule rules[MAX_RULES];
static unsigned rule_count;
static uint64_t passed[OB_FP_COUNT], fired[OB_FP_COUNT];

static const char *const point_names[] = {
#define X(name) #name,
	OB_FAULT_POINTS(X)
#undef X
};

static const struct {
	const char *name;
	int action;
} actions[] = {
	{ "EIO", -EIO },       { "ENOSPC", -ENOSPC }, { "ENOMEM", -ENOMEM }, { "EAGAIN", -EAGAIN },
	{ "EBUSY", -EBUSY },   { "EEXIST", -EEXIST }, { "EINVAL", -EINVAL }, { "ENOSYS", -ENOSYS },
	{ "EPERM", -EPERM },   { "ETIMEDOUT", -ETIMEDOUT },
	{ "short", OB_FAULT_SHORT }, { "flip", OB_FAULT_FLIP }, { "slow", ACTION_SLOW },
	{ "denied", OB_FAULT_DENIED },
};

/* Digits alone: strtoull would also take blanks and signs, and "-1" for the largest number there is. */
static int parse_number(const char *text, char **ret_end, uint64_t *ret_number)
{
	if (!isdigit((unsigned char)*text))
		return -EINVAL;
	errno = 0;
	*ret_number = strtoull(text, ret_end, 10);
	return errno ? -ERANGE : 0;
}

static int parse_when(const char *text, struct rule *rule)
{
	char *end;

	rule->every = 0;
	if (*text == '/') {
		rule->first = 1;
		rule->last = UINT64_MAX;
		return parse_number(text + 1, &end, &rule->every) < 0 || *end || !rule->every ? -EINVAL : 0;
	}
	if (parse_number(text, &end, &rule->first) < 0 || !rule->first)
		return -EINVAL;
	rule->last = rule->first;
	if (!strcmp(end, "+")) {
		rule->last = UINT64_MAX;
		return 0;
	}
	if (*end == '-') {
		return parse_number(end + 1, &end, &rule->last) < 0 || *end || rule->last < rule->first ? -EINVAL : 0;
	}
	return *end ? -EINVAL : 0;
}

static int parse_rule(char *text, struct rule *rule, struct ob_error *err)
{
	char *when = strchr(text, ':');
	char *what = when ? strchr(when + 1, ':') : NULL;
	unsigned i;

	if (!what)
		return ob_error_set(err, EINVAL, "fault rule \"%s\" is not of the form point:when:what", text);
	*when++ = '\0';
	*what++ = '\0';
	for (i = 0; i < OB_FP_COUNT && strcmp(point_names[i], text); i++)
		;
	if (i == OB_FP_COUNT)
		return ob_error_set(err, EINVAL, "there is no fault point \"%s\"", text);
	rule->point = (enum ob_fault_point)i;
	if (parse_when(when, rule) < 0)
		return ob_error_set(err, EINVAL, "fault point %s: \"%s\" is not N, N+, N-M or /N", text, when);
	for (i = 0; i < OB_ARRAY_LEN(actions) && strcmp(actions[i].name, what); i++)
		;
	if (i == OB_ARRAY_LEN(actions))
		return ob_error_set(err, EINVAL, "fault point %s: \"%s\" is not an action", text, what);
	rule->action = actions[i].action;
	return 0;
}

int ob_fault_configure(const char *text, struct ob_error *err)
{
	struct rule parsed[MAX_RULES];
	unsigned count = 0;
	char copy[1024], *save = NULL;
	int r;

	if (text && strlen(text) >= sizeof(copy))
		return ob_error_set(err, EINVAL, "fault configuration is longer than %zu bytes", sizeof(copy) - 1);
	snprintf(copy, sizeof(copy), "%s", text ? text : "");
	for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
		if (count == MAX_RULES)
			return ob_error_set(err, EINVAL, "more than %d fault rules", MAX_RULES);
		r = parse_rule(item, &parsed[count], err);
		if (r < 0)
			return r;
		count++;
	}
	__atomic_store_n(&ob_fault_armed, 0, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&looking, __ATOMIC_SEQ_CST))
		sched_yield();
	memcpy(rules, parsed, count * sizeof(*rules));
	rule_count = count;
	memset(passed, 0, sizeof(passed));
	memset(fired, 0, sizeof(fired));
	__atomic_store_n(&ob_fault_armed, count > 0, __ATOMIC_SEQ_CST);
	return 0;
}

static int rule_matches(const struct rule *rule, enum ob_fault_point point, uint64_t nth)
{
	if (rule->point != point || nth < rule->first || nth > rule->last)
		return 0;
	return !rule->every || nth % rule->every == 0;
}

/* What the rules say of this pass: an action, or 0. */
static int judge(enum ob_fault_point point)
{
	uint64_t nth = __atomic_add_fetch(&passed[point], 1, __ATOMIC_RELAXED);

	for (unsigned i = 0; i < rule_count; i++) {
		if (!rule_matches(&rules[i], point, nth))
			continue;
		__atomic_fetch_add(&fired[point], 1, __ATOMIC_RELAXED);
		return rules[i].action;
	}
	return 0;
}

int ob_fault_slow(enum ob_fault_point point)
{
	int action;

	__atomic_fetch_add(&looking, 1, __ATOMIC_SEQ_CST);
	action = __atomic_load_n(&ob_fault_armed, __ATOMIC_SEQ_CST) ? judge(point) : 0;
	__atomic_fetch_sub(&looking, 1, __ATOMIC_SEQ_CST);
	if (action != ACTION_SLOW)
		return action;
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	return 0;
}

uint64_t ob_fault_passed(enum ob_fault_point point)
{
	return __atomic_load_n(&passed[point], __ATOMIC_RELAXED);
}

uint64_t ob_fault_fired(enum ob_fault_point point)
{
	return __atomic_load_n(&fired[point], __ATOMIC_RELAXED);
}
