# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for overbookd(8)

_overbookd() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=''
	COMPREPLY=()
	case $prev in
	--config)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	--socket-dir)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	--share) words='on off' ;;
	--share-index) words='hash cmd-subpage' ;;
	--large-pages) words='proactive late never off' ;;
	--min-free) words='auto' ;;
	--balloon) words='auto off' ;;
	--budget | --metrics) words='none' ;;
	--log) words='error warning info debug' ;;
	--share-cpu | --balloon-floor | --idle-tax) return ;;
	*)
		words='--budget --share --share-cpu --share-index --large-pages --min-free --balloon --balloon-floor --idle-tax --metrics --log
			--config --socket-dir --check --foreground --help --version'
		;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _overbookd overbookd
