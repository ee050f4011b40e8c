/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command lines as libvirt, Proxmox, Kata, Packer and people write them, and what is made of them, to the letter. */
#include "qemu_line.h"

#include <errno.h>

#include "base/units.h"
#include "proto/wire.h"

#define FILE_AT(id, bytes) "memory-backend-file,id=" id ",size=" bytes ",mem-path=" TEST_DIR ",share=on,align=2M"
#define RAM(id, bytes)     " -object " FILE_AT(id, bytes) ",x-use-canonical-path-for-ramblock-id=off -machine memory-backend=" id
#define VC                 " -monitor vc:80Cx24C"
#define QMP                " -chardev socket,id=overbook-qmp,path=" TEST_DIR "/qmp.sock,server=on,wait=off -mon chardev=overbook-qmp,mode=control"
#define BALLOON(bus)       " -device virtio-balloon-" bus ",id=overbook-balloon,free-page-reporting=on,deflate-on-oom=on"
#define PORT(bus)                                                                                                   \
	" -chardev socket,id=overbook-guest,path=" TEST_DIR "/guest.sock,server=on,wait=off"                       \
	" -device virtio-serial-" bus ",id=overbook-serial,max_ports=2"                                             \
	" -device virtserialport,bus=overbook-serial.0,chardev=overbook-guest,id=overbook-port,name=org.overbook.guest.0"
#define REST QMP BALLOON("pci") PORT("pci")

struct sample {
	const char *line, *result;
	uint64_t ram_bytes;
};

