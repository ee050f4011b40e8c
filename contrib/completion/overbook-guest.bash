# SPDX-License-Identifier: GPL-2.0-or-later
# bash completion for overbook-guest(8)

_overbook_guest() {
	local cur=${COMP_WORDS[COMP_CWORD]}
	case ${COMP_WORDS[COMP_CWORD - 1]} in
	--config | --port | --socket) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	*) mapfile -t COMPREPLY < <(compgen -W '--config --port --socket --help --version' -- "$cur") ;;
	esac
}

complete -F _overbook_guest overbook-guest
