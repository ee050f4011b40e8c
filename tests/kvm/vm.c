/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"

/* Plain low memory. */
#define LOW_TSS      0x5000u
#define LOW_GDT      0x6000u
#define LOW_IDT      0x7000u
#define LOW_SHARED   0x10000u  /* a page a processor */
#define LOW_VERSIONS 0x100000u /* 4 bytes a page: up to 3 GiB of guest */

/* The machine's own pages, from the start of its last 2 MiB. */
#define OWN_PML4   0u
#define OWN_PDPT   1u
#define OWN_PD_LOW 2u
#define OWN_PD_RAM 3u
#define OWN_PT     8u   /* page tables of every other 2 MiB of the memory under test */
#define OWN_CODE   400u
#define OWN_STACK  420u /* 8 pages a processor */

#define EXIT_GPA   0xe0000000ull
#define PTE_TABLE  7ull    /* present, writable, user */
#define PTE_LARGE  0x87ull
#define CR0_PE_ETC 0x80050033ull /* PG, AM, WP, NE, ET, MP, PE */
#define CR4_PAE    0x620ull      /* PAE, OSFXSR, OSXMMEXCPT */
#define EFER_LONG  0x500ull      /* LME, LMA */

static uint64_t own_gpa(const struct vm *vm, unsigned page)
{
	return VM_RAM_GPA + vm->ram_bytes - VM_OWN_PAGES * GUEST_PAGE + (uint64_t)page * GUEST_PAGE;
}

static uint64_t *own_page(struct vm *vm, unsigned page)
{
	return (uint64_t *)(void *)(vm->ram + vm->ram_bytes - (VM_OWN_PAGES - page) * (size_t)GUEST_PAGE);
}

uint64_t vm_guest_pages(const struct vm *vm)
{
	return vm->ram_bytes / GUEST_PAGE - VM_OWN_PAGES - GUEST_COUNTERS;
}

static void build_page_tables(struct vm *vm)
{
	uint64_t pages = vm->ram_bytes / GUEST_PAGE;
	uint64_t *pml4 = own_page(vm, OWN_PML4), *pdpt = own_page(vm, OWN_PDPT);
	uint64_t *low = own_page(vm, OWN_PD_LOW), *ram = own_page(vm, OWN_PD_RAM);

	pml4[0] = own_gpa(vm, OWN_PDPT) | PTE_TABLE;
	pdpt[0] = own_gpa(vm, OWN_PD_LOW) | PTE_TABLE;
	pdpt[1] = own_gpa(vm, OWN_PD_RAM) | PTE_TABLE;
	for (unsigned i = 0; i < VM_LOW_BYTES >> 21; i++)
		low[i] = ((uint64_t)i << 21) | PTE_LARGE;
	low[511] = EXIT_GPA | PTE_LARGE;
	/* Every other 2 MiB is mapped by 4 KiB pages, as Linux guests map by both. */
	for (uint64_t chunk = 0; chunk < pages / 512; chunk++) {
		uint64_t gpa = VM_RAM_GPA + (chunk << 21);
		unsigned own = OWN_PT + (unsigned)chunk / 2;
		uint64_t *table = own_page(vm, own);

		if (chunk % 2) {
			ram[chunk] = gpa | PTE_LARGE;
			continue;
		}
		ram[chunk] = own_gpa(vm, own) | PTE_TABLE;
		for (unsigned i = 0; i < 512; i++)
			table[i] = (gpa + i * GUEST_PAGE) | PTE_TABLE;
	}
}

void vm_map_large(struct vm *vm)
{
	uint64_t *ram = own_page(vm, OWN_PD_RAM);

	for (uint64_t chunk = 0; chunk < vm->ram_bytes >> 21; chunk++)
		ram[chunk] = (VM_RAM_GPA + (chunk << 21)) | PTE_LARGE;
}

static int map_slot(struct vm *vm, unsigned slot, uint64_t gpa, void *memory, size_t bytes, struct ob_error *err)
{
	struct kvm_userspace_memory_region region = { .slot = slot, .guest_phys_addr = gpa, .memory_size = bytes,
						      .userspace_addr = (uintptr_t)memory };

	if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return ob_error_sys(err, errno, "cannot give the guest memory");
	return 0;
}

