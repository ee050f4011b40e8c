/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A Java virtual machine and its attach socket: jvm.c asks, attach.c finds it and opens that. */
#ifndef OB_GUEST_JVM_H
#define OB_GUEST_JVM_H

#include "guest/adaptor.h"

/* The process that runs java with service->process among its arguments, as service->user if that is not "": the first of those; 0: there is none. */
pid_t ob_jvm_find(const struct ob_service *service);

/* For one question: server->fd is connected. Returns 0 or -errno as adaptors do. */
int ob_jvm_open(struct ob_server *server, struct ob_error *err) OB_MUST_CHECK;

#endif
