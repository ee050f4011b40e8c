/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finds QEMU, looks at its file, and asks it.
 *
 * The agent comes into QEMU by LD_PRELOAD, and the loader leaves preloading out, without a word, for programs that have no
 * loader (static ones) and for those that gain privilege (set-user-ID, set-group-ID, file capabilities). So these are
 * refused here. A script would have the agent loaded into its shell; the one that everybody has, Debian's kvm
 * (exec qemu-system-x86_64 -enable-kvm "$@"), is replaced by what it runs. What is no QEMU at all is known by its name.
 *
 * Questions are asked of a child process with a deadline of 10 seconds; it is killed by its pid when that passes.
 */
#include "cli/qemu_binary.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/fd.h"

#define SYSTEM_PREFIX "qemu-system-"
#define ASK_NS        (10 * OB_NS_PER_SEC)
#define ANSWER_MAX    (2u << 20) /* bytes; the longest query-machines of QEMU 10 (aarch64) has 40,000 */

static int is_program(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISREG(st.st_mode) && !access(path, X_OK);
}

/* As execvp() would: a word with a slash is a path, another is looked for in PATH. */
static int find_program(const char *word, char *ret_path, struct ob_error *err)
{
	const char *path = getenv("PATH"), *at = path && *path ? path : "/usr/local/bin:/usr/bin:/bin";

	if (strchr(word, '/')) {
		snprintf(ret_path, PATH_MAX, "%s", word);
		if (is_program(ret_path))
			return 0;
		return ob_error_set(err, ENOENT, "\"%s\" is not a program that can be executed", word);
	}
	for (; *word && at; at = strchr(at, ':') ? strchr(at, ':') + 1 : NULL) {
		int length = (int)strcspn(at, ":");

		if (snprintf(ret_path, PATH_MAX, "%.*s/%s", length ? length : 1, length ? at : ".", word) < PATH_MAX &&
		    is_program(ret_path))
			return 0;
	}
	return ob_error_set(err, ENOENT, "there is no program \"%s\" in PATH: install QEMU (Debian: apt install "
			    "qemu-system-x86), or give its path",
			    word);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The target in a program's name; -EINVAL when the name is not that of a QEMU. */
static int parse_name(const char *name, struct ob_qemu_binary *binary)
{
	struct utsname uts;
	size_t length;

	name += *name == '.'; /* wrapped programs of some distributions: .qemu-system-x86_64-wrapped */
	if (!strcmp(name, "kvm") || !strcmp(name, "qemu-kvm")) {
		uname(&uts);
		snprintf(binary->target, sizeof(binary->target), "%.31s", uts.machine);
		return 0;
	}
	if (strncmp(name, SYSTEM_PREFIX, strlen(SYSTEM_PREFIX)))
		return -EINVAL;
	name += strlen(SYSTEM_PREFIX);
	length = strcspn(name, "-.");
	if (!length || length >= sizeof(binary->target))
		return -EINVAL;
	memcpy(binary->target, name, length);
	binary->target[length] = 0;
	/* Debian's small build for one machine type. */
	binary->default_type = !strcmp(name + length, "-microvm") ? "microvm" : NULL;
	return 0;
}

/* Under its own name or that of the file that a link leads to. */
static int identify(struct ob_qemu_binary *binary, const char *word, struct ob_error *err)
{
	char real[PATH_MAX];

	if (!parse_name(base_name(binary->path), binary) || (realpath(binary->path, real) && !parse_name(base_name(real),
			binary)))
		return 0;
	return ob_error_set(err, EINVAL, "\"%s\" is not QEMU: after the options of \"overbook run\" comes "
			    "qemu-system-x86_64, or another "
			    "qemu-system-TARGET, kvm or qemu-kvm", word);
}

/* Whether an ELF file asks for a loader. Returns 1, 0, or -errno. */
static int has_loader(int fd)
{
	Elf64_Ehdr header;
	Elf64_Phdr program;
	int r = ob_pread_full(fd, &header, sizeof(header), 0);

	if (r < 0)
		return r == -ENODATA ? -ENOEXEC : r;
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_ident[EI_CLASS] != ELFCLASS64 ||
	    header.e_phentsize != sizeof(program))
		return -ENOEXEC;
	for (unsigned i = 0; i < header.e_phnum; i++) {
		r = ob_pread_full(fd, &program, sizeof(program), header.e_phoff + (uint64_t)i * sizeof(program));
		if (r < 0)
			return r == -ENODATA ? -ENOEXEC : r;
		if (program.p_type == PT_INTERP)
			return 1;
	}
	return 0;
}

