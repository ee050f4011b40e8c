/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The firmware of a guest that replays (replay_guest.c): it stands where a BIOS would, and all it does is sleep, take an order, and
 * go to work in user mode.
 *
 *     reset, and INIT ---> real mode: tells the last answer, sleeps until there is a byte on the serial line
 *                                |
 *                                v
 *                          long mode, CPL 3: replay_main(), which ends with an INIT of its own processor
 *
 * That way round since some hosts run only a guest's user mode on the processor and emulate what is privileged, in part: what is
 * used here is what any BIOS uses, and SYSEXIT; there are no interrupts but in real mode. It is a few dozen instructions each time.
 *
 * Memory below 4 MiB, which is not of the recording: 0x500 what follows (struct replay_words), 0x7000 and 0x9000 the ends of stacks, page
 * tables from 0x10000 (4 GiB one to one by pages of 2 MiB, for all), 0x30000 the end of the user's stack.
 */
#define BASE    0xf0000
#define WARM    0x500
#define ORDER   0x504
#define ANSWER  0x508
#define TABLES  0x10000
#define SERIAL  0x3f8
#define IRQ4    0x24

	.section .note.GNU-stack, "", @progbits
	.section .boot, "ax"
	.code16
real:
	cli
	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0x7000, %sp
	cmpl $1, WARM
	jne enter
	mov ANSWER, %al
	test %al, %al
	jz sleep
	mov $SERIAL, %dx
	out %al, %dx
sleep:
	mov $(SERIAL + 5), %dx
	in %dx, %al
	test $1, %al
	jnz order
	sti
	hlt
	cli
	jmp sleep
byte_came:
	push %ax
	mov $0x20, %al
	out %al, $0x20
	pop %ax
	iret
order:
	mov $SERIAL, %dx
	in %dx, %al
	mov %al, ORDER
enter:
	lgdtl %cs:(gdt_is - BASE)
	mov $0x11, %eax
	mov %eax, %cr0
	ljmpl $0x08, $protected

	.code32
protected:
	mov $0x10, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $0x9000, %esp
	cmpl $1, WARM
	je long
	call cold
long:
	mov $TABLES, %eax
	mov %eax, %cr3
	mov $0x620, %eax                /* PAE, and vector registers as Linux has them */
	mov %eax, %cr4
	mov $0xc0000080, %ecx           /* EFER: long mode */
	mov $0x100, %eax
	xor %edx, %edx
	wrmsr
	mov $0x80000011, %eax
	mov %eax, %cr0
	ljmp $0x18, $user

	/* Once: page tables, the interrupt of the serial line, the recording's device. */
cold:
	mov $TABLES, %edi
	xor %eax, %eax
	mov $(2 * 1024), %ecx
	rep stosl
	movl $(TABLES + 0x1007), TABLES
	mov $(TABLES + 0x1000), %edi
	mov $(TABLES + 0x2007), %eax
	mov $4, %ecx
1:	mov %eax, (%edi)
	add $0x1000, %eax
	add $8, %edi
	loop 1b
	mov $(TABLES + 0x2000), %edi
	mov $0x87, %eax
	mov $2048, %ecx
1:	mov %eax, (%edi)
	movl $0, 4(%edi)
	add $0x200000, %eax
	add $8, %edi
	loop 1b
	mov $pic, %esi
	mov $6, %ecx
1:	movzbl (%esi), %edx
	mov 1(%esi), %al
	out %al, %dx
	add $2, %esi
	loop 1b
	movw $(byte_came - BASE), IRQ4 * 4
	movw $(BASE >> 4), IRQ4 * 4 + 2
	mov $(SERIAL + 4), %dx          /* OUT2 lets the interrupt out */
	mov $8, %al
	out %al, %dx
	mov $(SERIAL + 1), %dx          /* when there is a byte */
	mov $1, %al
	out %al, %dx
	/* ivshmem's memory at 2 GiB: the device with that number, wherever it is */
	mov $0x80000000, %ebx
1:	mov %ebx, %eax
	call pci_at
	in %dx, %eax
	cmp $0x11101af4, %eax
	je 2f
	add $0x800, %ebx
	cmp $0x80010000, %ebx
	jne 1b
	jmp 3f
2:	lea 0x18(%ebx), %eax
	call pci_at
	mov $0x80000000, %eax
	out %eax, %dx
	lea 0x1c(%ebx), %eax
	call pci_at
	xor %eax, %eax
	out %eax, %dx
	lea 4(%ebx), %eax
	call pci_at
	mov $2, %eax
	out %eax, %dx
3:	movl $0, ORDER
	movl $0, ANSWER
	movl $1, WARM
	ret
pci_at:
	mov $0xcf8, %dx
	out %eax, %dx
	mov $0xcfc, %dx
	ret

	.code64
user:
	mov $0x174, %ecx                /* SYSEXIT goes to the segments 32 and 40 behind this one */
	mov $0x18, %eax
	xor %edx, %edx
	wrmsr
	mov $0x30000, %ecx
	mov $replay_main, %edx
	rex.w sysexit

	.align 8
gdt:	.quad 0
	.quad 0x00cf9b000000ffff        /* 08: code, 32 bits */
	.quad 0x00cf93000000ffff        /* 10: data */
	.quad 0x00af9b000000ffff        /* 18: code, 64 bits */
	.quad 0, 0, 0
	.quad 0x00affb000000ffff        /* 38: the user's code */
	.quad 0x00cff3000000ffff        /* 40: the user's data */
gdt_is:	.word gdt_is - gdt - 1
	.long gdt
pic:	.byte 0x20, 0x11, 0x21, IRQ4 - 4, 0x21, 4, 0x21, 3, 0x21, 0xef, 0xa1, 0xff

	.section .reset, "ax"
	.code16
	jmp real