/* clang-format off */
static const struct sample by_hand[] = {
	{ "qemu-system-x86_64", "qemu-system-x86_64" RAM("pc.ram", "134217728") VC REST, 128 * OB_MIB },
	{ "qemu-system-x86_64 -m 2G disk.img", "qemu-system-x86_64 -m 2G disk.img" RAM("pc.ram", "2147483648") VC REST, 2 * OB_GIB },
	{ "qemu -m 2048 --machine q35 -nographic", "qemu -m 2048 --machine q35 -nographic" RAM("pc.ram", "2147483648") " -serial mon:stdio" REST, 2 * OB_GIB },
	{ "qemu -m 1G -nographic -serial mon:stdio", "qemu -m 1G -nographic -serial mon:stdio" RAM("pc.ram", "1073741824") REST, OB_GIB },
	{ "qemu -m 1G -nographic -serial none", "qemu -m 1G -nographic -serial none" RAM("pc.ram", "1073741824") " -monitor stdio" REST, OB_GIB },
	{ "qemu -m 1G -nodefaults -S", "qemu -m 1G -nodefaults -S" RAM("pc.ram", "1073741824") REST, OB_GIB },
	{ "qemu -m size=1G,slots=4,maxmem=8G -m slots=2", "qemu -m size=1G,slots=4,maxmem=8G -m slots=2" RAM("pc.ram", "1073741824") VC REST, OB_GIB },
	{ "qemu -m 1G -m 512", "qemu -m 1G -m 512" RAM("pc.ram", "536870912") VC REST, 512 * OB_MIB },
	{ "qemu -m 0", "qemu -m 0" RAM("pc.ram", "134217728") VC REST, 128 * OB_MIB },
	{ "qemu -m 1.5g", "qemu -m 1.5g" RAM("pc.ram", "1610612736") VC REST, 1536 * OB_MIB },
	{ "qemu -m 333k", "qemu -m 333k" RAM("pc.ram", "344064") VC REST, 344064 },
	{ "qemu -M pc-i440fx-4.0,accel=kvm:tcg -M usb=on -m 64", "qemu -M pc-i440fx-4.0,accel=kvm:tcg -M usb=on -m 64" RAM("pc.ram", "67108864") VC REST, 64 * OB_MIB },
	{ "qemu -append 'console=ttyS0 -m 5G' -m 1G", "qemu -append 'console=ttyS0 -m 5G' -m 1G" RAM("pc.ram", "1073741824") VC REST, OB_GIB },
	{ "qemu -M isapc -m 64", "qemu -M isapc -m 64" RAM("pc.ram", "67108864") VC QMP, 64 * OB_MIB },
	{ "qemu -M microvm -m 256 -nodefaults", "qemu -M microvm -m 256 -nodefaults" RAM("microvm.ram", "268435456") QMP BALLOON("device") PORT("device"), 256 * OB_MIB },
	{ "qemu -m 1G -device virtio-balloon", "qemu -m 1G -device virtio-balloon,free-page-reporting=on" RAM("pc.ram", "1073741824") VC QMP PORT("pci"), OB_GIB },
	{ "qemu -m 1G -device virtio-balloon-pci,free-page-reporting=off", "qemu -m 1G -device virtio-balloon-pci,free-page-reporting=off" RAM("pc.ram", "1073741824") VC QMP PORT("pci"), OB_GIB },
	{ "qemu -m 1G -device virtio-serial -chardev pty,id=c -device virtserialport,chardev=c,name=org.overbook.guest.0",
	  "qemu -m 1G -device virtio-serial -chardev pty,id=c -device virtserialport,chardev=c,name=org.overbook.guest.0"
	  RAM("pc.ram", "1073741824") VC QMP BALLOON("pci"), OB_GIB },
	{ "qemu -M q35,memory-backend=mem,kernel_irqchip=on -object memory-backend-memfd,id=mem,size=768M,share=on,seal=off",
	  "qemu -M q35,memory-backend=mem,kernel_irqchip=on -object memory-backend-file,id=mem,size=768M,share=on,mem-path=" TEST_DIR ",align=2M" VC REST, 768 * OB_MIB },
	{ "qemu -m 1G -object memory-backend-ram,id=a,size=512M,host-nodes=0,policy=bind,merge=off -numa node,memdev=a "
	  "-object memory-backend-ram,id=b,size=0x20000000,reserve=off -numa node,memdev=b",
	  "qemu -m 1G -object memory-backend-file,id=a,size=512M,host-nodes=0,policy=bind,merge=off,mem-path=" TEST_DIR ",share=on,align=2M,x-use-canonical-path-for-ramblock-id=off "
	  "-numa node,memdev=a -object memory-backend-file,id=b,size=0x20000000,reserve=off,mem-path=" TEST_DIR ",share=on,align=2M,x-use-canonical-path-for-ramblock-id=off "
	  "-numa node,memdev=b" VC REST, OB_GIB },
	{ "qemu -m 1G,slots=2,maxmem=4G -object memory-backend-ram,id=d,size=512M -device pc-dimm,memdev=d",
	  "qemu -m 1G,slots=2,maxmem=4G -object memory-backend-file,id=d,size=512M,mem-path=" TEST_DIR ",share=on,align=2M,x-use-canonical-path-for-ramblock-id=off "
	  "-device pc-dimm,memdev=d" RAM("pc.ram", "1073741824") VC REST, 1536 * OB_MIB },
	{ "qemu -m 1G -object memory-backend-file,id=i,size=1M,mem-path=/dev/shm/i,share=on -device ivshmem-plain,memdev=i",
	  "qemu -m 1G -object memory-backend-file,id=i,size=1M,mem-path=/dev/shm/i,share=on -device ivshmem-plain,memdev=i"
	  RAM("pc.ram", "1073741824") VC REST, OB_GIB },
	{ "qemu -m 1G -drive 'file=a,,b.img,if=virtio' -netdev tap,id=n,vhost=on -device virtio-net,netdev=n",
	  "qemu -m 1G -drive file=a,,b.img,if=virtio -netdev tap,id=n,vhost=on -device virtio-net,netdev=n" RAM("pc.ram", "1073741824") VC REST, OB_GIB },
};