static int check_privilege(int fd, const char *path, struct ob_error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return ob_error_sys(err, errno, "cannot look at \"%s\"", path);
	if (st.st_mode & (S_ISUID | S_ISGID))
		return ob_error_set(err, EINVAL, "\"%s\" is set-user-ID or set-group-ID, so the system would not load the "
				    "agent into it: use a copy "
				    "without (chmod ug-s)", path);
	if (fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return ob_error_set(err, EINVAL, "\"%s\" has file capabilities, so the system would not load the agent into "
				    "it: use a copy without "
				    "(setcap -r)", path);
	return 0;
}

/* Whether the script is Debian's kvm: one line that executes qemu-system-x86_64 -enable-kvm with all arguments. */
static int is_kvm_script(int fd)
{
	char text[1024] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	const char *at = n > 0 ? strstr(text, "\nexec qemu-system-x86_64 -enable-kvm") : NULL;

	return at && strstr(at, "\"$@\"") != NULL;
}

static int check_file(struct ob_qemu_binary *binary, const char *word, int *ret_script, struct ob_error *err)
{
	int OB_FD fd = open(binary->path, O_RDONLY | O_CLOEXEC);
	char magic[2] = "";
	int r;

	*ret_script = 0;
	if (fd < 0)
		return ob_error_sys(err, errno, "cannot read \"%s\" to see whether the agent can be loaded into it",
				    binary->path);
	if (pread(fd, magic, 2, 0) == 2 && !memcmp(magic, "#!", 2)) {
		*ret_script = is_kvm_script(fd);
		return *ret_script ? 0 : ob_error_set(err, EINVAL, "\"%s\" is a script, and the agent would be loaded into "
						      "its interpreter: "
						      "give the QEMU program that it starts", binary->path);
	}
	r = has_loader(fd);
	if (r == -ENOEXEC)
		return ob_error_set(err, EINVAL, "\"%s\" is not a 64-bit program of this system: give the path of "
				    "qemu-system-TARGET", word);
	if (r < 0)
		return ob_error_sys(err, -r, "cannot read \"%s\"", binary->path);
	if (!r)
		return ob_error_set(err, EINVAL, "\"%s\" is linked statically, so no agent can be loaded into it: use your "
				    "distribution's QEMU",
				    binary->path);
	return check_privilege(fd, binary->path, err);
}

int ob_qemu_binary_find(const char *word, struct ob_qemu_binary *ret_binary, struct ob_error *err)
{
	int script, r;

	memset(ret_binary, 0, sizeof(*ret_binary));
	r = find_program(word, ret_binary->path, err);
	if (r < 0)
		return r;
	r = identify(ret_binary, word, err);
	if (r < 0)
		return r;
	r = check_file(ret_binary, word, &script, err);
	if (r < 0 || !script)
		return r;
	r = ob_qemu_binary_find("qemu-system-x86_64", ret_binary, err);
	ret_binary->enable_kvm = 1;
	return r;
}

/* Starts argv with pipes for its standard input (may be NULL) and output. Returns its pid or -errno. */
static pid_t spawn(char *const *argv, int *ret_in, int *ret_out)
{
	int in[2] = { -1, -1 }, out[2] = { -1, -1 };
	pid_t pid = -1;
	int r = 0;

	if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || (pid = fork()) < 0)
		r = -errno;
	if (!pid) {
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		unsetenv("LD_PRELOAD");
		execv(argv[0], argv);
		_exit(127);
	}
	ob_fd_close(&in[0]);
	ob_fd_close(&out[1]);
	if (r < 0) {
		ob_fd_close(&in[1]);
		ob_fd_close(&out[0]);
		return r;
	}
	*ret_in = in[1];
	*ret_out = out[0];
	return pid;
}

/* Reads until the end, at most size - 1 bytes. Returns 0 or -errno. */
static int read_answer(int fd, char *buf, size_t size)
{
	uint64_t deadline_ns = ob_now_ns() + ASK_NS;
	size_t used = 0;

	for (;;) {
		uint64_t now_ns = ob_now_ns();
		struct pollfd wait = { .fd = fd, .events = POLLIN };
		ssize_t n;

		if (now_ns >= deadline_ns)
			return -ETIMEDOUT;
		if (used + 1 >= size)
			return -EMSGSIZE;
		if (poll(&wait, 1, (int)((deadline_ns - now_ns) / OB_NS_PER_MS) + 1) <= 0)
			continue;
		n = read(fd, buf + used, size - 1 - used);
		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n) {
			buf[used] = 0;
			return 0;
		}
		used += n > 0 ? (size_t)n : 0;
	}
}

