/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A virtual machine without firmware or kernel: its processors start in long mode at CPL 3, in guest_main(), and leave by a
 * store to an address without memory.
 *
 * Guest-physical memory: 2 MiB of plain memory (descriptor tables, the shared pages) from 0, and the memory under test from
 * VM_RAM_GPA. Page tables, code and stacks lie at the end of the memory under test, so that the walk of the page tables,
 * instruction fetches and pushes also meet pages that are not there. Addresses are mapped one to one by 4 KiB and 2 MiB pages, by turns.
 */
#ifndef OB_TESTS_KVM_VM_H
#define OB_TESTS_KVM_VM_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "guest_code.h"

#define VM_RAM_GPA     (1ull << 30)
#define VM_OWN_PAGES   512u /* at the end of the memory under test, the machine's own */
#define VM_LOW_BYTES   (4ull << 20)
#define VM_RAM_MAX     (1ull << 30)

struct vm {
	int kvm_fd, vm_fd, vcpu_fds[GUEST_VCPUS];
	unsigned vcpus;
	uint8_t *low;             /* plain memory */
	uint8_t *ram;             /* the memory under test */
	size_t ram_bytes;
	size_t run_bytes;
	void *runs[GUEST_VCPUS];  /* struct kvm_run */
	struct guest_vcpu *shared[GUEST_VCPUS];
	uint32_t *versions;       /* of the pages that the guest may use */
};

/* Makes a machine. Returns 0, or -errno with the cause; -ENOTSUP when this host cannot run one at all. */
int vm_create(struct vm *vm, uint8_t *ram, size_t ram_bytes, unsigned vcpus, struct ob_error *err) OB_MUST_CHECK;
void vm_destroy(struct vm *vm);

/* Maps all of it by 2 MiB pages from now on, as a guest that has large pages too; no processor may have run yet. */
void vm_map_large(struct vm *vm);

/* Pages that the guest plays with, after GUEST_COUNTERS pages of counters. */
uint64_t vm_guest_pages(const struct vm *vm);

/* Runs a job on processor number until it is done, in the calling thread. Returns 0 or -errno with the cause. */
int vm_run(struct vm *vm, unsigned number, enum guest_job job, uint64_t operations, struct ob_error *err) OB_MUST_CHECK;

#endif
