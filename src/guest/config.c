/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The file of --config: a line a server, its kind and then words KEY=VALUE; "discover" or "compact", "on" or "off"; # in front of a comment. What is
 * not understood makes the whole file invalid.
 *
 * The file, and the files with passwords that it names, must be root's, or whose overbook-guest is; nobody else may write the one, or read the others.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/units.h"
#include "guest/adaptor.h"
#include "proto/wire.h"

#define FILE_MAX 16384

const struct ob_adaptor *const ob_adaptor_kinds[] = { &ob_redis, &ob_mariadb, &ob_memcached, &ob_postgresql, &ob_jvm, NULL };

void ob_service_init(struct ob_service *service, const struct ob_adaptor *adaptor)
{
	*service = (struct ob_service){ .adaptor = adaptor, .floor_bytes = adaptor->floor_bytes, .pain = adaptor->pain };
	snprintf(service->name, sizeof(service->name), "%s", adaptor->name);
	snprintf(service->socket, sizeof(service->socket), "%s", adaptor->sockets[0] ? adaptor->sockets[0] : "");
}

static int check_owner(const char *path, mode_t forbidden, const char *what, struct ob_error *err)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return ob_error_sys(err, errno, "cannot look at \"%s\"", path);
	if (!S_ISREG(st.st_mode) || (st.st_uid && st.st_uid != geteuid()) || st.st_mode & forbidden)
		return ob_error_set(err, EPERM, "\"%s\" can be %s by others (owner %u, mode %o): it must be a file of root's own", path, what,
				    (unsigned)st.st_uid, (unsigned)st.st_mode & 07777);
	return 0;
}

static int set_path(const char *key, const char *value, char *to, size_t size, struct ob_error *err)
{
	if (value[0] != '/' || strlen(value) >= size)
		return ob_error_set(err, EINVAL, "%s=\"%s\" is not an absolute path of at most %zu bytes", key, value, size - 1);
	memcpy(to, value, strlen(value) + 1);
	return 0;
}

static int set_value(struct ob_service *service, const char *key, const char *value, struct ob_error *err)
{
	uint64_t pain;

	if (!strcmp(key, "socket"))
		return set_path(key, value, service->socket, sizeof(service->socket), err);
	if (!strcmp(key, "process")) {
		if (!*value || strlen(value) >= sizeof(service->process))
			return ob_error_set(err, EINVAL, "process=\"%s\" is not an argument of at most %zu bytes", value, sizeof(service->process) - 1);
		snprintf(service->process, sizeof(service->process), "%s", value);
		return 0;
	}
	if (!strcmp(key, "password-file")) {
		int r = set_path(key, value, service->password_path, sizeof(service->password_path), err);

		return r < 0 ? r : check_owner(value, 077, "read", err);
	}
	if (!strcmp(key, "floor")) {
		if (ob_size_parse(value, &service->floor_bytes) < 0 || service->floor_bytes > OB_GUEST_BYTES_MAX)
			return ob_error_set(err, EINVAL, "floor=\"%s\" is not a size, such as 64M or 2G", value);
	} else if (!strcmp(key, "pain")) {
		if (ob_server_parse_bytes(value, &pain) < 0 || pain > OB_GUEST_PAIN_MAX)
			return ob_error_set(err, EINVAL, "pain=\"%s\" is not a number from 0 to %d", value, OB_GUEST_PAIN_MAX);
		service->pain = (uint32_t)pain;
	} else if (!strcmp(key, "name")) {
		if (!ob_guest_name_valid(value))
			return ob_error_set(err, EINVAL, "name=\"%s\" is not of letters, digits and ._-, at most %d", value, OB_GUEST_NAME_MAX);
		snprintf(service->name, sizeof(service->name), "%s", value);
	} else if (!strcmp(key, "user")) {
		if (!ob_name_valid(value) || strlen(value) >= sizeof(service->user))
			return ob_error_set(err, EINVAL, "user=\"%s\" is not a name of letters, digits and ._-, at most %zu", value,
					    sizeof(service->user) - 1);
		snprintf(service->user, sizeof(service->user), "%s", value);
	} else {
		return ob_error_set(err, EINVAL, "\"%s\" is not known: there are socket, process, floor, pain, name, user and password-file", key);
	}
	return 0;
}