static int set_cpuid(struct vm *vm, int fd, struct ob_error *err)
{
	struct kvm_cpuid2 *OB_FREE cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));

	if (!cpuid)
		return ob_error_sys(err, ENOMEM, "cannot make a processor");
	cpuid->nent = 256;
	if (ioctl(vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) || ioctl(fd, KVM_SET_CPUID2, cpuid))
		return ob_error_sys(err, errno, "cannot tell a processor what it is");
	return 0;
}

static void user_segments(struct kvm_sregs *sregs)
{
	struct kvm_segment code = { .limit = 0xffffffff, .selector = 0x33, .type = 11, .present = 1, .dpl = 3, .s = 1, .l = 1,
				    .g = 1 };
	struct kvm_segment data = code;

	data.selector = 0x2b;
	data.type = 3;
	data.l = 0;
	data.db = 1;
	sregs->cs = code;
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->tr = (struct kvm_segment){ .base = LOW_TSS, .limit = 0x67, .selector = 0x40, .type = 11, .present = 1 };
	sregs->ldt = (struct kvm_segment){ .unusable = 1 };
	sregs->gdt.base = LOW_GDT;
	sregs->gdt.limit = 0x7f;
	sregs->idt.base = LOW_IDT;
	sregs->idt.limit = 0xfff;
}

static int make_vcpu(struct vm *vm, unsigned number, struct ob_error *err)
{
	struct kvm_sregs sregs;
	int fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)number);
	int r;

	if (fd < 0)
		return ob_error_sys(err, errno, "cannot make processor %u", number);
	vm->vcpu_fds[number] = fd;
	vm->runs[number] = mmap(NULL, vm->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (vm->runs[number] == MAP_FAILED) {
		vm->runs[number] = NULL;
		return ob_error_sys(err, errno, "cannot map processor %u", number);
	}
	r = set_cpuid(vm, fd, err);
	if (r < 0)
		return r;
	if (ioctl(fd, KVM_GET_SREGS, &sregs))
		return ob_error_sys(err, errno, "cannot read the registers of processor %u", number);
	sregs.cr0 = CR0_PE_ETC;
	sregs.cr3 = own_gpa(vm, OWN_PML4);
	sregs.cr4 = CR4_PAE;
	sregs.efer = EFER_LONG;
	user_segments(&sregs);
	if (ioctl(fd, KVM_SET_SREGS, &sregs))
		return ob_error_sys(err, errno, "cannot set the registers of processor %u", number);
	return 0;
}

static int make_machine(struct vm *vm, struct ob_error *err)
{
	int r;

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm_fd < 0)
		return ob_error_set(err, ENOTSUP, "/dev/kvm: %s", strerror(errno));
	vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0UL);
	if (vm->vm_fd < 0)
		return ob_error_set(err, ENOTSUP, "KVM_CREATE_VM: %s", strerror(errno));
	r = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0UL);
	if (r <= 0)
		return ob_error_sys(err, errno, "KVM_GET_VCPU_MMAP_SIZE");
	vm->run_bytes = (size_t)r;
	if (ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000UL))
		return ob_error_sys(err, errno, "KVM_SET_TSS_ADDR");
	vm->low = mmap(NULL, VM_LOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (vm->low == MAP_FAILED) {
		vm->low = NULL;
		return ob_error_sys(err, errno, "cannot map memory");
	}
	r = map_slot(vm, 0, 0, vm->low, VM_LOW_BYTES, err);
	return r ? r : map_slot(vm, 1, VM_RAM_GPA, vm->ram, vm->ram_bytes, err);
}