static const struct sample by_libvirt[] = {
	{ "/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S -object "
	  "'{\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":\"/var/lib/libvirt/qemu/domain-1-web/master-key.aes\"}' "
	  "-machine pc-q35-7.2,usb=off,vmport=off,dump-guest-core=off,memory-backend=pc.ram -accel kvm -cpu host,migratable=on -m 2048 "
	  "-object '{\"qom-type\":\"memory-backend-ram\",\"id\":\"pc.ram\",\"size\":2147483648}' -overcommit mem-lock=off "
	  "-smp 2,sockets=2,cores=1,threads=1 -no-user-config -nodefaults -chardev socket,id=charmonitor,fd=34,server=on,wait=off "
	  "-mon chardev=charmonitor,id=monitor,mode=control -rtc base=utc,driftfix=slew -global kvm-pit.lost_tick_policy=delay -no-hpet "
	  "-no-shutdown -boot strict=on -device '{\"driver\":\"virtio-balloon-pci\",\"id\":\"balloon0\",\"bus\":\"pci.4\",\"addr\":\"0x0\"}' "
	  "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -msg timestamp=on",
	  "/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S -object "
	  "'{\"qom-type\":\"secret\",\"id\":\"masterKey0\",\"format\":\"raw\",\"file\":\"/var/lib/libvirt/qemu/domain-1-web/master-key.aes\"}' "
	  "-machine pc-q35-7.2,usb=off,vmport=off,dump-guest-core=off,memory-backend=pc.ram -accel kvm -cpu host,migratable=on -m 2048 "
	  "-object '{\"qom-type\":\"memory-backend-file\",\"id\":\"pc.ram\",\"size\":2147483648,\"mem-path\":\"" TEST_DIR "\",\"share\":true,\"align\":2097152,"
	  "\"x-use-canonical-path-for-ramblock-id\":false}' -overcommit mem-lock=off "
	  "-smp 2,sockets=2,cores=1,threads=1 -no-user-config -nodefaults -chardev socket,id=charmonitor,fd=34,server=on,wait=off "
	  "-mon chardev=charmonitor,id=monitor,mode=control -rtc base=utc,driftfix=slew -global kvm-pit.lost_tick_policy=delay -no-hpet "
	  "-no-shutdown -boot strict=on -device '{\"driver\":\"virtio-balloon-pci\",\"id\":\"balloon0\",\"bus\":\"pci.4\",\"addr\":\"0x0\",\"free-page-reporting\":true}' "
	  "-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny -msg timestamp=on" QMP PORT("pci"), 2 * OB_GIB },
};

