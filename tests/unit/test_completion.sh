#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Completion for bash and zsh, each in its own shell: what is offered is what `overbook --help` and its like know.
# Speaks TAP. Usage: test_completion.sh DIRECTORY OVERBOOK
set -u
completion=$(realpath "$1")
overbook=$(realpath "$2")
dir=$(mktemp -d /tmp/overbook-test-XXXXXX) || exit 1
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/run/machines/web" "$dir/run/machines/mail" "$dir/bin"
: >"$dir/run/machines/web/lock"
: >"$dir/run/machines/mail/lock"
cp /bin/true "$dir/bin/qemu-system-of-the-test"
export OVERBOOK_RUNDIR="$dir/run" PATH="$dir/bin:$PATH"
count=0

result() { # OK DESCRIPTION
	count=$((count + 1))
	if [ "$1" = 0 ]; then
		echo "ok $count - $2"
	else
		echo "not ok $count - $2"
		sed 's/^/# /' "$dir/out"
	fi
}

commands=$("$overbook" --help | sed -n 's/^  \([a-z][a-z]*\) .*/\1/p')
options_of() { # COMMAND
	{ echo --help; "$overbook" "$1" --help | grep -oE -- '^ +--[a-z-]+|\[--[a-z-]+' | grep -oE -- '--[a-z-]+'; } | sort -u
}

bash_offers() { # WORD...: the last one is being typed
	bash --norc -c '. "$0"; COMP_WORDS=(overbook "$@"); COMP_CWORD=$#; _overbook; printf "%s\n" "${COMPREPLY[@]}"' \
		"$completion/overbook.bash" "$@" >"$dir/out" 2>&1
}

if command -v bash >/dev/null; then
	bash_offers ''
	ok=0
	for command in $commands; do
		grep -qx "$command" "$dir/out" || { ok=1; echo "# not offered: $command"; }
	done
	result $ok 'bash offers all commands'
	for command in $commands; do
		bash_offers "$command" --
		ok=0
		for option in $(options_of "$command"); do
			grep -qx -- "$option" "$dir/out" || { ok=1; echo "# not offered: $option"; }
		done
		for option in $(grep -- '--.' "$dir/out"); do
			options_of "$command" | grep -qx -- "$option" || { ok=1; echo "# not known: $option"; }
		done
		result $ok "bash offers the options of $command"
	done
	bash_offers stats '' && grep -qx web "$dir/out" && grep -qx mail "$dir/out"
	result $? 'bash offers the machines that are there'
	bash_offers stats w && [ "$(cat "$dir/out")" = web ]
	result $? 'bash completes the name of a machine'
	bash_offers run --limit 1G -- qemu-system-of && [ "$(cat "$dir/out")" = qemu-system-of-the-test ]
	result $? 'bash completes the name of QEMU'
	bash_offers run --swap "$dir/ru" && [ "$(cat "$dir/out")" = "$dir/run" ]
	result $? 'bash completes a directory'
else
	count=$((count + 1))
	echo "ok $count - completion in bash # SKIP there is no bash"
fi

# Types into an interactive zsh and reads until it shows what is expected; ^X (\\x18) makes it show the line as it is then.
zsh_shows() { # KEYS PATTERN
	KEYS=$1 PATTERN=$2 FPATH_OF_TEST=$completion timeout 60 zsh -f -c '
		zmodload zsh/zpty
		zpty z zsh -f -i
		zpty -w z "PS1=; fpath=($FPATH_OF_TEST \$fpath); autoload -Uz compinit; compinit -u -D; shown() { print -r -- BUFFER=\$BUFFER=END }; zle -N shown; bindkey ^X shown; print TO_\BEGIN"
		zpty -r -m z shown "*TO_BEGIN*" || exit 1
		zpty -n -w z "$(print -- $KEYS)"
		zpty -r -m z shown "*$PATTERN*" || exit 1
		print -r -- $shown' >"$dir/out" 2>&1
}

if command -v zsh >/dev/null; then
	zsh_shows 'overbook sta\t\x18' 'BUFFER=overbook stats =END'
	result $? 'zsh completes a command'
	zsh_shows 'overbook \x04' 'doctor*limit*stats'
	result $? 'zsh lists the commands'
	zsh_shows 'overbook stats we\t\x18' 'BUFFER=overbook stats web =END'
	result $? 'zsh completes the name of a machine'
	zsh_shows 'overbook limit web --wa\t\x18' 'BUFFER=overbook limit web --wait =END'
	result $? 'zsh completes an option'
	ok=0
	for command in $commands; do
		for option in $(options_of "$command"); do
			awk -v command="$command" '$0 ~ "^\t\t(.* )?" command "( .*)?\\)" { on = 1 } on; /;;/ { on = 0 }' "$completion/_overbook" |
				grep -q -- "$option\[" || { ok=1; echo "# $command: not offered: $option"; }
		done
	done
	result $ok 'zsh knows all options'
	zsh_shows 'overbook run --limit 1G -- qemu-system-of\t\x18' 'qemu-system-of-the-test =END'
	result $? 'zsh completes the name of QEMU'
else
	count=$((count + 1))
	echo "ok $count - completion in zsh # SKIP there is no zsh"
fi
echo "1..$count"