int vm_create(struct vm *vm, uint8_t *ram, size_t ram_bytes, unsigned vcpus, struct ob_error *err)
{
	size_t code_bytes = (size_t)(__stop_guest_text - __start_guest_text);
	int r;

	*vm = (struct vm){ .kvm_fd = -1, .vm_fd = -1, .vcpus = vcpus, .ram = ram, .ram_bytes = ram_bytes };
	for (unsigned i = 0; i < GUEST_VCPUS; i++)
		vm->vcpu_fds[i] = -1;
	if (code_bytes > (OWN_STACK - OWN_CODE) * (size_t)GUEST_PAGE || ram_bytes > VM_RAM_MAX ||
	    vcpus > GUEST_VCPUS)
		return ob_error_sys(err, E2BIG, "the guest does not fit");
	r = make_machine(vm, err);
	if (!r) {
		build_page_tables(vm);
		memcpy(own_page(vm, OWN_CODE), __start_guest_text, code_bytes);
		vm->versions = (uint32_t *)(void *)(vm->low + LOW_VERSIONS);
	}
	for (unsigned i = 0; i < vcpus && !r; i++) {
		vm->shared[i] = (struct guest_vcpu *)(void *)(vm->low + LOW_SHARED + i * GUEST_PAGE);
		*vm->shared[i] = (struct guest_vcpu){
			.number = i,
			.vcpus = vcpus,
			.random = 88172645463325252ull + i,
			.memory = VM_RAM_GPA + GUEST_COUNTERS * GUEST_PAGE,
			.pages = vm_guest_pages(vm),
			.versions = LOW_VERSIONS,
			.counters = VM_RAM_GPA,
			.exit_address = 511ull << 21,
		};
		r = make_vcpu(vm, i, err);
	}
	if (r < 0)
		vm_destroy(vm);
	return r;
}

void vm_destroy(struct vm *vm)
{
	for (unsigned i = 0; i < GUEST_VCPUS; i++) {
		if (vm->runs[i])
			munmap(vm->runs[i], vm->run_bytes);
		vm->runs[i] = NULL;
		ob_fd_close(&vm->vcpu_fds[i]);
	}
	ob_fd_close(&vm->vm_fd);
	ob_fd_close(&vm->kvm_fd);
	if (vm->low)
		munmap(vm->low, VM_LOW_BYTES);
	vm->low = NULL;
}

static int start_job(struct vm *vm, unsigned number, enum guest_job job, uint64_t operations, struct ob_error *err)
{
	uint64_t entry = (uint64_t)((uintptr_t)guest_main - (uintptr_t)__start_guest_text);
	struct kvm_regs regs = {
		.rip = own_gpa(vm, OWN_CODE) + entry,
		.rsp = own_gpa(vm, OWN_STACK + 8 * (number + 1)) - 8, /* as after a call */
		.rdi = LOW_SHARED + (uint64_t)number * GUEST_PAGE,
		.rflags = 0x202,
	};

	vm->shared[number]->job = job;
	vm->shared[number]->operations = operations;
	if (ioctl(vm->vcpu_fds[number], KVM_SET_REGS, &regs))
		return ob_error_sys(err, errno, "cannot start processor %u", number);
	return 0;
}

static int explain_exit(struct vm *vm, unsigned number, struct ob_error *err)
{
	const struct kvm_run *run = vm->runs[number];
	unsigned suberror = run->exit_reason == KVM_EXIT_INTERNAL_ERROR ? run->internal.suberror : 0;
	struct kvm_regs regs = { 0 };

	if (ioctl(vm->vcpu_fds[number], KVM_GET_REGS, &regs))
		regs.rip = 0;
	return ob_error_set(err, EPROTO, "processor %u left for reason %u (suberror %u) at %#llx", number, run->exit_reason,
			    suberror, (unsigned long long)regs.rip);
}

int vm_run(struct vm *vm, unsigned number, enum guest_job job, uint64_t operations, struct ob_error *err)
{
	const struct kvm_run *run = vm->runs[number];
	uint64_t done = vm->shared[number]->done;
	int r = start_job(vm, number, job, operations, err);

	if (r < 0)
		return r;
	for (;;) {
		if (ioctl(vm->vcpu_fds[number], KVM_RUN, 0UL)) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return ob_error_sys(err, errno, "processor %u cannot run", number);
		}
		if (run->exit_reason == KVM_EXIT_INTR)
			continue;
		if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.phys_addr != EXIT_GPA)
			return explain_exit(vm, number, err);
		if (__atomic_load_n(&vm->shared[number]->done, __ATOMIC_ACQUIRE) != done)
			return 0;
	}
}
