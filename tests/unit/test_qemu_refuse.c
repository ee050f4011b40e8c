/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Everything that must not run: one refusal each, one line, which names the option and says what would be right. */
#include "qemu_line.h"

#define BACKEND "-object memory-backend-"

static const struct {
	const char *line, *says; /* part of the only refusal */
} samples[] = {
	{ "qemu -m 1G -device vhost-user-fs-pci,chardev=c,tag=t", "vhost-user-fs-pci" },
	{ "qemu -m 1G -device '{\"driver\":\"vhost-user-blk-pci\",\"id\":\"x\",\"chardev\":\"c\"}'", "vhost-user-blk-pci" },
	{ "qemu -m 1G -netdev vhost-user,id=n,chardev=c", "-netdev tap" },
	{ "qemu -m 1G -netdev type=vhost-user,id=n,chardev=c", "-netdev tap" },
	{ "qemu -m 1G -netdev '{\"type\":\"vhost-user\",\"id\":\"n\"}'", "-netdev tap" },
	{ "qemu -m 1G -netdev passt,id=n,vhost-user=on", "vhost-user=off" },
	{ "qemu -m 1G -nic vhost-user,chardev=c", "use tap" },
	{ "qemu -m 1G -net vhost-user,chardev=c", "use tap" },
	{ "qemu -m 1G -object cryptodev-vhost-user,id=c,chardev=d", "cryptodev-backend-builtin" },
	{ "qemu -m 1G -device vfio-pci,host=01:00.0", "pins all guest RAM" },
	{ "qemu -m 1G -device vfio-user-pci,socket=/s", "pins all guest RAM" },
	{ "qemu -m 1G -netdev vhost-vdpa,id=v,vhostdev=/dev/vhost-vdpa-0", "pins all guest RAM" },
	{ "qemu -m 1G -nic vhost-vdpa,vhostdev=/dev/vhost-vdpa-0", "pins all guest RAM" },
	{ "qemu -m 1G -device vhost-vdpa-device-pci,vhostdev=/dev/vhost-vdpa-0", "pins all guest RAM" },
	{ "qemu -m 1G -device vhost-scsi-pci,wwpn=naa.1", "use virtio-scsi" },
	{ "qemu -m 1G -device pvrdma,ibdev=a", "use virtio-net" },
	{ "qemu -m 1G -device x-pci-proxy-dev,id=a", "remote process" },
	{ "qemu -m 1G -object x-remote-object,id=a,devid=b,fd=3", "remote process" },
	{ "qemu -m 1G -object x-vfio-user-server,id=a", "maps guest RAM" },
	{ "qemu -m 1G -drive file=nvme://0000:01:00.0/1,if=none", "host_device" },
	{ "qemu -m 1G -blockdev driver=nvme,node-name=a,device=0000:01:00.0,namespace=1", "host_device" },
	{ "qemu -m 1G -blockdev driver=raw,node-name=a,file.driver=nvme", "host_device" },
	{ "qemu -m 1G -blockdev '{\"driver\":\"raw\",\"node-name\":\"a\",\"file\":{\"driver\":\"virtio-blk-vhost-user\"}}'", "host_device" },
	{ "qemu -m 1G -drive 'file=json:{\"driver\":\"nvme\",,\"device\":\"0\"}'", "host_device" },
	{ "qemu -m 1G nvme://0000:01:00.0/1", "host_device" },
	{ "qemu -m 1G -hda nvme://0000:01:00.0/1", "\"-hda nvme://" },
	{ "qemu -m 1G -cdrom 'json:{\"driver\":\"nvme\",\"device\":\"0\"}'", "host_device" },
	{ "qemu -m 1G 'json:{\"driver\":\"nvme\",\"device\":\"0\"}'", "host_device" },
	{ "qemu -m 1G -drive format=nvme,device=0000:01:00.0,namespace=1,if=none,id=d", "host_device" },
	{ "qemu -m 1G -device virtio-gpu-pci,blob=true", "blob=off" },
	{ "qemu -m 1G -device virtio-vga,blob=on", "blob=off" },
	{ "qemu -m 1G -mem-path /dev/hugepages", "leave it out" },
	{ "qemu -m 1G -mem-prealloc", "--reservation" },
	{ "qemu -m 1G -overcommit mem-lock=on", "locked memory" },
	{ "qemu -m 1G -overcommit mem-lock=on-fault", "locked memory" },
	{ "qemu -m 1G -realtime mlock=on", "locked memory" },
	{ "qemu -m 1G -object sev-guest,id=s,cbitpos=47", "confidential" },
	{ "qemu -m 1G -object sev-snp-guest,id=s", "confidential" },
	{ "qemu -m 1G -object '{\"qom-type\":\"tdx-guest\",\"id\":\"t\"}'", "confidential" },
	{ "qemu -m 1G -object pef-guest,id=p", "confidential" },
	{ "qemu -m 1G -object s390-pv-guest,id=p", "confidential" },
	{ "qemu -m 1G -object arm-rme-guest,id=p", "confidential" },
	{ "qemu -m 1G -M q35,confidential-guest-support=s", "confidential" },
	{ "qemu -m 1G -machine pc,memory-encryption=s", "confidential" },
	{ "qemu -m 1G " BACKEND "epc,id=e,size=64M", "SGX" },
	{ "qemu -m 1G " BACKEND "file,id=pc.ram,size=1G,mem-path=/dev/hugepages,share=on -M memory-backend=pc.ram", "memory-backend-ram" },
	{ "qemu -m 1G " BACKEND "ram,id=m,size=1G,prealloc=on -M memory-backend=m", "leave prealloc out" },
	{ "qemu -m 1G " BACKEND "memfd,id=m,size=1G,hugetlb=on -M memory-backend=m", "leave hugetlb out" },
	{ "qemu -m 1G -object '{\"qom-type\":\"memory-backend-memfd\",\"id\":\"m\",\"size\":1073741824,\"hugetlb\":true}' -M memory-backend=m", "leave hugetlb out" },
	{ "qemu -m 1G " BACKEND "newfangled,id=m,size=1G -M memory-backend=m", "not known" },
	{ "qemu -m 1G " BACKEND "ram,id=m,size=much -M memory-backend=m", "not a size" },
	{ "qemu -m 1G " BACKEND "ram,id=m", "not a size" },
	{ "qemu -m 1G " BACKEND "ram,id=pc.ram,size=1G", "-machine memory-backend=pc.ram" },
	{ "qemu -m 1G -M memory-backend=gone", "no memory backend with the id \"gone\"" },
	{ "qemu -m 1G -numa node,memdev=gone", "no memory backend with the id \"gone\"" },
	{ "qemu -m 1G -device nvdimm,memdev=n", "use a disk" },
	{ "qemu -m 1G -device virtio-pmem-pci,memdev=n", "use a disk" },
	{ "qemu -m 1G -device virtio-mem-pci,requested-size=1G", "overbook limit" },
	{ "qemu -m 1G -device cxl-type3,volatile-memdev=n", "give the memory with -m" },
	{ "qemu -M q35,memory.size=1G", "\"-m SIZE\"" },
	{ "qemu -m 1G -runas nobody", "as that user" },
	{ "qemu -m 1G -chroot /srv/jail", "in that root" },
	{ "qemu -m 1G -run-with user=nobody", "as that user" },
	{ "qemu -m 1G -run-with chroot=/srv/jail,async-teardown=on", "in that root" },
	{ "qemu -m 1G -accel xen", "use kvm or tcg" },
	{ "qemu -m 1G -M pc,accel=xen", "use kvm or tcg" },
	{ "qemu -m 1G -xen-domid 3", "use KVM or TCG" },
	{ "qemu -M none", "leave \"overbook run\" out" },
	{ "qemu -M x-remote", "leave \"overbook run\" out" },
	{ "qemu -M xenfv-4.2", "use KVM or TCG" },
	{ "qemu -M nonesuch -m 1G", "\"nonesuch\" of target x86_64 is not known" },
	{ "qemu -m lots", "\"lots\" is not a size" },
	{ "qemu -m 2GiB", "\"2GiB\" is not a size" },
	{ "qemu -m -1", "\"-1\" is not a size" },
	{ "qemu -m 99999999999G", "is not a size" },
	{ "qemu -m 1G -chardev null,id=overbook-qmp", "Overbook's own" },
};

