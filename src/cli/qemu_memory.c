/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Puts all guest RAM behind files in the machine's directory, where the agent recognises it.
 *
 * RAM comes to a machine in one of three ways, and each ends as memory-backend-file,share=on,align=2M,mem-path=DIRECTORY
 * (QEMU makes a file of its own there and unlinks it):
 *
 *     -m alone                         a backend of ours with the machine's own RAM id, and -machine memory-backend=ID
 *     -machine memory-backend=ID       the user's backend is turned into a file, in place
 *     -numa node,memdev=ID             every such backend likewise
 *     (and -device pc-dimm,memdev=ID   likewise)
 *
 * A backend is turned if it is anonymous to begin with (ram, memfd, shm): size, host-nodes, policy, merge, dump and
 * reserve stay. A file that the user gives is refused, since its contents would be part of the machine, and so are huge
 * pages and preallocation. What only ivshmem uses is no RAM: it is left alone.
 *
 * share=on makes QEMU's migration leave RAM to others (x-ignore-shared) and lets the guest's discards through; the memory
 * is private to the machine all the same, since the agent puts anonymous memory in its place.
 */
#include <errno.h>
#include <linux/magic.h>
#include <string.h>

#include "base/units.h"
#include "cli/qemu_plan.h"

#define BACKEND_PREFIX "memory-backend-"
#define CANONICAL      "x-use-canonical-path-for-ramblock-id"
#define ALIGN_TEXT     "2M"
#define HUGE           "huge page files cannot be reclaimed"
#define BY_THEMSELVES  "(large pages come by themselves, see \"overbook doctor\")"
#define RAM_ROUND      8192u /* QEMU rounds -m up to a multiple of this */

/* What the line says about memory. */
struct memory {
	const char *size;    /* of the last -m; NULL: none */
	const struct ob_qemu_option *size_option;
	const char *backend; /* of -machine */
	const struct ob_qemu_option *backend_option;
	unsigned numa_backends;
};

static const char *backend_kind(const struct ob_qemu_option *option)
{
	const char *type = option->kind == OB_QEMU_OBJECT ? ob_qemu_option_get(option, "qom-type") : NULL;

	return type && !strncmp(type, BACKEND_PREFIX, strlen(BACKEND_PREFIX)) ? type + strlen(BACKEND_PREFIX) : NULL;
}

static struct ob_qemu_option *find_object(struct ob_qemu_planner *planner, const char *id)
{
	for (size_t i = 0; i < planner->opts->n_options; i++) {
		struct ob_qemu_option *option = &planner->opts->option[i];
		const char *own = option->kind == OB_QEMU_OBJECT ? ob_qemu_option_get(option, "id") : NULL;

		if (own && !strcmp(own, id))
			return option;
	}
	return NULL;
}

/* Whether ivshmem uses the backend, and nothing else does. */
static int is_for_ivshmem_only(const struct ob_qemu_planner *planner, const char *id)
{
	int ivshmem = 0;

	for (size_t i = 0; i < planner->opts->n_options; i++) {
		const struct ob_qemu_option *option = &planner->opts->option[i];
		const char *driver = ob_qemu_option_get(option, "driver"), *memdev = ob_qemu_option_get(option, "memdev");
		const char *backend = ob_qemu_option_get(option, "memory-backend");

		if (option->kind == OB_QEMU_MACHINE && backend && !strcmp(backend, id))
			return 0;
		if (!memdev || strcmp(memdev, id))
			continue;
		if (option->kind != OB_QEMU_DEVICE || !driver || strncmp(driver, "ivshmem", 7))
			return 0;
		ivshmem = 1;
	}
	return ivshmem;
}

static int parse_backend_size(struct ob_qemu_planner *planner, const struct ob_qemu_option *option, uint64_t *ret_bytes)
{
	const char *size = ob_qemu_option_get(option, "size");

	if (size && !ob_qemu_size_parse(size, 1, ret_bytes) && *ret_bytes)
		return 0;
	ob_qemu_refuse(planner, "%s: size=%s is not a size: write it as size=2G", ob_qemu_option_describe(planner->opts,
			option),
		       size ? size : "(none)");
	return -EINVAL;
}

