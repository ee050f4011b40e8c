/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "engine/page.h"

const struct ob_transition_info ob_transition_table[OB_TRANSITION_COUNT] = {
#define X(name, from, to) { #name, OB_PAGE_##from, OB_PAGE_##to },
	OB_TRANSITIONS(X)
#undef X
};

const char *ob_page_state_name(enum ob_page_state state)
{
	static const char *const names[OB_PAGE_STATES] = {
		"absent", "resident", "benched", "zero", "compressed", "swapped", "ballooned", "pinned", "shared", "mapped",
	};

	return (unsigned)state < OB_PAGE_STATES ? names[state] : "invalid";
}

const char *ob_page_transition_name(unsigned transition)
{
	return transition < OB_TRANSITION_COUNT ? ob_transition_table[transition].name : (const char *)0;
}

enum ob_transition ob_page_discard_of(enum ob_page_state from)
{
	static const enum ob_transition of[OB_PAGE_STATES] = {
		[OB_PAGE_ABSENT] = OB_T_DISCARD_ABSENT,         [OB_PAGE_RESIDENT] = OB_T_DISCARD_RESIDENT,
		[OB_PAGE_BENCHED] = OB_T_DISCARD_BENCHED,       [OB_PAGE_ZERO] = OB_T_DISCARD_ZERO,
		[OB_PAGE_COMPRESSED] = OB_T_DISCARD_COMPRESSED, [OB_PAGE_SWAPPED] = OB_T_DISCARD_SWAPPED,
		[OB_PAGE_BALLOONED] = OB_TRANSITION_COUNT,      [OB_PAGE_PINNED] = OB_T_DISCARD_PINNED,
		[OB_PAGE_SHARED] = OB_T_DISCARD_SHARED,         [OB_PAGE_MAPPED] = OB_TRANSITION_COUNT,
	};

	return of[from];
}