static void each_is_refused_once_and_clearly(void **state)
{
	for (size_t i = 0; i < OB_ARRAY_LEN(samples); i++) {
		struct qemu_line line;

		qemu_line_plan(&line, samples[i].line);
		if (line.parsed || line.plan.n_refusals != 1)
			fail_msg("%s: %zu refusals, parsed %d: %s", samples[i].line, line.plan.n_refusals, line.parsed,
				 line.plan.n_refusals ? line.plan.refusals[1] : line.err.text);
		if (!strstr(line.plan.refusals[0], samples[i].says))
			fail_msg("%s: \"%s\" does not say \"%s\"", samples[i].line, line.plan.refusals[0], samples[i].says);
		assert_null(strchr(line.plan.refusals[0], '\n'));
		assert_null(line.plan.argv);
		ob_qemu_opts_free(&line.opts);
	}
}

/* Pretends that everything below /nfs lies on NFS. */
static long pretended_fs_type(const char *path)
{
	return strncmp(path, "/nfs/", 5) ? 0xef53 : 0x6969;
}

static void asynchronous_io_that_hides_is_refused(void **state)
{
	static const struct ob_qemu_plan_config config = { .target = "x86_64", .dir = TEST_DIR, .fs_type = pretended_fs_type };
	static const struct {
		const char *line;
		size_t refusals;
	} lines[] = {
		{ "qemu -m 1G -drive file=/nfs/a,aio=native,cache=none", 1 },
		{ "qemu -m 1G -drive aio=io_uring,file=file:/nfs/a", 1 },
		{ "qemu -m 1G -blockdev driver=raw,node-name=a,file.driver=file,file.filename=/nfs/a,file.aio=native", 1 },
		{ "qemu -m 1G -blockdev '{\"driver\":\"file\",\"node-name\":\"a\",\"filename\":\"/nfs/a\",\"aio\":\"io_uring\"}'", 1 },
		{ "qemu -m 1G -drive file=/nfs/a,aio=threads", 0 },
		{ "qemu -m 1G -drive file=/nfs/a", 0 },
		{ "qemu -m 1G -drive file=/srv/a,aio=native", 0 },
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(lines); i++) {
		struct qemu_line line;

		qemu_line_plan_for(&line, lines[i].line, &config);
		if (line.parsed || line.plan.n_refusals != lines[i].refusals)
			fail_msg("%s: %zu refusals, parsed %d", lines[i].line, line.plan.n_refusals, line.parsed);
		if (lines[i].refusals)
			assert_non_null(strstr(line.plan.refusals[0], "aio=threads"));
		ob_qemu_opts_free(&line.opts);
	}
}