static int lies_on_huge_pages(const struct ob_qemu_planner *planner, const struct ob_qemu_option *option)
{
	const char *path = ob_qemu_option_get(option, "mem-path");

	return path && ob_qemu_fs_type(planner->config, path) == HUGETLBFS_MAGIC;
}

/* The reason why a backend cannot be turned into a file of ours, or NULL. */
static const char *why_not(const struct ob_qemu_planner *planner, const struct ob_qemu_option *option, const char *kind)
{
	if (ob_qemu_option_is_on(option, "hugetlb", 0))
		return HUGE ": leave hugetlb out " BY_THEMSELVES;
	if (!strcmp(kind, "file") && lies_on_huge_pages(planner, option))
		return HUGE ": use ordinary memory " BY_THEMSELVES;
	if (!strcmp(kind, "file"))
		return "the file's contents would be part of the guest's memory: use memory-backend-ram, or leave the object out and give -m";
	if (strcmp(kind, "ram") && strcmp(kind, "memfd") && strcmp(kind, "shm"))
		return "this kind of memory is not known: use memory-backend-ram";
	if (ob_qemu_option_is_on(option, "prealloc", 0))
		return "memory that is allocated beforehand leaves nothing to save: leave prealloc out and use --reservation";
	if (option->file)
		return "a backend in a -readconfig file cannot be rewritten: move it to the command line as -object";
	return NULL;
}

static void turn_into_file(struct ob_qemu_planner *planner, struct ob_qemu_option *option, const char *kind)
{
	struct ob_qemu_opts *opts = planner->opts;
	int was_ram = !strcmp(kind, "ram"); /* kind lies in what is changed now */

	ob_qemu_option_set(opts, option, "qom-type", BACKEND_PREFIX "file", json_string(BACKEND_PREFIX "file"));
	ob_qemu_option_remove(option, "hugetlb");
	ob_qemu_option_remove(option, "hugetlbsize");
	ob_qemu_option_remove(option, "seal");
	ob_qemu_option_set(opts, option, "mem-path", planner->config->dir, json_string(planner->config->dir));
	ob_qemu_option_set(opts, option, "share", "on", json_true());
	ob_qemu_option_set(opts, option, "align", ALIGN_TEXT, json_integer(2 << 20));
	/* Old machine types name the RAM of file and memfd backends by a path, but not that of ram backends. */
	if (was_ram && !ob_qemu_option_has(option, CANONICAL))
		ob_qemu_option_set(opts, option, CANONICAL, "off", json_false());
}

static void turn_backends(struct ob_qemu_planner *planner)
{
	for (size_t i = 0; i < planner->opts->n_options; i++) {
		struct ob_qemu_option *option = &planner->opts->option[i];
		const char *kind = backend_kind(option), *id = ob_qemu_option_get(option, "id"), *why;
		uint64_t bytes;

		/* Enclave memory has been refused with a reason of its own. */
		if (!kind || !strcmp(kind, "epc") || (id && is_for_ivshmem_only(planner, id)))
			continue;
		why = why_not(planner, option, kind);
		if (why)
			ob_qemu_refuse(planner, "%s: %s", ob_qemu_option_describe(planner->opts, option), why);
		else if (!parse_backend_size(planner, option, &bytes))
			turn_into_file(planner, option, kind);
	}
}

static void read_memory(struct ob_qemu_planner *planner, struct memory *ret_memory)
{
	memset(ret_memory, 0, sizeof(*ret_memory));
	for (size_t i = 0; i < planner->opts->n_options; i++) {
		const struct ob_qemu_option *option = &planner->opts->option[i];

		if (option->kind == OB_QEMU_M && ob_qemu_option_get(option, "size")) {
			ret_memory->size = ob_qemu_option_get(option, "size");
			ret_memory->size_option = option;
		}
		if (option->kind == OB_QEMU_MACHINE && ob_qemu_option_get(option, "memory-backend")) {
			ret_memory->backend = ob_qemu_option_get(option, "memory-backend");
			ret_memory->backend_option = option;
		}
		if (option->kind == OB_QEMU_NUMA && ob_qemu_option_has(option, "memdev"))
			ret_memory->numa_backends++;
	}
}

