/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Command lines of libvirt and Proxmox (lines/, its README says where they come from) as overbook-qemu takes them: which are
 * questions, which are refused and why, how much memory the others have; and that nothing but memory and a monitor of ours
 * is changed in those. The directory is the first argument.
 */
#include "test.h"

#include <dirent.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/units.h"
#include "cli/qemu_args.h"

#define TEST_DIR  "/run/overbook/machines/t"
#define WORDS_MAX 512

static const char *directory;

static const struct {
	const char *file;
	const char *name;      /* of the machine; NULL: a question, and no machine */
	uint64_t ram_bytes;    /* 0: refused, with the words in why */
	const char *backend;   /* a backend that must have become ours */
	const char *why;
} lines[] = {
	{ "libvirt-env", "env", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-file", "file", 0, NULL, "contents would be part of the guest's memory" },
	{ "libvirt-hugepages", "hugepages", 0, NULL, "huge page files cannot be reclaimed" },
	{ "libvirt-iothreads", "iothreads", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-locked", "locked", 0, NULL, "locked memory cannot be reclaimed" },
	{ "libvirt-memfd", "memfd", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-nodev", "nodev", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-numa", "numa", 384 * OB_MIB, "ram-node1", NULL },
	{ "libvirt-nvdimm", "nvdimm", 0, NULL, "contents that live outside the machine" },
	{ "libvirt-pc", "pc", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-pc-restore", "pc", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-prealloc", "prealloc", 0, NULL, "allocated beforehand" },
	{ "libvirt-probe", NULL, 0, NULL, NULL },
	{ "libvirt-q35", "q35", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-revert", "web", 192 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-session", "session", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-uefi", "uefi", 256 * OB_MIB, "pc.ram", NULL },
	{ "libvirt-vhostuser", "vhostuser", 0, NULL, "maps guest RAM by itself" },
	{ "libvirt-virtiofs", "virtiofs", 0, NULL, "maps guest RAM by itself" },
	{ "probe-cpu-help", NULL, 0, NULL, NULL },
	{ "probe-help", NULL, 0, NULL, NULL },
	{ "probe-machine-help", NULL, 0, NULL, NULL },
	{ "probe-none", NULL, 0, NULL, NULL },
	{ "probe-version", NULL, 0, NULL, NULL },
	{ "proxmox-hotplug", "105", 2 * OB_GIB, "mem-dimm1", NULL },
	{ "proxmox-hugepages", "102", 0, NULL, "huge page files cannot be reclaimed" },
	{ "proxmox-incoming", "104", OB_GIB, "pc.ram", NULL },
	{ "proxmox-pve8", "100", 4 * OB_GIB, "pc.ram", NULL },
	{ "proxmox-pve9", "101", 2 * OB_GIB, "pc.ram", NULL },
	{ "proxmox-vfio", "103", 0, NULL, "pins all guest RAM" },
	{ "proxmox-virtiofs", "106", 0, NULL, "maps guest RAM by itself" },
	{ "written-fdset", "pc", 256 * OB_MIB, "pc.ram", NULL },
	{ "written-kvm", "pc", 256 * OB_MIB, "pc.ram", NULL },
	{ "written-sev", "q35", 0, NULL, "confidential guest" },
	{ "written-vfio", "q35", 0, NULL, "pins all guest RAM" },
};

struct line {
	struct ob_qemu_opts opts;
	struct ob_qemu_plan plan;
	char text[65536];
	char *argv[WORDS_MAX];
	int argc;
};

/* Everything lies on an ordinary file system, but for what is called huge pages. */
static long fs_type(const char *path)
{
	return strstr(path, "hugepages") ? HUGETLBFS_MAGIC : EXT4_SUPER_MAGIC;
}

static void read_line(struct line *line, const char *file)
{
	char path[1024], *rest = line->text, *word;

	memset(line, 0, sizeof(*line));
	snprintf(path, sizeof(path), "%s/%s.line", directory, file);
	assert_true(ob_read_text(path, line->text, sizeof(line->text)) >= 0);
	while ((word = strsep(&rest, "\n")) && (*word || rest)) {
		assert_true(line->argc < WORDS_MAX - 1);
		line->argv[line->argc++] = word;
	}
	if (ob_qemu_opts_parse(&line->opts, line->argc, line->argv, NULL) < 0)
		fail_msg("%s is not understood", file);
}

static void plan(struct line *line, int keep_devices)
{
	struct ob_qemu_plan_config config = { .target = "x86_64", .dir = TEST_DIR, .keep_devices = keep_devices,
					      .fs_type = fs_type };

	ob_qemu_plan_make(&line->opts, &config, &line->plan);
}

static const char *name_of(struct line *line)
{
	return ob_qemu_id(&line->opts) ? ob_qemu_id(&line->opts) : ob_qemu_name(&line->opts);
}

static int find_word(char *const *argv, const char *part)
{
	for (int i = 0; argv[i]; i++)
		if (strstr(argv[i], part))
			return 1;
	return 0;
}

/* Every word that is not about memory is there as it was and where it was; behind them come a monitor and memory of ours. */
static void check_kept(const struct line *line)
{
	int i;

	assert_true(line->plan.argc >= line->argc);
	for (i = 0; i < line->argc; i++)
		if (!strstr(line->argv[i], "memory-backend-"))
			assert_string_equal(line->plan.argv[i], line->argv[i]);
	for (; i < line->plan.argc; i += 2) {
		const char *option = line->plan.argv[i];

		assert_true(!strcmp(option, "-chardev") || !strcmp(option, "-mon") || !strcmp(option, "-object") ||
			    !strcmp(option, "-machine"));
	}
}

static void check_placed(const struct line *line, const char *backend)
{
	char id[64], id_json[64];
	int found = 0;

	snprintf(id, sizeof(id), "id=%s,", backend);
	snprintf(id_json, sizeof(id_json), "\"id\":\"%s\"", backend);
	for (int i = 0; i < line->plan.argc; i++)
		if (strstr(line->plan.argv[i], "memory-backend-file") && strstr(line->plan.argv[i], TEST_DIR))
			found |= strstr(line->plan.argv[i], id) || strstr(line->plan.argv[i], id_json);
	assert_true(found);
}

static void check_machine(struct line *line, size_t i)
{
	plan(line, 1);
	if (lines[i].why) {
		assert_true(line->plan.n_refusals > 0);
		if (!strstr(line->plan.refusals[0], lines[i].why))
			fail_msg("%s: %s", lines[i].file, line->plan.refusals[0]);
		return;
	}
	if (line->plan.n_refusals)
		fail_msg("%s: %s", lines[i].file, line->plan.refusals[0]);
	assert_true(line->plan.ram_bytes == lines[i].ram_bytes);
	check_kept(line);
	check_placed(line, lines[i].backend);
	assert_true(find_word(line->plan.argv, "chardev=overbook-qmp,mode=control"));
}

static void each_line_is_taken_for_what_it_is(void **state)
{
	struct line *line = *state;

	for (size_t i = 0; i < OB_ARRAY_LEN(lines); i++) {
		read_line(line, lines[i].file);
		if (ob_qemu_starts_machine(&line->opts) != (lines[i].name != NULL))
			fail_msg("%s: a machine or not?", lines[i].file);
		if (lines[i].name) {
			assert_string_equal(name_of(line), lines[i].name);
			check_machine(line, i);
		}
		ob_qemu_opts_free(&line->opts);
	}
}

/* With devices = add: a balloon of libvirt's is made to report, and the port comes; both are what "overbook run" adds. */
static void devices_are_added_when_asked_for(void **state)
{
	struct line *line = *state;

	read_line(line, "libvirt-pc");
	plan(line, 0);
	assert_int_equal(line->plan.n_refusals, 0);
	assert_true(find_word(line->plan.argv, "\"free-page-reporting\":true"));
	assert_true(find_word(line->plan.argv, "name=org.overbook.guest.0"));
	ob_qemu_opts_free(&line->opts);
}

static void every_file_has_a_row(void **state)
{
	DIR *list = opendir(directory);
	struct dirent *entry;

	assert_non_null(list);
	while ((entry = readdir(list))) {
		const char *dot = strrchr(entry->d_name, '.');
		size_t length = dot ? (size_t)(dot - entry->d_name) : 0;
		int found = !dot || strcmp(dot, ".line") != 0;

		for (size_t i = 0; !found && i < OB_ARRAY_LEN(lines); i++)
			found = strlen(lines[i].file) == length && !strncmp(lines[i].file, entry->d_name, length);
		if (!found)
			fail_msg("%s has no row", entry->d_name);
	}
	closedir(list);
}

static int set_up(void **state)
{
	*state = calloc(1, sizeof(struct line));
	return *state ? 0 : -1;
}

static int tear_down(void **state)
{
	free(*state);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_line_is_taken_for_what_it_is),
		cmocka_unit_test(devices_are_added_when_asked_for),
		cmocka_unit_test(every_file_has_a_row),
	};

	if (argc != 2)
		return 2;
	directory = argv[1];
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