static void all_that_is_in_the_way_is_said_at_once(void **state)
{
	struct qemu_line line;

	qemu_line_plan(&line, "qemu -m lots -mem-prealloc -device vfio-pci,host=01:00.0");
	assert_int_equal(line.plan.n_refusals, 3);
	ob_qemu_opts_free(&line.opts);
}

static void what_looks_like_it_is_not_refused(void **state)
{
	static const char *const lines[] = {
		"qemu -m 1G -device vhost-vsock-pci,guest-cid=3",
		"qemu -m 1G -netdev tap,id=n,vhost=on",
		"qemu -m 1G -run-with async-teardown=on",
		"qemu -m 1G -overcommit mem-lock=off,cpu-pm=on",
		"qemu -m 1G -realtime mlock=off",
		"qemu -m 1G -M pc,mem-merge=on",
		"qemu -m 1G -device nvme,serial=a,drive=d -drive file=nvme.img,if=none,id=d",
		"qemu -m 1G -append '-mem-prealloc vfio-pci'",
		"qemu -m 1G -hda nvme.img -cdrom 'json:{\"driver\":\"file\",\"filename\":\"a.iso\"}'",
		"qemu -m 1G -kernel -mem-prealloc",
		"qemu -m 1G " BACKEND "ram,id=m,size=1G,prealloc=off -M memory-backend=m",
		"qemu -m 1G -device virtio-gpu-pci,blob=off",
	};

	for (size_t i = 0; i < OB_ARRAY_LEN(lines); i++) {
		struct qemu_line line;

		qemu_line_plan(&line, lines[i]);
		if (line.parsed || line.plan.n_refusals)
			fail_msg("%s: %s", lines[i], line.parsed ? line.err.text : line.plan.refusals[0]);
		ob_qemu_opts_free(&line.opts);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_is_refused_once_and_clearly),
		cmocka_unit_test(asynchronous_io_that_hides_is_refused),
		cmocka_unit_test(all_that_is_in_the_way_is_said_at_once),
		cmocka_unit_test(what_looks_like_it_is_not_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
