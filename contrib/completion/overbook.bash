# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for overbook(1)

_overbook_machines() {
	local dir=${OVERBOOK_RUNDIR:-} lock
	[ -n "$dir" ] || { [ "$(id -u)" = 0 ] && dir=/run/overbook || dir=${XDG_RUNTIME_DIR:-}/overbook; }
	for lock in "$dir"/machines/*/lock; do
		[ -e "$lock" ] && lock=${lock%/lock} && echo "${lock##*/}"
	done
}

# The index of the word after the options of `overbook run`, or nothing when QEMU has not been named yet.
_overbook_run_program() {
	local i
	for ((i = 2; i < COMP_CWORD; i++)); do
		case ${COMP_WORDS[i]} in
		--) echo $((i + 1)); return ;;
		--name | --limit | --reservation | --shares | --domain | --swap | --balloon) i=$((i + 1)) ;;
		-*) ;;
		*) echo "$i"; return ;;
		esac
	done
}

_overbook() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]:-} words='' program
	COMPREPLY=()
	if [ "$COMP_CWORD" = 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W 'run ps top stats limit balloon release plan record simulate share doctor demo version --help --version' -- "$cur")
		return
	fi
	if [ "$command" = run ]; then
		program=$(_overbook_run_program)
		if [ -n "$program" ] && [ "$COMP_CWORD" -gt "$program" ] && declare -F _command_offset >/dev/null; then
			_command_offset "$program"
			return
		fi
		if [ -n "$program" ] || [ "$prev" = -- ]; then
			mapfile -t COMPREPLY < <(compgen -c -- "${cur:-qemu-system-}" | sort -u)
			return
		fi
	fi
	case $prev in
	--swap | --guest | --directory)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	--json)
		if [ "$command" = demo ] || [ "$command" = simulate ]; then
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
		fi
		;;
	--qemu)
		mapfile -t COMPREPLY < <(compgen -c -- "${cur:-qemu-system-}" | sort -u)
		return
		;;
	--balloon)
		mapfile -t COMPREPLY < <(compgen -W 'auto off' -- "$cur")
		return
		;;
	--sort)
		mapfile -t COMPREPLY < <(compgen -W 'name state cost limit target faults swap swap-out swapped ram wset resident shared compressed
			ballooned stalled touch bench zero decompress swap-read copy' -- "$cur")
		return
		;;
	--like)
		mapfile -t COMPREPLY < <(compgen -W "$(_overbook_machines)" -- "$cur")
		return
		;;
	--synthetic)
		mapfile -t COMPREPLY < <(compgen -W 'steady diurnal stampede ramp mixed liar churn' -- "$cur")
		return
		;;
	--rule)
		mapfile -t COMPREPLY < <(compgen -W 'overbook static proxmox mom esxi' -- "$cur")
		return
		;;
	--accel)
		mapfile -t COMPREPLY < <(compgen -W 'tcg kvm' -- "$cur")
		return
		;;
	--name | --limit | --reservation | --shares | --domain | --machines | --memory | --uses | --count | --budget | --seconds | --hosts | --seed | --interval) return ;;
	esac
	case $command in
	run) words='--name --limit --reservation --shares --domain --swap --no-swap --share-mapped --keep-affinity --balloon --force --require --dry-run --json --help --' ;;
	ps | version) words='--json --help' ;;
	top) words='--once --json --interval --sort --reverse --help' ;;
	stats) words="--faults --json --help $(_overbook_machines)" ;;
	limit) words="--wait --json --help $(_overbook_machines)" ;;
	balloon) words="auto off --json --help $(_overbook_machines)" ;;
	release) words="--force --json --help $(_overbook_machines)" ;;
	plan) words='--memory --like --count --reservation --limit --shares --uses --json --help' ;;
	record | simulate)
		words='--seconds --interval --help'
		[ "$command" = record ] || words='--synthetic --machines --hosts --budget --idle-tax --seconds --seed --rule --json --help'
		case $cur in
		-*) ;;
		*)
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return
			;;
		esac
		;;
	share) words="--on --off --json --help $(_overbook_machines)" ;;
	doctor) words='--json --swap --qemu --help' ;;
	demo) words='--machines --memory --budget --seconds --json --guest --directory --accel --qemu --help' ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _overbook overbook
# Its arguments are QEMU's: files.
complete -o default overbook-qemu