static int ask(char *const *argv, const char *question, char *buf, size_t size, struct ob_error *err)
{
	int OB_FD in = -1;
	int OB_FD out = -1;
	int status, r;
	pid_t pid = spawn(argv, &in, &out);

	if (pid < 0)
		return ob_error_sys(err, -pid, "cannot start \"%s\" to ask it", argv[0]);
	/* A pipe holds it all, and a child that is gone already shows by its answer. */
	signal(SIGPIPE, SIG_IGN);
	r = ob_write_full(in, question, strlen(question));
	signal(SIGPIPE, SIG_DFL);
	ob_fd_close(&in);
	if (r == 0 || r == -EPIPE)
		r = read_answer(out, buf, size);
	if (r < 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (r < 0)
		return ob_error_sys(err, -r, "\"%s\" does not answer", argv[0]);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		return ob_error_set(err, EIO, "\"%s\" fails when it is asked about itself: try \"%s -machine help\"",
				    argv[0], argv[0]);
	return 0;
}

/* The machine of that name or alias, or the default one, in what query-machines returned. */
static json_t *find_machine(json_t *machines, const char *type)
{
	json_t *machine;
	size_t i;

	json_array_foreach (machines, i, machine) {
		const char *name = json_string_value(json_object_get(machine, "name"));
		const char *alias = json_string_value(json_object_get(machine, "alias"));

		if (type ? (name && !strcmp(name, type)) || (alias && !strcmp(alias, type))
			 : json_is_true(json_object_get(machine, "is-default")))
			return machine;
	}
	return NULL;
}

static int find_ram_id(char *answer, const char *type, char *ret_id, size_t size)
{
	char *rest = answer, *line;
	int r = -EPROTO;

	while (r == -EPROTO && (line = strsep(&rest, "\n"))) {
		json_t *object = json_loads(line, 0, NULL), *list = json_object_get(object, "return");
		json_t *machine = json_is_array(list) ? find_machine(list, type) : NULL;
		const char *id = json_string_value(json_object_get(machine, "default-ram-id"));

		if (json_is_array(list))
			r = id && (size_t)snprintf(ret_id, size, "%s", id) < size ? 0 : -ENOENT;
		json_decref(object);
	}
	return r;
}

int ob_qemu_binary_ask_ram_id(const struct ob_qemu_binary *binary, const char *type, char *ret_id, size_t size,
			      struct ob_error *err)
{
	char word[][PATH_MAX] = { "", "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp",
				  "stdio" };
	char *argv[OB_ARRAY_LEN(word) + 1] = { NULL };
	char *OB_FREE answer = malloc(ANSWER_MAX);
	int r;

	if (!answer)
		return ob_error_set(err, ENOMEM, "out of memory");
	memcpy(word[0], binary->path, PATH_MAX);
	for (size_t i = 0; i < OB_ARRAY_LEN(word); i++)
		argv[i] = word[i];
	r = ask(argv, "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-machines\"}\n{\"execute\":\"quit\"}\n",
		answer, ANSWER_MAX, err);
	if (r < 0)
		return r;
	r = find_ram_id(answer, type, ret_id, size);
	if (r == -ENOENT)
		return ob_error_set(err, ENOENT, "\"%s\" has no machine type \"%s\" with memory of its own: see \"%s "
				    "-machine help\"", binary->path,
				    type ? type : "(default)", binary->path);
	return r < 0 ? ob_error_set(err, EPROTO, "\"%s\" does not say which machine types it has", binary->path) : 0;
}

int ob_qemu_binary_ask_version(const char *path, char *ret_text, size_t size, struct ob_error *err)
{
	char program[PATH_MAX], option[] = "-version", answer[4096];
	char *argv[] = { program, option, NULL };
	int r;

	snprintf(program, sizeof(program), "%s", path);
	r = ask(argv, "", answer, sizeof(answer), err);
	if (r < 0)
		return r;
	answer[strcspn(answer, "\n")] = 0;
	snprintf(ret_text, size, "%s", answer);
	return 0;
}