static int read_service(struct ob_guest_config *config, const struct ob_adaptor *adaptor, char *rest, struct ob_error *err)
{
	struct ob_service *service = &config->service[config->n];
	char *at = NULL;
	uint64_t uid;

	if (config->n == OB_SERVICES_MAX)
		return ob_error_set(err, E2BIG, "there are more than %d servers", OB_SERVICES_MAX);
	ob_service_init(service, adaptor);
	for (char *word = strtok_r(rest, " \t", &at); word; word = strtok_r(NULL, " \t", &at)) {
		char *equals = strchr(word, '=');
		int r;

		if (!equals)
			return ob_error_set(err, EINVAL, "\"%s\" is not KEY=VALUE", word);
		*equals = '\0';
		r = set_value(service, word, equals + 1, err);
		if (r < 0)
			return r;
	}
	if (adaptor->find ? !service->process[0] || service->socket[0] : service->process[0] != '\0')
		return ob_error_set(err, EINVAL, "%s is known by %s=, and by nothing else", adaptor->name, adaptor->find ? "process" : "socket");
	if (adaptor->find && service->user[0] && (ob_server_parse_bytes(service->user, &uid) < 0 || uid >= UINT32_MAX))
		return ob_error_set(err, EINVAL, "user=\"%s\" is not a user's number", service->user);
	config->n++;
	return 0;
}

static int read_switch(bool *is_on, const char *name, char *rest, struct ob_error *err)
{
	char *at = NULL, *word = strtok_r(rest, " \t", &at);

	if (!word || (strcmp(word, "on") && strcmp(word, "off")) || strtok_r(NULL, " \t", &at))
		return ob_error_set(err, EINVAL, "\"%s\" is \"on\" or \"off\"", name);
	*is_on = !strcmp(word, "on");
	return 0;
}

static int read_line(struct ob_guest_config *config, char *line, struct ob_error *err)
{
	char *rest = NULL, *word;

	line[strcspn(line, "#")] = '\0';
	word = strtok_r(line, " \t", &rest);
	if (!word)
		return 0;
	for (const struct ob_adaptor *const *kind = ob_adaptor_kinds; *kind; kind++)
		if (!strcmp(word, (*kind)->name))
			return read_service(config, *kind, rest, err);
	if (!strcmp(word, "discover"))
		return read_switch(&config->discover, word, rest, err);
	if (!strcmp(word, "compact"))
		return read_switch(&config->compact, word, rest, err);
	return ob_error_set(err, EINVAL, "\"%s\" is not known: there are redis, mariadb, memcached, postgresql, jvm, discover and compact", word);
}

int ob_guest_config_read(const char *path, bool may_miss, struct ob_guest_config *ret_config, struct ob_error *err)
{
	struct ob_guest_config config = { .discover = true, .compact = true };
	char text[FILE_MAX], *next = text;
	unsigned number = 0;
	int r;

	*ret_config = config;
	if (may_miss && access(path, F_OK) < 0 && errno == ENOENT)
		return 0;
	r = check_owner(path, 022, "written", err);
	if (r < 0)
		return r;
	r = ob_read_text(path, text, sizeof(text));
	if (r < 0)
		return ob_error_sys(err, -r, "cannot read \"%s\"", path);
	if (r == sizeof(text) - 1 || strlen(text) != (size_t)r)
		return ob_error_set(err, EINVAL, "\"%s\" is not a text of less than %d bytes", path, FILE_MAX);
	for (char *line = strsep(&next, "\n"); line; line = strsep(&next, "\n")) {
		number++;
		r = read_line(&config, line, err);
		if (r < 0)
			return ob_error_wrap(err, "\"%s\", line %u", path, number);
	}
	*ret_config = config;
	return 0;
}