static const struct sample by_others[] = {
	/* Proxmox VE */
	{ "/usr/bin/kvm -id 100 -name vm100,debug-threads=on -no-shutdown -chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off "
	  "-mon chardev=qmp,mode=control -smbios type=1,uuid=1-2 -smp 2,sockets=1,cores=2,maxcpus=2 -nodefaults -vga qxl "
	  "-cpu kvm64,enforce,+kvm_pv_eoi -m 4096 -device virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3,free-page-reporting=on "
	  "-netdev type=tap,id=net0,ifname=tap100i0,vhost=on -machine type=pc-i440fx-7.2+pve0",
	  "/usr/bin/kvm -id 100 -name vm100,debug-threads=on -no-shutdown -chardev socket,id=qmp,path=/var/run/qemu-server/100.qmp,server=on,wait=off "
	  "-mon chardev=qmp,mode=control -smbios type=1,uuid=1-2 -smp 2,sockets=1,cores=2,maxcpus=2 -nodefaults -vga qxl "
	  "-cpu kvm64,enforce,+kvm_pv_eoi -m 4096 -device virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3,free-page-reporting=on "
	  "-netdev type=tap,id=net0,ifname=tap100i0,vhost=on -machine type=pc-i440fx-7.2+pve0" RAM("pc.ram", "4294967296") QMP PORT("pci"), 4 * OB_GIB },
	/* Kata Containers, without virtio-fs */
	{ "qemu -name sandbox-1 -machine q35,accel=kvm,nvdimm=off -qmp unix:/run/vc/qmp.sock,server=on,wait=off "
	  "-m 2048M,slots=10,maxmem=16G -device pci-bridge,bus=pcie.0,id=pci-bridge-0 -device virtio-serial-pci,disable-modern=false,id=serial0 "
	  "-device vhost-vsock-pci,vhostfd=3,id=vsock-1,guest-cid=4 -object memory-backend-ram,id=dimm1,size=2048M -numa node,memdev=dimm1 "
	  "-kernel /vmlinuz -append 'quiet panic=1' -nographic -no-reboot -daemonize",
	  "qemu -name sandbox-1 -machine q35,accel=kvm,nvdimm=off -qmp unix:/run/vc/qmp.sock,server=on,wait=off "
	  "-m 2048M,slots=10,maxmem=16G -device pci-bridge,bus=pcie.0,id=pci-bridge-0 -device virtio-serial-pci,disable-modern=false,id=serial0 "
	  "-device vhost-vsock-pci,vhostfd=3,id=vsock-1,guest-cid=4 -object memory-backend-file,id=dimm1,size=2048M,mem-path=" TEST_DIR
	  ",share=on,align=2M,x-use-canonical-path-for-ramblock-id=off -numa node,memdev=dimm1 "
	  "-kernel /vmlinuz -append 'quiet panic=1' -nographic -no-reboot -daemonize" REST, 2 * OB_GIB },
	/* Packer */
	{ "qemu -m 1024M -machine type=pc,accel=kvm -vnc 127.0.0.1:41 -name packer-debian -netdev user,id=user.0,hostfwd=tcp::3213-:22 "
	  "-device virtio-net,netdev=user.0 -boot once=d -drive file=out/debian,if=virtio,cache=writeback,format=qcow2 -drive file=d.iso,media=cdrom",
	  "qemu -m 1024M -machine type=pc,accel=kvm -vnc 127.0.0.1:41 -name packer-debian -netdev user,id=user.0,hostfwd=tcp::3213-:22 "
	  "-device virtio-net,netdev=user.0 -boot once=d -drive file=out/debian,if=virtio,cache=writeback,format=qcow2 -drive file=d.iso,media=cdrom"
	  RAM("pc.ram", "1073741824") VC REST, OB_GIB },
};
/* clang-format on */

static void check(const struct sample *samples, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct qemu_line line;

		qemu_line_plan(&line, samples[i].line);
		if (line.parsed || line.plan.n_refusals)
			fail_msg("%s: %s", samples[i].line, line.parsed ? line.err.text : line.plan.refusals[0]);
		assert_string_equal(qemu_line_result(&line), samples[i].result);
		assert_true(line.plan.ram_bytes == samples[i].ram_bytes);
		ob_qemu_opts_free(&line.opts);
	}
}

static void lines_written_by_hand(void **state)
{
	check(by_hand, OB_ARRAY_LEN(by_hand));
}

static void lines_written_by_libvirt(void **state)
{
	check(by_libvirt, OB_ARRAY_LEN(by_libvirt));
}

static void lines_written_by_other_tools(void **state)
{
	check(by_others, OB_ARRAY_LEN(by_others));
}

static void other_targets_have_their_own_ram_and_bus(void **state)
{
	static const struct {
		const char *target, *line, *ram, *balloon;
	} samples[] = {
		{ "aarch64", "qemu -M virt,gic-version=3", "id=mach-virt.ram,size=134217728,", "virtio-balloon-pci" },
		{ "aarch64", "qemu -M virt-9.2 -m 1G", "id=mach-virt.ram,size=1073741824,", "virtio-balloon-pci" },
		{ "riscv64", "qemu -M virt", "id=riscv_virt_board.ram,size=134217728,", "virtio-balloon-pci" },
		{ "ppc64", "qemu", "id=ppc_spapr.ram,size=536870912,", "virtio-balloon-pci" },
		{ "s390x", "qemu", "id=s390.ram,size=134217728,", "virtio-balloon-ccw" },
		{ "loongarch64", "qemu", "id=loongarch.ram,size=1073741824,", "virtio-balloon-pci" },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(samples); i++) {
		struct ob_qemu_plan_config config = { .target = samples[i].target, .dir = TEST_DIR };
		struct qemu_line line;

		qemu_line_plan_for(&line, samples[i].line, &config);
		assert_int_equal(line.plan.n_refusals, 0);
		assert_non_null(strstr(qemu_line_result(&line), samples[i].ram));
		assert_non_null(strstr(qemu_line_result(&line), samples[i].balloon));
		ob_qemu_opts_free(&line.opts);
	}
}

