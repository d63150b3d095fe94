#!/usr/bin/env bash
# The main job, for a newcomer: a Debian, two linked commands, and pipelines in
# this checkout that mix host and guest. `make demo` has built everything; what
# is there already is not made again.
set -euo pipefail
cd "$(dirname "$0")/.."
stile=$PWD/bin/stile
links=${XDG_DATA_HOME:-$HOME/.local/share}/stile/bin

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }
show() { # a command line, and what it does
	printf '$ %s\n' "$1"
	PATH=$links:$PATH bash -c "$1"
}
ms() { date +%s%3N; }

if ! "$stile" list --json | grep -q '"name": *"debian"'; then
	say "Installing a Debian (once)"
	"$stile" install debian
fi
PATH=$links:$PATH "$stile" link -d debian grep git >/dev/null
case $PWD/ in "$HOME"/* | /tmp/*) ;; *) "$stile" share "$PWD" >/dev/null ;; esac

say "Cold and warm: the first command starts the machine, the next finds it"
"$stile" stop debian >/dev/null 2>&1 || true
t0=$(ms)
PATH=$links:$PATH grep --version | sed 1q
t1=$(ms)
PATH=$links:$PATH grep --version >/dev/null
t2=$(ms)
printf 'cold %d ms, warm %d ms\n' $((t1 - t0)) $((t2 - t1))

say "In this checkout, from the host's shell"
show 'git log --oneline | grep -c .'
show 'git status --short | head -5'
show 'grep -rn TODO . | head -5'
show "git ls-files | grep '\.go\$' | xargs cat | wc -l"

say "What ran where"
printf 'host:  %-28s %s\n' "$(uname -r)" "$(command -v head)"
printf 'guest: %-28s %s\n' "$("$stile" run -d debian uname -r)" "$(PATH=$links:$PATH bash -c 'command -v grep git' | paste -sd' ')"

say "To keep it, add this line to your shell's rc file"
case ${SHELL##*/} in
fish) echo "$stile init fish | source" ;;
zsh) echo "eval \"\$($stile init zsh)\"" ;;
*) echo "eval \"\$($stile init bash)\"" ;;
esac