/* The bytes of -m; 0 when it is absent or says 0, which means the machine's default. */
static int parse_m(struct ob_qemu_planner *planner, const struct memory *memory, uint64_t *ret_bytes)
{
	*ret_bytes = 0;
	if (!memory->size)
		return 0;
	if (!ob_qemu_size_parse(memory->size, OB_MIB, ret_bytes) && *ret_bytes <= 1ull << 52) {
		*ret_bytes = (*ret_bytes + RAM_ROUND - 1) / RAM_ROUND * RAM_ROUND;
		return 0;
	}
	ob_qemu_refuse(planner, "%s: \"%s\" is not a size of memory: write it as -m 2G or -m 2048",
		       ob_qemu_option_describe(planner->opts,
		       memory->size_option), memory->size);
	return -EINVAL;
}

/* No backend of the user's: ours, under the machine's own RAM id. */
static void add_backend(struct ob_qemu_planner *planner, const struct memory *memory)
{
	struct ob_arena *arena = &planner->opts->arena;
	uint64_t bytes;

	if (parse_m(planner, memory, &bytes) < 0 || !planner->machine.ram_id)
		return;
	if (!bytes)
		bytes = planner->machine.default_ram_bytes;
	if (!bytes) {
		ob_qemu_refuse(planner, "the memory that machine type \"%s\" has without -m is not known: give -m SIZE",
			       planner->type ? planner->type : "(default)");
		return;
	}
	if (find_object(planner, planner->machine.ram_id)) {
		ob_qemu_refuse(planner, "an -object has the id \"%s\", which is the machine's own RAM, but is not given to "
			       "the machine: say "
					"-machine memory-backend=%s, or choose another id", planner->machine.ram_id, planner->machine.ram_id);
		return;
	}
	ob_qemu_append(planner, "-object",
		       BACKEND_PREFIX "file,id=%s,size=%llu,mem-path=%s,share=on,align=" ALIGN_TEXT "," CANONICAL "=off",
		       planner->machine.ram_id, (unsigned long long)bytes, ob_qemu_escape(arena, planner->config->dir));
	ob_qemu_append(planner, "-machine", "memory-backend=%s", planner->machine.ram_id);
	planner->plan->ram_bytes += bytes;
}

/* A backend that the line names: it must be there. Adds its size up. */
static void count_backend(struct ob_qemu_planner *planner, const struct ob_qemu_option *user, const char *id)
{
	const struct ob_qemu_option *object = find_object(planner, id);
	uint64_t bytes;

	if (!object || !backend_kind(object))
		ob_qemu_refuse(planner, "%s: there is no memory backend with the id \"%s\": add -object "
			       "memory-backend-ram,id=%s,size=SIZE",
			       ob_qemu_option_describe(planner->opts, user), id, id);
	else if (!strcmp(backend_kind(object), "file") && !ob_qemu_size_parse(ob_qemu_option_get(object, "size"), 1, &bytes))
		planner->plan->ram_bytes += bytes;
}

void ob_qemu_place_memory(struct ob_qemu_planner *planner)
{
	struct memory memory;
	uint64_t ignored;

	turn_backends(planner);
	read_memory(planner, &memory);
	if (memory.backend)
		count_backend(planner, memory.backend_option, memory.backend);
	else if (!memory.numa_backends)
		add_backend(planner, &memory);
	if (memory.backend || memory.numa_backends)
		if (parse_m(planner, &memory, &ignored) < 0)
			return;
	for (size_t i = 0; i < planner->opts->n_options; i++) {
		const struct ob_qemu_option *option = &planner->opts->option[i];
		const char *driver = ob_qemu_option_get(option, "driver"), *memdev = ob_qemu_option_get(option, "memdev");

		if (memdev && (option->kind == OB_QEMU_NUMA || (option->kind == OB_QEMU_DEVICE && driver && !strcmp(driver,
				"pc-dimm"))))
			count_backend(planner, option, memdev);
	}
}