static int answer_ram_id(void *context, const char *type, char *ret_id, size_t size, struct ob_error *err)
{
	assert_string_equal(type, context);
	if (!strcmp(type, "nonesuch"))
		return ob_error_set(err, ENOENT, "no such type");
	snprintf(ret_id, size, "asked.ram");
	return 0;
}

static void an_unknown_type_is_asked_of_the_program(void **state)
{
	struct ob_qemu_plan_config config = { .target = "arm", .dir = TEST_DIR, .ask_ram_id = answer_ram_id };
	struct qemu_line line;
	char type[] = "vexpress-a9", none[] = "nonesuch";

	config.context = type;
	qemu_line_plan_for(&line, "qemu -M vexpress-a9 -m 512", &config);
	assert_int_equal(line.plan.n_refusals, 0);
	assert_non_null(strstr(qemu_line_result(&line), "id=asked.ram,size=536870912,"));
	assert_int_equal(line.plan.n_notes, 1);
	ob_qemu_opts_free(&line.opts);

	qemu_line_plan_for(&line, "qemu -M vexpress-a9", &config);
	assert_int_equal(line.plan.n_refusals, 1); /* how much it has without -m cannot be asked */
	ob_qemu_opts_free(&line.opts);

	config.context = none;
	qemu_line_plan_for(&line, "qemu -M nonesuch -m 512", &config);
	assert_int_equal(line.plan.n_refusals, 1);
	ob_qemu_opts_free(&line.opts);
}

static void a_comma_in_the_directory_is_doubled(void **state)
{
	struct ob_qemu_plan_config config = { .target = "x86_64", .dir = "/tmp/a,b/machines/t" };
	struct qemu_line line;

	qemu_line_plan_for(&line, "qemu -m 1G", &config);
	assert_non_null(strstr(qemu_line_result(&line), ",mem-path=/tmp/a,,b/machines/t,"));
	assert_non_null(strstr(qemu_line_result(&line), ",path=/tmp/a,,b/machines/t/qmp.sock,"));
	ob_qemu_opts_free(&line.opts);
}

static void names_are_made_fit(void **state)
{
	static const struct {
		const char *line, *name;
	} samples[] = {
		{ "qemu -name web", "web" },
		{ "qemu -name guest=web,debug-threads=on", "web" },
		{ "qemu -name debug-threads=on", NULL },
		{ "qemu -name 'guest=a/b c'", "a_b_c" },
		{ "qemu -name ..-x", "x" },
		{ "qemu -name a -name b", "b" },
		{ "qemu -name --", NULL },
		{ "qemu -name 0123456789012345678901234567890123456789012345678901234567890123456789",
		  "012345678901234567890123456789012345678901234567890123456789012" },
		{ "qemu", NULL },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(samples); i++) {
		struct qemu_line line;
		const char *name;

		qemu_line_plan(&line, samples[i].line);
		name = ob_qemu_name(&line.opts);
		if (samples[i].name) {
			assert_string_equal(name, samples[i].name);
			assert_true(ob_name_valid(name));
		} else {
			assert_null(name);
		}
		ob_qemu_opts_free(&line.opts);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_written_by_hand),
		cmocka_unit_test(lines_written_by_libvirt),
		cmocka_unit_test(lines_written_by_other_tools),
		cmocka_unit_test(other_targets_have_their_own_ram_and_bus),
		cmocka_unit_test(an_unknown_type_is_asked_of_the_program),
		cmocka_unit_test(a_comma_in_the_directory_is_doubled),
		cmocka_unit_test(names_are_made_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
