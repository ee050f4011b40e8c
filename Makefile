# SPDX-License-Identifier: GPL-2.0-or-later
# A thin face over meson, for those who come by. HACKING has the rest.
#
#   make             build into build/
#   make demo        install what is missing, build, and see several guests in less memory than they use
#                    (DEMO_ARGS="--machines 8 --budget 1G" for other figures)
#   make check       every test that needs no special hardware
#   make check-long  the same with all combinations and an hour of torture, for as long as it takes
#   make fuzz        look for new inputs that break something: TARGET=NAME (a fuzz_NAME.c of tests/fuzz) SECONDS=60
#   make deb         the Debian package for this host's release, in build/deb (DEB_SUITES="bookworm trixie" for others)
#   make check-package   builds it for Debian 12 and 13, and installs, uses and purges it in a small system of each
#   make check-libvirt  domains of a real libvirtd (as root: installs it)
#   make check-compat  all tests on Debian 13 and its QEMU, in a chroot that it makes (as root; debootstrap, network once)
#   make torture     random machines to which everything happens, every byte checked (HOURS=2 or MINUTES=10, MACHINES=3,
#                    SEED=7, REPLAY=schedule.jsonl)
#   make install     into meson's prefix
#   make clean

BUILD ?= build
SUITES = unit fuzz engine kvm guest fault

all: $(BUILD)/build.ninja
	ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@command -v meson >/dev/null || { echo "overbook: meson is missing; run scripts/install-deps.sh" >&2; exit 1; }
	meson setup $(BUILD)

deps:
	@scripts/install-deps.sh

guest:
	@scripts/guest-image.sh $(BUILD)/guest

demo: deps
	@$(MAKE) --no-print-directory all guest
	$(BUILD)/src/cli/overbook demo $(DEMO_ARGS)

check: deps
	@$(MAKE) --no-print-directory all guest
	@scripts/check.sh $(BUILD) $(SUITES)

check-long: deps
	@$(MAKE) --no-print-directory all guest
	@OVERBOOK_TEST_LONG=1 scripts/check.sh $(BUILD) $(SUITES)

fuzz:
	@tests/fuzz/run.sh "$(TARGET)" "$(or $(SECONDS),60)" $(FUZZ_ARGS)

deb:
	@scripts/build-deb.sh $(BUILD)/deb $(DEB_SUITES)

check-package: deps
	@$(MAKE) --no-print-directory all guest
	@scripts/check.sh $(BUILD) package

check-libvirt:
	@scripts/install-deps.sh libvirt
	@$(MAKE) --no-print-directory all guest
	@scripts/check.sh $(BUILD) libvirt

check-compat: deps
	@$(MAKE) --no-print-directory all guest
	@scripts/check-compat.sh $(BUILD)

MACHINES ?= 3
TORTURE_ARGS = --minutes $(or $(MINUTES),$(shell echo $$(($(or $(HOURS),1) * 60)))) --machines $(MACHINES) \
	$(if $(SEED),--seed $(SEED)) $(if $(REPLAY),--replay $(REPLAY)) $(if $(RESULTS),--results $(RESULTS))

torture: deps
	@$(MAKE) --no-print-directory all guest
	@python3 -B tests/guest/torture.py --verbose $(TORTURE_ARGS) $(BUILD)/src/cli/overbook $(BUILD)/src/daemon/overbookd \
		$(BUILD)/src/agent/liboverbook-agent.so $(BUILD)/guest

install: all
	meson install -C $(BUILD)

clean:
	rm -rf $(BUILD)

.PHONY: all deps guest demo check check-long deb check-compat check-libvirt check-package fuzz torture install clean
